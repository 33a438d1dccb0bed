// What the bare system calls allow: ways in which a handler can wait for faults and be placed, with
// nothing around them but LZ4, on the pages of bench/versus_kernel, beside the kernel's zram in the
// same run. No program's refault over userfaultfd can be faster than the best of these.
//   fault_ways [--mib N] [--repetitions N] [--idle-polling] [--json FILE]
#include <liburing.h>
#include <lz4.h>
#include <poll.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_format.h"
#include "bench/bare_calls.h"
#include "bench/machine.h"
#include "bench/run.h"
#include "bench/samples.h"
#include "bench/shared_array.h"
#include "bench/stamped_pages.h"
#include "bench/zram_swap.h"
#include "libzmem/base/clock.h"
#include "libzmem/base/cpu_latency.h"
#include "libzmem/base/kernel_abi.h"
#include "libzmem/fault/cpu_follower.h"

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21  // Linux 5.4
#endif

namespace zmem {
namespace {

struct Options {
  uint32_t mib = 64;
  int repetitions = 5;
  bool idle_polling = false;
  std::string json_path;
};

enum class Wait { kRead, kPoll, kEpoll, kSpin, kRing };
enum class Place {
  kFree,      // the scheduler's
  kTogether,  // handler and toucher on one CPU, both pinned
  kApart,     // each pinned to its own
  kFollow,    // the handler pins itself to where the toucher last ran
  kEach,      // handler i on CPU i, touchers free
};
enum class Class { kNormal, kIdle, kIdleToFill };

struct Way {
  const char* what;
  Wait wait = Wait::kPoll;
  Place place = Place::kFollow;
  Class sched = Class::kNormal;
  int handlers = 1;
  bool split = false;       // a userfaultfd for each handler, with its share of the region
  size_t messages = 32;     // read at a time
  bool two_threads = true;  // whether it makes sense with two touchers
};

constexpr Way kWays[] = {
    {"blocking read, placed by the scheduler", Wait::kRead, Place::kFree},
    {"blocking read, both on one CPU", Wait::kRead, Place::kTogether, Class::kNormal, 1, false, 32,
     false},
    {"poll, both on one CPU", Wait::kPoll, Place::kTogether, Class::kNormal, 1, false, 32, false},
    {"io_uring, both on one CPU", Wait::kRing, Place::kTogether, Class::kNormal, 1, false, 32,
     false},
    {"poll, each on its own CPU", Wait::kPoll, Place::kApart, Class::kNormal, 1, false, 32, false},
    {"spinning on another CPU", Wait::kSpin, Place::kApart, Class::kNormal, 1, false, 32, false},
    {"poll, following (as zmemd does)"},
    {"poll, following, one message a read", Wait::kPoll, Place::kFollow, Class::kNormal, 1, false,
     1},
    {"epoll, following", Wait::kEpoll},
    {"poll, following, SCHED_IDLE", Wait::kPoll, Place::kFollow, Class::kIdle},
    {"poll, following, SCHED_IDLE to fill", Wait::kPoll, Place::kFollow, Class::kIdleToFill},
    {"a handler for each CPU, blocking read", Wait::kRead, Place::kEach, Class::kNormal, 2},
    {"a handler for each CPU, EPOLLEXCLUSIVE", Wait::kEpoll, Place::kEach, Class::kNormal, 2},
    {"two descriptors, a handler each", Wait::kPoll, Place::kFree, Class::kNormal, 2, true},
};

void SetClass(int policy) {
  sched_param none{};
  sched_setscheduler(0, policy, &none);
}

// A page's stored form.
using Form = std::vector<char>;

class Handler {
 public:
  Handler(const Way& way, std::byte* region, const std::vector<Form>& forms, pid_t program)
      : way_(way), region_(region), forms_(forms), program_(program) {}

