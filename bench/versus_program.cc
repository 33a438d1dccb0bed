#include "bench/versus_program.h"

#include <sys/mman.h>
#include <sys/prctl.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "libzmem/base/clock.h"
#include "libzmem/uffd/address_map.h"
#include "tests/programs/command_loop.h"

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21  // Linux 5.4
#endif

namespace zmem {
namespace {

// The clock is looked at so often where an operation may be shorter than that.
constexpr uint64_t kOperationsALook = 16;
constexpr uint32_t kSomeStep = 8;
// A scan that does not get through its memory by then is measured as far as it has come.
constexpr int64_t kLongestScanNs = 20'000'000'000;

void SleepUntil(int64_t time_ns) {
  timespec time{.tv_sec = time_ns / 1'000'000'000, .tv_nsec = time_ns % 1'000'000'000};
  clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, nullptr);
}

// Runs `work` with 0 .. count-1, each in a thread of its own, which begin together when all are
// there. Returns the time from then to the end of the last.
template <typename Work>
int64_t InThreads(int count, Work work) {
  std::atomic<int> ready = 0;
  std::atomic<bool> begun = false;
  std::vector<std::thread> threads;
  for (int i = 0; i < count; ++i) {
    threads.emplace_back([&, i] {
      ++ready;
      begun.wait(false);
      work(i);
    });
  }
  while (ready < count) std::this_thread::yield();
  MonotonicClock clock;
  int64_t start_ns = clock.now_ns();
  begun = true;
  begun.notify_all();
  for (std::thread& thread : threads) thread.join();
  return clock.now_ns() - start_ns;
}

}  // namespace

VersusProgram::VersusProgram(const Options& options)
    : options_(options),
      pages_(options.pages),
      order_(SharedArray<uint32_t>(options.pages)),
      taken_ns_(SharedArray<uint32_t>(options.pages)),
      resident_(SharedArray<unsigned char>(options.pages)),
      random_(options.seed) {}

int VersusProgram::Serve() {
  return ServeCommands({
      {"fill", [this] { return Fill(); }},
      {"rewrite", [this] { return Rewrite(); }},
      {"page out", [this] { return PageOut(); }},
      {"one", [this] { return TouchOut(true, 1, true); }},
      {"threads", [this] { return TouchOut(true, options_.threads, false); }},
      {"sequential", [this] { return TouchOut(false, 1, false); }},
      {"paced", [this] { return TouchPaced(); }},
      {"scan", [this] { return Scan(); }},
      {"random", [this] { return Random(); }},
      {"random bare", [this] { return RandomBare(); }},
      {"resident", [this] { return CountResident(); }},
      {"verify",
       [this] {
         std::string wrong = pages_.Verify();
         return wrong.empty() ? "ok" : wrong;
       }},
      {"verify some", [this] { return VerifySome(); }},
  });
}

std::string VersusProgram::Fill() {
  MonotonicClock clock;
  int64_t start_ns = clock.now_ns();
  pages_.Fill();
  return Result(options_.pages, clock.now_ns() - start_ns);
}

std::string VersusProgram::Rewrite() {
  for (uint32_t page = 0; page < options_.pages; ++page) pages_.Write(page);
  return "ok";
}

std::string VersusProgram::PageOut() {
  auto start = reinterpret_cast<Address>(pages_.data());
  const AddressRange pages{start, start + options_.pages * kPageBytes};
  // Its heap too, as zmem takes that: both are to hold the same pages.
  std::ifstream file("/proc/self/maps");
  const std::string maps{std::istreambuf_iterator<char>(file), {}};
  const AddressMap beside = AddressMap::Parse(maps, {pages});
  for (AddressRange other : beside.eligible()) {
    madvise(reinterpret_cast<void*>(other.start), other.end - other.start, MADV_PAGEOUT);
  }
  return madvise(pages_.data(), options_.pages * kPageBytes, MADV_PAGEOUT) == 0
             ? "ok"
             : "MADV_PAGEOUT failed";
}

size_t VersusProgram::Arrange(bool random) {
  mincore(pages_.data(), options_.pages * kPageBytes, resident_);
  size_t out = 0;
  for (uint32_t page = 0; page < options_.pages; ++page) {
    if ((resident_[page] & 1) == 0) order_[out++] = page;
  }
  if (random) std::shuffle(order_, order_ + out, std::mt19937_64(options_.seed));
  return out;
}

std::string VersusProgram::TouchOut(bool random, int threads, bool samples) {
  size_t out = Arrange(random);
  MonotonicClock clock;
  int64_t elapsed_ns = 0;
  if (threads > 1) {
    elapsed_ns = InThreads(threads, [&](int i) { TouchEvery(i, threads, out); });
  } else {
    int64_t start_ns = clock.now_ns();
    TouchEvery(0, 1, out);
    elapsed_ns = clock.now_ns() - start_ns;
  }
  if (samples) WriteSamples(out);
  return Result(out, elapsed_ns);
}

