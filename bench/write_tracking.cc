// Two ways to learn which pages are in use: to have the kernel note writes (PAGEMAP_SCAN over
// memory write-protected with UFFD_FEATURE_WP_ASYNC, Linux 6.7), or to take a sample of pages away
// and see which are wanted back. What each costs the program, and whoever asks, for every GiB and
// round.
//   write_tracking [--mib N] [--rounds N] [--json FILE]
// Source: Documentation/admin-guide/mm/pagemap.rst, userfaultfd.rst.
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>
#include <vector>

#include "bench/machine.h"
#include "bench/samples.h"
#include "libzmem/base/clock.h"
#include "libzmem/base/kernel_abi.h"
#include "libzmem/base/page.h"
#include "libzmem/base/sys.h"
#include "tests/error.h"

// Linux 6.7; Debian 12's headers have neither.
#ifndef UFFD_FEATURE_WP_ASYNC
#define UFFD_FEATURE_WP_ASYNC (1 << 15)
#endif
#ifndef PM_SCAN_WP_MATCHING
#define PM_SCAN_WP_MATCHING (1 << 0)
#endif

namespace zmem {
namespace {

constexpr size_t kSamplePages = 16;

struct Options {
  size_t mib = 512;
  int rounds = 7;
  std::string json_path;
};

class Memory {
 public:
  explicit Memory(size_t bytes) : bytes_(bytes) {
    void* mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) throw HarnessError("mmap: out of memory");
    data_ = static_cast<volatile char*>(mapped);
    // A huge page would be split by either way.
    madvise(mapped, bytes, MADV_NOHUGEPAGE);
    Write();
  }
  ~Memory() { munmap(const_cast<char*>(data_), bytes_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  uint64_t start() const { return reinterpret_cast<uint64_t>(data_); }
  size_t bytes() const { return bytes_; }
  size_t pages() const { return bytes_ / kPageBytes; }
  // One byte of every page, in order.
  void Write() {
    for (size_t at = 0; at < bytes_; at += kPageBytes) data_[at] = static_cast<char>(at >> 12);
  }

 private:
  const size_t bytes_;
  volatile char* data_;
};

// A userfaultfd of `features`, which `memory` is registered with for faults of `mode`.
class Registered {
 public:
  Registered(const Memory& memory, uint64_t features, uint64_t mode) {
    fd_.reset(static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)));
    uffdio_api api{};
    api.api = UFFD_API;
    api.features = features;
    if (!fd_.valid() || ioctl(fd_.get(), UFFDIO_API, &api) != 0) {
      throw HarnessError("the kernel's userfaultfd lacks what is measured here (Linux 6.8 has it)");
    }
    uffdio_register range{};
    range.range = {memory.start(), memory.bytes()};
    range.mode = mode;
    if (ioctl(fd_.get(), UFFDIO_REGISTER, &range) != 0) {
      throw HarnessError("cannot register memory with userfaultfd");
    }
  }
  int fd() const { return fd_.get(); }

