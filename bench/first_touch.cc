// How fast a program gets fresh memory while zmem works on it: with and without zmem by turns. The
// program with it has cold memory that was taken out before, and zmemd looks for more all the
// time, as by default. Each slice of work gets memory and touches all of it.
//   heap      many small blocks, until the heap is 512 MiB
//   churn     blocks of 16 bytes to 256 KiB, taken and given back, by one thread and by two
//   map       a mapping, touched and unmapped
//   realloc   one block that doubles to 256 MiB
//   discard   MADV_DONTNEED of memory that was out before, touched again
//   half      the untouched half of a mapping whose other half is out
// The bench runs itself again as the program (--subject).
//   first_touch [--pairs N] [--slices N] [--json FILE]
#include <malloc.h>
#include <sys/mman.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/machine.h"
#include "bench/run.h"
#include "bench/samples.h"
#include "libzmem/base/clock.h"
#include "tests/harness.h"
#include "tests/programs/command_loop.h"
#include "tests/programs/pattern_region.h"

namespace zmem {
namespace {

constexpr std::chrono::seconds kAnswerTimeout{120};
constexpr size_t kMib = size_t{1} << 20;
constexpr size_t kColdPages = 128 * kMib / kPageBytes;
constexpr size_t kColdHeapBytes = 64 * kMib;
constexpr size_t kHeapBytes = 512 * kMib;
constexpr size_t kLargestBlockBytes = 256 * kMib;
constexpr size_t kMappingBytes = 4 * kMib;
constexpr size_t kHalfSliceBytes = 4 * kMib;
constexpr int64_t kLeastCold = (kColdHeapBytes / kPageBytes + kColdPages) * 9 / 10;
// Of the speed without zmem, where there is a target.
constexpr double kLeastRatio = 0.97;

struct Options {
  int pairs = 3;
  int slices = 20;
  std::string json_path;
  bool subject = false;
};

void CheckMapped(const void* mapping) {
  if (mapping != MAP_FAILED && mapping != nullptr) return;
  std::perror("no memory");
  std::exit(2);
}

void TouchPages(std::byte* data, size_t bytes) {
  for (size_t at = 0; at < bytes; at += kPageBytes) {
    const_cast<volatile std::byte*>(data)[at] = std::byte{1};
  }
}

// The program. `slices` bounds how often it can be asked for the untouched half.
class Subject {
 public:
  explicit Subject(int slices)
      : cold_(kColdPages, PageContent::kCompressible),
        half_bytes_(static_cast<size_t>(slices) * kHalfSliceBytes) {
    cold_.Fill(1);
    FillColdHeap();
    void* mapping = mmap(nullptr, 2 * half_bytes_, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CheckMapped(mapping);
    halves_ = static_cast<std::byte*>(mapping);
    TouchPages(halves_, half_bytes_);
  }

  int Serve() {
    return ServeCommands({
        {"heap", [this] { return Heap(); }},
        {"churn", [] { return Rate([] { return Churn(1); }); }},
        {"churn, 2 threads", [] { return Rate([] { return ChurnOnTwoThreads(); }); }},
        {"map", [] { return Rate(Map); }},
        {"realloc", [] { return Rate(Realloc); }},
        {"discard", [this] { return Rate([this] { return Discard(); }); }},
        {"half", [this] { return Rate([this] { return TouchSomeOfTheHalf(); }); }},
    });
  }

 private:
  // Steps per second of `work`, which returns how many it did; 0 if it could do none.
  static std::string Rate(const std::function<size_t()>& work) {
    MonotonicClock clock;
    int64_t start_ns = clock.now_ns();
    size_t steps = work();
    int64_t taken_ns = clock.now_ns() - start_ns;
    return std::to_string(static_cast<double>(steps) * 1e9 / static_cast<double>(taken_ns));
  }

  // Cold memory of the heap too, which is what the heap grows behind.
  void FillColdHeap() {
    constexpr size_t kBlockBytes = 1000;
    for (size_t bytes = 0; bytes < kColdHeapBytes; bytes += kBlockBytes) {
      void* block = std::malloc(kBlockBytes);
      CheckMapped(block);
      std::memset(block, static_cast<int>(bytes), kBlockBytes);
      cold_heap_.push_back(block);
    }
  }

  // Giving the blocks back is not timed.
  std::string Heap() {
    constexpr size_t kSmallest = 16;
    constexpr size_t kBlocks = kHeapBytes / 520;  // of 520 bytes on average
    blocks_.clear();
    blocks_.reserve(kBlocks);
    std::mt19937 random(1);
    std::string rate = Rate([&] {
      for (size_t i = 0; i < kBlocks; ++i) {
        size_t bytes = kSmallest + random() % 1008;
        void* block = std::malloc(bytes);
        *static_cast<volatile char*>(block) = 1;
        static_cast<volatile char*>(block)[bytes - 1] = 1;
        blocks_.push_back(block);
      }
      return kBlocks;
    });
    for (void* block : blocks_) std::free(block);
    malloc_trim(0);
    return rate;
  }

  static size_t Churn(unsigned seed) {
    constexpr size_t kSteps = 40'000;
    constexpr size_t kAlive = 2'000;
    std::mt19937 random(seed);
    std::vector<void*> alive(kAlive, nullptr);
    for (size_t step = 0; step < kSteps; ++step) {
      void*& block = alive[random() % kAlive];
      std::free(block);
      // Every power of two as likely as any other.
      size_t bytes = size_t{16} << random() % 14;
      bytes += random() % bytes;
      block = std::malloc(bytes);
      TouchPages(static_cast<std::byte*>(block), bytes);
    }
    for (void* block : alive) std::free(block);
    return kSteps;
  }

  static size_t ChurnOnTwoThreads() {
    size_t steps[2] = {};
    std::thread other([&] { steps[1] = Churn(2); });
    steps[0] = Churn(3);
    other.join();
    return steps[0] + steps[1];
  }

  static size_t Map() {
    constexpr size_t kMappings = 64;
    for (size_t i = 0; i < kMappings; ++i) {
      void* mapping =
          mmap(nullptr, kMappingBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      CheckMapped(mapping);
      TouchPages(static_cast<std::byte*>(mapping), kMappingBytes);
      munmap(mapping, kMappingBytes);
    }
    return kMappings;
  }

  static size_t Realloc() {
    size_t touched_bytes = 0;
    void* block = nullptr;
    for (size_t bytes = kPageBytes; bytes <= kLargestBlockBytes; bytes *= 2) {
      block = std::realloc(block, bytes);
      CheckMapped(block);
      TouchPages(static_cast<std::byte*>(block) + touched_bytes, bytes - touched_bytes);
      touched_bytes = bytes;
    }
    std::free(block);
    return touched_bytes / kPageBytes;
  }

  size_t Discard() {
    constexpr size_t kTimes = 16;
    for (size_t i = 0; i < kTimes; ++i) {
      std::byte* part = cold_.page((discarded_++ * kPagesPerChunk) % cold_.pages());
      madvise(part, kChunkBytes, MADV_DONTNEED);
      TouchPages(part, kChunkBytes);
    }
    return kTimes;
  }

  size_t TouchSomeOfTheHalf() {
    if (half_touched_bytes_ + kHalfSliceBytes > half_bytes_) return 0;
    TouchPages(halves_ + half_bytes_ + half_touched_bytes_, kHalfSliceBytes);
    half_touched_bytes_ += kHalfSliceBytes;
    return kHalfSliceBytes / kPageBytes;
  }

  PatternRegion cold_;
  std::vector<void*> cold_heap_;
  std::vector<void*> blocks_;
  const size_t half_bytes_;
  std::byte* halves_;
  size_t half_touched_bytes_ = 0;
  size_t discarded_ = 0;
};

struct Work {
  const char* name;
  const char* step;  // what is counted
  bool has_target;
};
constexpr Work kWork[] = {
    {"heap", "blocks", true},  {"churn", "blocks", true},  {"churn, 2 threads", "blocks", true},
    {"map", "mappings", true}, {"realloc", "pages", true}, {"discard", "2 MiB", false},
    {"half", "pages", false},
};

double AskRate(Child& child, const char* work) {
  std::string answer = child.Ask(work, kAnswerTimeout);
  double rate = std::atof(answer.c_str());
  if (rate <= 0) throw HarnessError(absl::StrCat(work, ": the subject says: ", answer));
  return rate;
}

// One pair of fresh processes; adds their slices to `slices`.
void MeasurePair(const Options& options, const Daemon& daemon, nlohmann::json& slices) {
  std::vector<std::string> argv = {"/proc/self/exe", "--subject", "--slices",
                                   absl::StrCat(options.slices)};
  Child without({.argv = argv});
  Child with(Managed(daemon, argv));
  without.ReadLine(kAnswerTimeout);
  with.ReadLine(kAnswerTimeout);
  WaitAttached(daemon, with);
  daemon.Evict(with.pid());
  if (daemon.Process(with.pid()).at("stored_pages") < kLeastCold) {
    throw HarnessError("the cold memory was not taken out");
  }
  for (const Work& work : kWork) {
    for (int slice = 0; slice < options.slices; ++slice) {
      bool with_first = slice % 2 == 0;
      double first = AskRate(with_first ? with : without, work.name);
      double second = AskRate(with_first ? without : with, work.name);
      slices[work.name].push_back(
          {{"with", with_first ? first : second}, {"without", with_first ? second : first}});
    }
  }
  if (!daemon.Attached(with.pid())) throw HarnessError("the program is not managed any more");
}

nlohmann::json Run(const Options& options) {
  Daemon daemon({.config = ""});  // everything as by default
  nlohmann::json slices;
  for (int pair = 0; pair < options.pairs; ++pair) MeasurePair(options, daemon, slices);
  daemon.Stop();
  return {{"benchmark", "first_touch"},
          {"machine", Machine()},
          {"pairs", options.pairs},
          {"slices_per_pair", options.slices},
          {"slices", slices}};
}

double MedianRate(const nlohmann::json& slices, const char* side) {
  std::vector<double> rates;
  for (const nlohmann::json& slice : slices) rates.push_back(slice.at(side));
  return Median(rates);
}

void PrintRow(const Work& work, const nlohmann::json& slices) {
  std::vector<double> ratios;
  for (const nlohmann::json& slice : slices) {
    ratios.push_back(slice.at("with").get<double>() / slice.at("without").get<double>());
  }
  std::sort(ratios.begin(), ratios.end());
  double ratio = Median(ratios);
  const char* target = ratio >= kLeastRatio ? "0.97, met" : "0.97, missed";
  std::printf("%-18s %-10s %14.0f %14.0f %14.4f %12.4f to %6.4f  %s\n", work.name, work.step,
              MedianRate(slices, "without"), MedianRate(slices, "with"), ratio,
              ratios[ratios.size() / 4], ratios[ratios.size() * 3 / 4],
              work.has_target ? target : "");
}

void Print(const Options& options, const nlohmann::json& slices) {
  PrintMachine();
  std::printf(
      "input     %d pairs of processes, %d slices of each work, by turns; speed by wall "
      "time\n\n",
      options.pairs, options.slices);
  std::printf("%-18s %-10s %14s %14s %14s %22s  %s\n", "", "a second:", "without", "with",
              "with/without", "middle half of slices", "target");
  for (const Work& work : kWork) PrintRow(work, slices.at(work.name));
}

int Main(const Options& options) {
  if (options.subject) return Subject(options.slices).Serve();
  return RunBench("first_touch", [&] {
    nlohmann::json result = Run(options);
    Print(options, result.at("slices"));
    WriteJson(options.json_path, result);
  });
}

}  // namespace
}  // namespace zmem

int main(int argc, char** argv) {
  zmem::Options options;
  CLI::App app("Measures how fast a program gets fresh memory while zmem works on it.");
  app.add_option("--pairs", options.pairs, "of processes")->check(CLI::Range(1, 1000));
  app.add_option("--slices", options.slices, "of each work")->check(CLI::Range(1, 1000));
  app.add_option("--json", options.json_path, "also write the results here");
  app.add_flag("--subject", options.subject, "be the program that is measured")->group("");
  CLI11_PARSE(app, argc, argv);
  return zmem::Main(options);
}