void VersusProgram::TouchEvery(size_t first, size_t step, size_t end) {
  for (size_t at = first; at < end; at += step) TouchOne(at);
}

void VersusProgram::TouchOne(size_t at) {
  MonotonicClock clock;
  const volatile std::byte* page = pages_.data() + order_[at] * kPageBytes;
  int64_t before_ns = clock.now_ns();
  static_cast<void>(*page);
  taken_ns_[at] = static_cast<uint32_t>(clock.now_ns() - before_ns);
  Check(order_[at], at);
}

std::string VersusProgram::TouchPaced() {
  size_t out = Arrange(true);
  std::atomic<size_t> touched = 0;
  int64_t elapsed_ns = InThreads(options_.threads, [&](int i) {
    prctl(PR_SET_TIMERSLACK, 1);
    std::mt19937_64 random(options_.seed * 1000 + static_cast<uint64_t>(i));
    std::exponential_distribution<double> gap_ns(options_.faults_per_s / options_.threads / 1e9);
    MonotonicClock clock;
    int64_t due_ns = clock.now_ns();
    int64_t end_ns = due_ns + static_cast<int64_t>(options_.seconds * 1e9);
    while (true) {
      due_ns += 1 + static_cast<int64_t>(gap_ns(random));
      if (due_ns >= end_ns) return;
      SleepUntil(due_ns);
      size_t at = touched.fetch_add(1);
      if (at >= out) return;
      TouchOne(at);
    }
  });
  size_t count = std::min<size_t>(touched, out);
  WriteSamples(count);
  return Result(count, elapsed_ns);
}

std::string VersusProgram::Scan() {
  MonotonicClock clock;
  int64_t start_ns = clock.now_ns();
  uint64_t operations = 0;
  int64_t elapsed_ns = 0;
  do {
    auto page = static_cast<uint32_t>(operations % options_.pages);
    Check(page, random_ + operations);
    if (++operations % kOperationsALook != 0) continue;
    elapsed_ns = clock.now_ns() - start_ns;
    if (elapsed_ns > kLongestScanNs) break;
  } while (operations % options_.pages != 0 ||
           elapsed_ns < static_cast<int64_t>(options_.seconds * 1e9));
  ++random_;
  return Result(operations, elapsed_ns);
}

std::string VersusProgram::Random() {
  MonotonicClock clock;
  auto go_on_for = [&](double seconds) {
    uint64_t operations = 0;
    int64_t start_ns = clock.now_ns();
    int64_t elapsed_ns = 0;
    while (elapsed_ns < static_cast<int64_t>(seconds * 1e9)) {
      for (uint64_t i = 0; i < kOperationsALook; ++i, ++operations) {
        random_ = page_pattern_internal::Mix(random_);
        auto page = static_cast<uint32_t>(random_ % options_.pages);
        Check(page, random_ >> 40);
        if (operations % 2 == 0) pages_.Write(page);
      }
      elapsed_ns = clock.now_ns() - start_ns;
    }
    return std::pair(operations, elapsed_ns);
  };
  go_on_for(options_.settle_s);
  auto [operations, elapsed_ns] = go_on_for(options_.seconds);
  return Result(operations, elapsed_ns);
}

std::string VersusProgram::RandomBare() {
  if (!bare_squeeze_) bare_squeeze_.emplace(pages_.data(), options_.pages, options_.pages / 2);
  return Random();
}

std::string VersusProgram::CountResident() {
  if (mincore(pages_.data(), options_.pages * kPageBytes, resident_) != 0) return "mincore";
  return std::to_string(std::count_if(resident_, resident_ + options_.pages,
                                      [](unsigned char page) { return (page & 1) != 0; }));
}

std::string VersusProgram::VerifySome() const {
  for (uint32_t page = 0; page < options_.pages; page += kSomeStep) {
    if (!pages_.Right(page, page)) return pages_.Describe(page);
  }
  return "ok";
}

void VersusProgram::Check(uint32_t page, uint64_t turn) {
  if (pages_.Right(page, turn)) return;
  std::atomic_ref(wrong_).store(page + 1);
}

std::string VersusProgram::Result(uint64_t operations, int64_t elapsed_ns) const {
  if (wrong_ != 0) return pages_.Describe(wrong_ - 1);
  nlohmann::json result = {{"operations", operations},
                           {"elapsed_s", static_cast<double>(elapsed_ns) / 1e9}};
  return result.dump();
}

void VersusProgram::WriteSamples(size_t count) const {
  FILE* file = std::fopen(options_.samples_path.c_str(), "wb");
  if (file == nullptr || std::fwrite(taken_ns_, sizeof *taken_ns_, count, file) != count ||
      std::fclose(file) != 0) {
    std::perror(options_.samples_path.c_str());
    std::exit(2);
  }
}

}  // namespace zmem