 private:
  UniqueFd fd_;
};

template <typename Work>
double TimeNs(Work work) {
  MonotonicClock clock;
  int64_t begin_ns = clock.now_ns();
  work();
  return static_cast<double>(clock.now_ns() - begin_ns);
}

// Notes, and protects again, what was written since the last call. Returns its pages.
uint64_t ScanWritten(int pagemap, const Memory& memory, std::vector<page_region>& regions) {
  uint64_t pages = 0;
  uint64_t at = memory.start();
  uint64_t end = memory.start() + memory.bytes();
  while (at < end) {
    pm_scan_arg scan{};
    scan.size = sizeof scan;
    scan.flags = PM_SCAN_WP_MATCHING;
    scan.start = at;
    scan.end = end;
    scan.vec = reinterpret_cast<uint64_t>(regions.data());
    scan.vec_len = regions.size();
    scan.category_mask = PAGE_IS_WRITTEN;
    scan.return_mask = PAGE_IS_WRITTEN;
    int found = ioctl(pagemap, PAGEMAP_SCAN, &scan);
    if (found < 0) throw HarnessError("PAGEMAP_SCAN fails");
    for (int i = 0; i < found; ++i) {
      const page_region& region = regions[static_cast<size_t>(i)];
      pages += (region.end - region.start) / kPageBytes;
    }
    at = scan.walk_end;
  }
  return pages;
}

// Microseconds; a page's are of the program's own time.
struct Costs {
  std::vector<double> plain_page, protected_page, scan_all_gib, scan_none_gib, sample_gib;
};

void MeasureWrites(const Options& options, Costs& costs) {
  Memory memory(options.mib << 20);
  UniqueFd pagemap(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
  Registered registered(memory, UFFD_FEATURE_WP_ASYNC, UFFDIO_REGISTER_MODE_WP);
  std::vector<page_region> regions(4096);
  double gib = static_cast<double>(memory.bytes()) / (1 << 30);
  auto pages = static_cast<double>(memory.pages());
  ScanWritten(pagemap.get(), memory, regions);
  for (int round = 0; round < options.rounds; ++round) {
    costs.protected_page.push_back(TimeNs([&] { memory.Write(); }) / pages / 1e3);
    costs.plain_page.push_back(TimeNs([&] { memory.Write(); }) / pages / 1e3);
    uint64_t found = 0;
    auto scan = [&] { found = ScanWritten(pagemap.get(), memory, regions); };
    costs.scan_all_gib.push_back(TimeNs(scan) / gib / 1e3);
    if (found != memory.pages()) throw HarnessError("a written page was not found");
    costs.scan_none_gib.push_back(TimeNs(scan) / gib / 1e3);
    if (found != 0) throw HarnessError("a page was found that was not written");
  }
}

// What taking the sample of every chunk costs, without what is wanted back.
void MeasureSamples(const Options& options, Costs& costs) {
  Memory memory(options.mib << 20);
  Memory staging(kChunkBytes);
  double gib = static_cast<double>(memory.bytes()) / (1 << 30);
  Registered registered(staging, 0, UFFDIO_REGISTER_MODE_MISSING);
  auto move = [&](uint64_t from, uint64_t to) {
    uffdio_move page{};
    page.dst = to;
    page.src = from;
    page.len = kPageBytes;
    if (ioctl(registered.fd(), UFFDIO_MOVE, &page) != 0) throw HarnessError("UFFDIO_MOVE fails");
  };
  constexpr uint64_t kStep = kChunkBytes / kSamplePages;
  for (int round = 0; round < options.rounds; ++round) {
    double total_ns = 0;
    for (uint64_t chunk = memory.start(); chunk < memory.start() + memory.bytes();
         chunk += kChunkBytes) {
      madvise(reinterpret_cast<void*>(staging.start()), staging.bytes(), MADV_DONTNEED);
      total_ns += TimeNs([&] {
        for (uint64_t at = 0; at < kChunkBytes; at += kStep) {
          move(chunk + at, staging.start() + at);
        }
      });
    }
    memory.Write();
    costs.sample_gib.push_back(total_ns / gib / 1e3);
  }
}

void Run(const Options& options) {
  Costs costs;
  MeasureWrites(options, costs);
  MeasureSamples(options, costs);
  PrintMachine();
  std::printf("input     %zu MiB in pages of 4 KiB; medians of %d rounds\n\n", options.mib,
              options.rounds);
  double plain = Median(costs.plain_page);
  double first_write = Median(costs.protected_page) - plain;
  constexpr double kPagesPerGib = 262'144;
  constexpr double kChunksPerGib = 512;
  // FACTS of the fault path: what a page costs its program that is wanted back.
  constexpr double kFaultUs = 10;
  std::printf("%-52s %12s\n", "writes noted by the kernel (WP_ASYNC)", "");
  std::printf("%-52s %12.3f us\n", "  first write to a page after a scan, added", first_write);
  std::printf("%-52s %12.0f us\n", "  the same for a GiB that is written all over",
              first_write * kPagesPerGib);
  std::printf("%-52s %12.0f us\n", "  scan of a GiB, all of it written",
              Median(costs.scan_all_gib));
  std::printf("%-52s %12.0f us\n", "  scan of a GiB, none of it written",
              Median(costs.scan_none_gib));
  std::printf("%-52s %12s\n", "16 pages of each chunk taken away", "");
  std::printf("%-52s %12.0f us\n", "  taking them, for a GiB", Median(costs.sample_gib));
  std::printf("%-52s %12.0f us\n", "  the most for a GiB: all are wanted back, 10 us each",
              Median(costs.sample_gib) + kChunksPerGib * kSamplePages * kFaultUs);
  WriteJson(options.json_path, {{"machine", Machine()},
                                {"first_write_us", first_write},
                                {"plain_write_us", plain},
                                {"scan_written_gib_us", Median(costs.scan_all_gib)},
                                {"scan_unwritten_gib_us", Median(costs.scan_none_gib)},
                                {"sample_gib_us", Median(costs.sample_gib)}});
}

int Main(int argc, char** argv) {
  Options options;
  CLI::App app("Measures what it costs to learn which pages are in use.");
  app.add_option("--mib", options.mib, "of memory")
      ->check(CLI::Range(4, 4096))
      ->capture_default_str();
  app.add_option("--rounds", options.rounds)->check(CLI::Range(1, 1000))->capture_default_str();
  app.add_option("--json", options.json_path, "also write the results here");
  CLI11_PARSE(app, argc, argv);
  try {
    Run(options);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "write_tracking: %s\n", error.what());
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace zmem

int main(int argc, char** argv) { return zmem::Main(argc, argv); }
