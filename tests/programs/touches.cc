// Subject program: threads that read, verify and rewrite the pages of one region, at random and in
// sequence, while somebody else takes the pages out. A page that is not the last one written there
// ends it with a message and exit code 1.
//   touches --mib N --threads N --seconds N --seed N
// What is expected lives in shared memory, which zmem does not manage.
#include <sys/mman.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <chrono>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "tests/programs/command_loop.h"
#include "tests/programs/pattern_region.h"

namespace zmem {
namespace {

// The version that a page must have, and who is at it: any number of readers or one writer. Nobody
// ever waits for a page; who finds it busy goes to another, so several threads often wait for the
// same missing page, but never for each other.
class ExpectedPage {
 public:
  bool TryRead() {
    uint64_t seen = state_.load(std::memory_order_relaxed);
    return (seen & kWriter) == 0 &&
           state_.compare_exchange_strong(seen, seen + kReader, std::memory_order_acquire);
  }
  void DoneReading() { state_.fetch_sub(kReader, std::memory_order_release); }

  bool TryWrite() {
    uint64_t seen = state_.load(std::memory_order_relaxed);
    return (seen & kBusy) == 0 &&
           state_.compare_exchange_strong(seen, seen | kWriter, std::memory_order_acquire);
  }
  void DoneWriting(uint64_t version) {
    state_.store(version << kVersionShift, std::memory_order_release);
  }

  uint64_t version() const { return state_.load(std::memory_order_relaxed) >> kVersionShift; }

 private:
  static constexpr unsigned kVersionShift = 16;
  static constexpr uint64_t kBusy = 0xffff;
  static constexpr uint64_t kWriter = 1;
  static constexpr uint64_t kReader = 2;

  std::atomic<uint64_t> state_{0};
};

struct Counts {
  uint64_t reads = 0;
  uint64_t writes = 0;
  uint64_t busy = 0;
};

class Subject {
 public:
  explicit Subject(size_t pages) : region_(pages, PageContent::kCompressible) {
    void* shared = mmap(nullptr, pages * sizeof(ExpectedPage), PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) {
      std::perror("mmap");
      std::exit(2);
    }
    expected_ = static_cast<ExpectedPage*>(shared);
    region_.Fill(0);
  }

  // One thread's work until `deadline`: runs of pages, in sequence or all over the place.
  Counts Work(uint64_t seed, std::chrono::steady_clock::time_point deadline) {
    constexpr uint64_t kRunPages = 4096;
    Counts counts;
    std::mt19937_64 random(seed);
    while (std::chrono::steady_clock::now() < deadline && !failed_) {
      uint64_t start = random() % region_.pages();
      bool sequential = random() % 2 == 0;
      for (uint64_t step = 0; step < kRunPages && !failed_; ++step) {
        uint64_t number = (sequential ? start + step : random()) % region_.pages();
        if (random() % 4 == 0) {
          Rewrite(number, counts);
        } else {
          Read(number, counts);
        }
      }
    }
    return counts;
  }

  // After the threads: every page once more.
  void VerifyAll() {
    for (uint64_t number = 0; number < region_.pages(); ++number) {
      uint64_t version = expected_[number].version();
      if (!VerifyPage(region_.page(number), number, version)) Fail(number, version);
    }
  }

  bool failed() const { return failed_; }

 private:
  void Read(uint64_t number, Counts& counts) {
    ExpectedPage& expected = expected_[number];
    if (!expected.TryRead()) {
      ++counts.busy;
      return;
    }
    uint64_t version = expected.version();
    if (!VerifyPage(region_.page(number), number, version)) Fail(number, version);
    expected.DoneReading();
    ++counts.reads;
  }

  // Half of the rewrites look at the old page first; the others go straight over a missing page.
  void Rewrite(uint64_t number, Counts& counts) {
    ExpectedPage& expected = expected_[number];
    if (!expected.TryWrite()) {
      ++counts.busy;
      return;
    }
    uint64_t version = expected.version();
    if (version % 2 == 0 && !VerifyPage(region_.page(number), number, version)) {
      Fail(number, version);
    }
    FillPage(region_.page(number), number, version + 1);
    expected.DoneWriting(version + 1);
    ++counts.writes;
  }

  void Fail(uint64_t number, uint64_t version) {
    Answer(region_.Describe(number, version));
    failed_ = true;
  }

  PatternRegion region_;
  ExpectedPage* expected_;
  std::atomic<bool> failed_{false};
};

}  // namespace
}  // namespace zmem

int main(int argc, char** argv) {
  size_t mib = 512;
  unsigned thread_count = 4;
  unsigned run_seconds = 60;
  uint64_t seed = 1;
  CLI::App app("Touches pages from several threads and verifies each.");
  app.add_option("--mib", mib, "size of the region");
  app.add_option("--threads", thread_count, "touching threads");
  app.add_option("--seconds", run_seconds, "how long");
  app.add_option("--seed", seed, "of the choice of pages");
  CLI11_PARSE(app, argc, argv);

  zmem::Subject subject((mib << 20) / zmem::kPageBytes);
  zmem::Answer("ready");
  std::string line;
  if (!std::getline(std::cin, line)) return 2;

  auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(run_seconds);
  std::vector<zmem::Counts> counts(thread_count);
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < thread_count; ++i) {
    threads.emplace_back([&, i] { counts[i] = subject.Work(seed * 1000 + i, deadline); });
  }
  for (std::thread& thread : threads) thread.join();
  subject.VerifyAll();

  zmem::Counts total;
  for (const zmem::Counts& one : counts) {
    total.reads += one.reads;
    total.writes += one.writes;
    total.busy += one.busy;
  }
  std::printf("%s %llu reads, %llu writes, %llu busy\n", subject.failed() ? "failed after" : "ok",
              static_cast<unsigned long long>(total.reads),
              static_cast<unsigned long long>(total.writes),
              static_cast<unsigned long long>(total.busy));
  return subject.failed() ? 1 : 0;
}
