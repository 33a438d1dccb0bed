#include "bench/scale_program.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <ctime>
#include <mutex>
#include <nlohmann/json.hpp>
#include <numeric>
#include <thread>
#include <vector>

#include "bench/samples.h"
#include "bench/shared_array.h"
#include "libzmem/base/clock.h"
#include "tests/programs/command_loop.h"

namespace zmem {
namespace {

constexpr uint64_t kVersion = 1;

// A way through all of `pages` that comes to each once, and never to neighbours one after the
// other: multiples of what is next to the golden section of them and has no divisor in common.
class Walk {
 public:
  explicit Walk(uint64_t pages)
      : pages_(pages), step_(static_cast<uint64_t>(static_cast<double>(pages) * 0.618034) | 1) {
    while (std::gcd(step_, pages_) != 1) step_ += 2;
  }
  uint64_t At(uint64_t index) const {
    return static_cast<uint64_t>(static_cast<__uint128_t>(index) * step_ % pages_);
  }

 private:
  const uint64_t pages_;
  uint64_t step_;
};

void SleepUntil(int64_t monotonic_ns) {
  timespec until{monotonic_ns / 1'000'000'000, monotonic_ns % 1'000'000'000};
  clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, nullptr);
}

}  // namespace

// The threads, which wait between two rounds of touches, and what a round measures.
class ScaleProgram::Toucher {
 public:
  Toucher(const Options& options, const PatternRegion& region)
      : region_(region), options_(options), taken_ns_(SharedArray<uint32_t>(options.pages)) {
    for (unsigned i = 0; i < options.threads; ++i) threads_.emplace_back([this] { Live(); });
  }
  ~Toucher() {
    {
      std::lock_guard lock(mutex_);
      ending_ = true;
    }
    changed_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  // One round, over the first `pages`.
  std::string Touch(uint64_t pages, double touches_per_s) {
    std::unique_lock lock(mutex_);
    pages_ = pages;
    pause_ns_ = touches_per_s > 0 ? 1e9 / touches_per_s : 0;
    next_ = 0;
    wrong_page_ = kNone;
    start_ns_ = clock_.now_ns();
    end_ns_ = start_ns_ + static_cast<int64_t>(options_.seconds * 1e9);
    working_ = threads_.size();
    ++round_;
    changed_.notify_all();
    changed_.wait(lock, [this] { return working_ == 0; });
    int64_t elapsed_ns = clock_.now_ns() - start_ns_;
    if (wrong_page_ != kNone) return region_.Describe(wrong_page_, kVersion);
    // Each thread has drawn a last number, which told it that the round is over.
    uint64_t touches = next_ - threads_.size();
    std::vector<int64_t> sorted(taken_ns_, taken_ns_ + touches);
    std::sort(sorted.begin(), sorted.end());
    nlohmann::json result = {{"touches", touches},
                             {"elapsed_s", static_cast<double>(elapsed_ns) / 1e9},
                             {"p50_ns", Percentile(sorted, 50)},
                             {"p99_ns", Percentile(sorted, 99)},
                             {"max_ns", Percentile(sorted, 100)}};
    return result.dump();
  }

 private:
  static constexpr uint64_t kNone = ~uint64_t{0};

  void Live() {
    uint64_t round = 0;
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [&] { return ending_ || round_ != round; });
      if (ending_) return;
      round = round_;
      lock.unlock();
      Work();
      lock.lock();
      if (--working_ == 0) changed_.notify_all();
    }
  }

  void Work() {
    Walk walk(pages_);
    for (;;) {
      uint64_t index = next_++;
      int64_t due_ns = start_ns_ + static_cast<int64_t>(static_cast<double>(index) * pause_ns_);
      if (index >= pages_ || std::max(due_ns, clock_.now_ns()) >= end_ns_) return;
      if (due_ns > clock_.now_ns()) SleepUntil(due_ns);
      uint64_t page = walk.At(index);
      int64_t before_ns = clock_.now_ns();
      static_cast<void>(*const_cast<volatile std::byte*>(region_.page(page)));
      taken_ns_[index] = static_cast<uint32_t>(clock_.now_ns() - before_ns);
      if (!VerifyPage(region_.page(page), page, kVersion)) wrong_page_ = page;
    }
  }

  const PatternRegion& region_;
  const Options& options_;
  MonotonicClock clock_;
  uint32_t* const taken_ns_;  // by the order of the touches
  std::mutex mutex_;
  std::condition_variable changed_;
  // Of the round that is under way; set before it begins.
  uint64_t round_ = 0;
  uint64_t pages_ = 0;
  double pause_ns_ = 0;
  int64_t start_ns_ = 0;
  int64_t end_ns_ = 0;
  size_t working_ = 0;
  bool ending_ = false;
  std::atomic<uint64_t> next_{0};
  std::atomic<uint64_t> wrong_page_{kNone};
  std::vector<std::thread> threads_;
};

ScaleProgram::ScaleProgram(const Options& options)
    : options_(options), region_(options.pages, PageContent::kThin) {
  // Pages go out and come back one by one, whatever the machine does with huge ones.
  madvise(region_.page(0), region_.pages() * kPageBytes, MADV_NOHUGEPAGE);
}

int ScaleProgram::Serve() {
  Toucher toucher(options_, region_);
  return ServeCommands({
      {"fill", [this] { return Fill(); }},
      {"touch", [&] { return toucher.Touch(filled_, options_.touches_per_s); }},
      {"flood", [&] { return toucher.Touch(filled_, 0); }},
      {"verify", [this] { return Verify(); }},
  });
}

std::string ScaleProgram::Fill() {
  uint64_t end = std::min(filled_ + options_.slice_pages, region_.pages());
  for (; filled_ < end; ++filled_) {
    FillPage(region_.page(filled_), filled_, kVersion, region_.content());
  }
  return "ok";
}

std::string ScaleProgram::Verify() const {
  constexpr uint64_t kMost = 16'384;
  uint64_t step = std::max<uint64_t>(filled_ / kMost, 1);
  for (uint64_t page = 0; page < filled_; page += step) {
    if (!VerifyPage(region_.page(page), page, kVersion)) return region_.Describe(page, kVersion);
  }
  return "ok";
}

}  // namespace zmem