  // The thread's body; never returns.
  void Serve(int fd, int index) {
    if (way_.place == Place::kApart) Pin(1);
    if (way_.place == Place::kTogether) Pin(0);
    if (way_.place == Place::kEach) Pin(index);
    if (way_.sched == Class::kIdle) SetClass(SCHED_IDLE);
    Buffer buffer;
    CpuFollower follower;
    MonotonicClock clock;
    UniqueFd epoll;
    if (way_.wait == Wait::kEpoll) {
      epoll.reset(epoll_create1(EPOLL_CLOEXEC));
      epoll_event event{};
      event.events = EPOLLIN;
      if (way_.handlers > 1) event.events |= EPOLLEXCLUSIVE;
      epoll_ctl(epoll.get(), EPOLL_CTL_ADD, fd, &event);
    }
    io_uring ring{};
    if (way_.wait == Wait::kRing) {
      io_uring_params params{};
      params.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;
      if (io_uring_queue_init_params(8, &ring, &params) != 0) Fail("io_uring");
      io_uring_register_ring_fd(&ring);
    }
    std::array<uffd_msg, 32> messages;
    while (true) {
      Await(fd, epoll.get());
      ssize_t got = way_.wait == Wait::kRing
                        ? ReadByRing(ring, fd, messages.data(), way_.messages * sizeof(uffd_msg))
                        : read(fd, messages.data(), way_.messages * sizeof(uffd_msg));
      for (ssize_t at = 0; at < got / static_cast<ssize_t>(sizeof(uffd_msg)); ++at) {
        const uffd_msg& message = messages[static_cast<size_t>(at)];
        Fill(fd, message.arg.pagefault.address, buffer);
        if (way_.place == Place::kFollow) {
          auto thread = static_cast<pid_t>(message.arg.pagefault.feat.ptid);
          follower.OnFault(program_, thread, clock.now_ns());
        }
      }
    }
  }

  // Fills pages [first, end) in batches, every other of `index`, as if all had been asked for.
  void FillAll(int fd, size_t index, size_t pages) {
    constexpr size_t kBatch = 64;
    std::vector<std::byte> bytes(kBatch * kPageBytes);
    for (size_t first = index * kBatch; first < pages; first += 2 * kBatch) {
      size_t end = std::min(first + kBatch, pages);
      for (size_t page = first; page < end; ++page) {
        Decode(page, bytes.data() + (page - first) * kPageBytes);
      }
      CopyPages(fd, region_ + first * kPageBytes, bytes.data(), end - first);
    }
  }

 private:
  struct alignas(kPageBytes) Buffer {
    std::array<std::byte, kPageBytes> bytes;
  };

  void Await(int fd, int epoll) {
    epoll_event event;
    pollfd poll_fd{fd, POLLIN, 0};
    if (way_.wait == Wait::kPoll) poll(&poll_fd, 1, -1);
    if (way_.wait == Wait::kEpoll) epoll_wait(epoll, &event, 1, -1);
  }

  static ssize_t ReadByRing(io_uring& ring, int fd, void* buffer, size_t bytes) {
    io_uring_sqe* sqe = io_uring_get_sqe(&ring);
    io_uring_prep_read(sqe, fd, buffer, static_cast<unsigned>(bytes), 0);
    io_uring_submit_and_wait(&ring, 1);
    io_uring_cqe* cqe = nullptr;
    if (io_uring_wait_cqe(&ring, &cqe) != 0) Fail("io_uring");
    ssize_t got = cqe->res;
    io_uring_cqe_seen(&ring, cqe);
    return got;
  }

  void Decode(size_t page, std::byte* bytes) {
    const Form& form = forms_[page];
    LZ4_decompress_safe(form.data(), reinterpret_cast<char*>(bytes), static_cast<int>(form.size()),
                        kPageBytes);
  }

  void Fill(int fd, Address address, Buffer& buffer) {
    size_t page = (address - reinterpret_cast<Address>(region_)) >> kPageShift;
    Decode(page, buffer.bytes.data());
    if (way_.sched == Class::kIdleToFill) SetClass(SCHED_IDLE);
    CopyPages(fd, region_ + page * kPageBytes, buffer.bytes.data(), 1);
    if (way_.sched == Class::kIdleToFill) SetClass(SCHED_OTHER);
  }

  const Way& way_;
  std::byte* const region_;
  const std::vector<Form>& forms_;
  const pid_t program_;
};

double ThreadCpuSeconds() {
  timespec used{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
  return static_cast<double>(used.tv_sec) + static_cast<double>(used.tv_nsec) / 1e9;
}

// The program: its pages, and what touching them costs.
class Toucher {
 public:
  explicit Toucher(uint32_t pages)
      : pages_(pages), stamped_(pages), order_(pages), taken_ns_(SharedArray<uint32_t>(pages)) {
    stamped_.Fill();
    std::iota(order_.begin(), order_.end(), 0u);
    std::shuffle(order_.begin(), order_.end(), std::mt19937_64(1));
    forms_.reserve(pages);
    for (uint32_t page = 0; page < pages; ++page) forms_.push_back(Compressed(page));
  }

  std::byte* data() const { return stamped_.data(); }
  size_t bytes() const { return size_t{pages_} * kPageBytes; }
  uint32_t pages() const { return pages_; }
  const std::vector<Form>& forms() const { return forms_; }

  Form Compressed(uint32_t page) const {
    Form form(LZ4_COMPRESSBOUND(kPageBytes));
    const char* bytes = reinterpret_cast<const char*>(data() + size_t{page} * kPageBytes);
    int size = LZ4_compress_default(bytes, form.data(), kPageBytes, static_cast<int>(form.size()));
    form.resize(static_cast<size_t>(size));
    return form;
  }

  // Every page in random order, by so many threads. Returns pages a second.
  double TouchAtRandom(int threads) {
    MonotonicClock clock;
    int64_t start_ns = clock.now_ns();
    std::vector<std::thread> others;
    for (int i = 1; i < threads; ++i) others.emplace_back([&, i] { TouchEvery(i, threads); });
    TouchEvery(0, threads);
    for (std::thread& other : others) other.join();
    return pages_ * 1e9 / static_cast<double>(clock.now_ns() - start_ns);
  }
  // In order. Returns GiB a second.
  double TouchInOrder() {
    MonotonicClock clock;
    int64_t start_ns = clock.now_ns();
    for (uint32_t page = 0; page < pages_; ++page) Touch(page);
    return static_cast<double>(bytes()) / static_cast<double>(clock.now_ns() - start_ns) * 1e9 /
           (1 << 30);
  }
  // Of the last TouchAtRandom, in µs.
  double Microseconds(double percent) const {
    std::vector<int64_t> sorted(taken_ns_, taken_ns_ + pages_);
    std::sort(sorted.begin(), sorted.end());
    return static_cast<double>(Percentile(sorted, percent)) / 1e3;
  }

 private:
  void Touch(uint32_t page) {
    static_cast<void>(*static_cast<const volatile std::byte*>(data() + size_t{page} * kPageBytes));
    if (!stamped_.Right(page, page)) throw HarnessError(stamped_.Describe(page));
  }
  void TouchEvery(int first, int step) {
    MonotonicClock clock;
    for (auto at = static_cast<size_t>(first); at < order_.size();
         at += static_cast<size_t>(step)) {
      int64_t before_ns = clock.now_ns();
      Touch(order_[at]);
      taken_ns_[at] = static_cast<uint32_t>(clock.now_ns() - before_ns);
    }
  }

  const uint32_t pages_;
  StampedPages stamped_;
  std::vector<uint32_t> order_;
  std::vector<Form> forms_;
  uint32_t* taken_ns_;
};

// The medians are of the runs, by turns.
struct Figures {
  std::vector<double> p50_us;
  std::vector<double> p99_us;
  std::vector<double> two_per_s;
};

class Bench {
 public:
  explicit Bench(const Options& options)
      : options_(options), toucher_(options.mib << (20 - kPageShift)) {}

  void Run() {
    why_no_zram_ = ZramSwap::WhyUnavailable();
    for (int repetition = 0; repetition < options_.repetitions; ++repetition) {
      for (size_t i = 0; i < std::size(kWays); ++i) {
        std::fprintf(stderr, "\rfault_ways: repetition %d of %d, way %zu of %zu ", repetition + 1,
                     options_.repetitions, i + 1, std::size(kWays));
        MeasureWay(kWays[i], ways_[i]);
      }
      in_order_per_s_.push_back(InOrder());
      evicted_per_s_.push_back(Evict());
      if (why_no_zram_.empty()) MeasureZram();
    }
    std::fprintf(stderr, "\r%60s\r", "");
  }

  void Print() const {
    PrintMachine();
    std::printf("input     %u pages of 4 KiB; %d runs by turns, medians", toucher_.pages(),
                options_.repetitions);
    std::printf(why_no_zram_.empty() ? "; in parentheses: of zram's\n\n" : "\nzram      %s\n\n",
                why_no_zram_.c_str());
    std::printf("%-40s %16s %16s %20s\n", "handler", "p50 µs", "p99 µs", "two threads, 1/s");
    for (size_t i = 0; i < std::size(kWays); ++i) {
      const Figures& way = ways_[i];
      PrintRow(kWays[i].what, {Cell(way.p50_us, zram_.p50_us), Cell(way.p99_us, zram_.p99_us),
                               Cell(way.two_per_s, zram_.two_per_s)});
    }
    PrintRow("zram", {Cell(zram_.p50_us, {}), Cell(zram_.p99_us, {}), Cell(zram_.two_per_s, {})});
    std::printf("\n%-40s %16s %16s\n", "", "bare calls", "zram");
    std::printf("%-40s %16s %16s\n", "in order, decoded by two threads, GiB/s",
                Cell(in_order_per_s_, zram_in_order_per_s_).c_str(),
                Cell(zram_in_order_per_s_, {}).c_str());
    std::printf("%-40s %16s %16s\n", "eviction, pages a second of CPU",
                Cell(evicted_per_s_, zram_evicted_per_s_).c_str(),
                Cell(zram_evicted_per_s_, {}).c_str());
  }

  nlohmann::json Json() const {
    nlohmann::json ways = nlohmann::json::array();
    for (size_t i = 0; i < std::size(kWays); ++i) {
      ways.push_back({{"way", kWays[i].what}, {"figures", AsJson(ways_[i])}});
    }
    return {{"benchmark", "fault_ways"},
            {"machine", Machine()},
            {"pages", toucher_.pages()},
            {"idle_polling", options_.idle_polling},
            {"ways", ways},
            {"in_order_gib_per_s", in_order_per_s_},
            {"evicted_pages_per_cpu_s", evicted_per_s_},
            {"zram",
             {{"figures", AsJson(zram_)},
              {"in_order_gib_per_s", zram_in_order_per_s_},
              {"evicted_pages_per_cpu_s", zram_evicted_per_s_},
              {"not_measured", why_no_zram_}}}};
  }

 private:
  static nlohmann::json AsJson(const Figures& figures) {
    return {{"p50_us", figures.p50_us},
            {"p99_us", figures.p99_us},
            {"two_threads_per_s", figures.two_per_s}};
  }

  static std::string Cell(const std::vector<double>& runs, const std::vector<double>& of) {
    if (runs.empty()) return "-";
    double median = Median(runs);
    std::string figure =
        median >= 1000 ? absl::StrFormat("%.0f", median) : absl::StrFormat("%.3g", median);
    return of.empty() ? figure : absl::StrFormat("%s (%.2f)", figure, median / Median(of));
  }
  static void PrintRow(const char* what, const std::array<std::string, 3>& cells) {
    std::printf("%-40s %16s %16s %20s\n", what, cells[0].c_str(), cells[1].c_str(),
                cells[2].c_str());
  }

  void MeasureWay(const Way& way, Figures& figures) {
    Touch(way, 1);
    figures.p50_us.push_back(toucher_.Microseconds(50));
    figures.p99_us.push_back(toucher_.Microseconds(99));
    if (way.two_threads) figures.two_per_s.push_back(Touch(way, 2));
  }

  void Drop() { madvise(toucher_.data(), toucher_.bytes(), MADV_DONTNEED); }

  double Touch(const Way& way, int threads) {
    Drop();
    size_t parts = way.split ? static_cast<size_t>(way.handlers) : 1;
    std::vector<UniqueFd> fds;
    for (size_t i = 0; i < parts; ++i) fds.push_back(OpenUserfaultfd(way.wait == Wait::kRead));
    pid_t program = getpid();
    Forked handlers([&] {
      Handler handler(way, toucher_.data(), toucher_.forms(), program);
      std::vector<std::thread> served;
      for (int i = 0; i < way.handlers; ++i) {
        int fd = fds[static_cast<size_t>(i) % parts].get();
        served.emplace_back([&handler, fd, i] { handler.Serve(fd, i); });
      }
      for (std::thread& thread : served) thread.join();
    });
    size_t share = toucher_.bytes() / parts;
    for (size_t i = 0; i < parts; ++i) Register(fds[i].get(), toucher_.data() + i * share, share);
    bool is_pinned = way.place == Place::kTogether || way.place == Place::kApart;
    Pin(is_pinned ? std::optional(0) : std::nullopt);
    double per_s = toucher_.TouchAtRandom(threads);
    Pin(std::nullopt);
    return per_s;
  }

  // Two threads bring everything, batch by batch, and nobody waits for a page: the most that
  // reading ahead could do. Returns GiB a second.
  double InOrder() {
    Drop();
    UniqueFd fd = OpenUserfaultfd(false);
    pid_t program = getpid();
    Register(fd.get(), toucher_.data(), toucher_.bytes());
    Forked filling([&] {
      MonotonicClock clock;
      int64_t start_ns = clock.now_ns();
      Handler handler(kWays[0], toucher_.data(), toucher_.forms(), program);
      std::thread second([&] { handler.FillAll(fd.get(), 1, toucher_.pages()); });
      handler.FillAll(fd.get(), 0, toucher_.pages());
      second.join();
      *filled_ns_ = clock.now_ns() - start_ns;
    });
    filling.Wait();
    toucher_.TouchInOrder();
    double taken_ns = static_cast<double>(*filled_ns_);
    return static_cast<double>(toucher_.bytes()) / taken_ns * 1e9 / (1 << 30);
  }

  // Pages a second of CPU time: moved out 512 at a time, compressed, dropped.
  double Evict() {
    constexpr size_t kBatchBytes = 512 * kPageBytes;
    UniqueFd fd = OpenUserfaultfd(false);
    void* mapping =
        mmap(nullptr, kBatchBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapping == MAP_FAILED) Fail("mmap");
    auto* staging = static_cast<std::byte*>(mapping);
    Register(fd.get(), staging, kBatchBytes);
    char form[LZ4_COMPRESSBOUND(kPageBytes)];
    double before_s = ThreadCpuSeconds();
    for (size_t at = 0; at < toucher_.bytes(); at += kBatchBytes) {
      uffdio_move move{};
      move.dst = reinterpret_cast<uint64_t>(staging);
      move.src = reinterpret_cast<uint64_t>(toucher_.data() + at);
      move.len = kBatchBytes;
      if (ioctl(fd.get(), UFFDIO_MOVE, &move) != 0) Fail("UFFDIO_MOVE");
      for (size_t page = 0; page < kBatchBytes; page += kPageBytes) {
        LZ4_compress_default(reinterpret_cast<char*>(staging) + page, form, kPageBytes,
                             sizeof form);
      }
      madvise(staging, kBatchBytes, MADV_DONTNEED);
    }
    double taken_s = ThreadCpuSeconds() - before_s;
    munmap(staging, kBatchBytes);
    Refill();
    return toucher_.pages() / taken_s;
  }

  // What was moved away is put back, by what the handlers have.
  void Refill() {
    for (uint32_t page = 0; page < toucher_.pages(); ++page) {
      const Form& form = toucher_.forms()[page];
      LZ4_decompress_safe(form.data(),
                          reinterpret_cast<char*>(toucher_.data()) + size_t{page} * kPageBytes,
                          static_cast<int>(form.size()), kPageBytes);
    }
  }

  void MeasureZram() {
    ZramSwap swap(uint64_t{options_.mib} << 21);  // twice the region
    zram_evicted_per_s_.push_back(PageOut());
    toucher_.TouchAtRandom(1);
    zram_.p50_us.push_back(toucher_.Microseconds(50));
    zram_.p99_us.push_back(toucher_.Microseconds(99));
    PageOut();
    zram_.two_per_s.push_back(toucher_.TouchAtRandom(2));
    PageOut();
    zram_in_order_per_s_.push_back(toucher_.TouchInOrder());
  }

  // Of pages that swap has no copy of.
  double PageOut() {
    Drop();
    Refill();
    double before_s = ThreadCpuSeconds();
    if (madvise(toucher_.data(), toucher_.bytes(), MADV_PAGEOUT) != 0) Fail("MADV_PAGEOUT");
    return toucher_.pages() / (ThreadCpuSeconds() - before_s);
  }

  const Options options_;
  Toucher toucher_;
  int64_t* const filled_ns_ = SharedArray<int64_t>(1);  // by the forked filler
  std::string why_no_zram_;
  std::array<Figures, std::size(kWays)> ways_;
  Figures zram_;
  std::vector<double> in_order_per_s_;
  std::vector<double> evicted_per_s_;
  std::vector<double> zram_in_order_per_s_;
  std::vector<double> zram_evicted_per_s_;
};

int Main(const Options& options) {
  return RunBench("fault_ways", [&] {
    MonotonicClock clock;
    CpuLatency cpu_latency(clock, {.most_holders = 1});
    CpuLatency::Hold hold;
    if (options.idle_polling) {
      hold = cpu_latency.Begin();
      if (!hold.valid()) {
        throw HarnessError(
            "--idle-polling takes write access to /dev/cpu_dma_latency: try as root");
      }
    }
    Bench bench(options);
    bench.Run();
    bench.Print();
    if (!options.json_path.empty()) WriteJson(options.json_path, bench.Json());
  });
}

}  // namespace
}  // namespace zmem

int main(int argc, char** argv) {
  zmem::Options options;
  CLI::App app("Measures what the bare system calls of a refault cost, beside the kernel's zram.");
  app.add_option("--mib", options.mib, "memory that is touched")
      ->check(CLI::Range(2u, 1024u))
      ->capture_default_str();
  app.add_option("--repetitions", options.repetitions, "runs of each way")
      ->check(CLI::Range(1, 100))
      ->capture_default_str();
  app.add_flag("--idle-polling", options.idle_polling,
               "no idle CPU sleeps meanwhile, as zmemd sees to it where faults follow each other");
  app.add_option("--json", options.json_path, "also write the results here");
  CLI11_PARSE(app, argc, argv);
  return zmem::Main(options);
}
