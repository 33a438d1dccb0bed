// Whether what stays in memory is what is wanted: a program whose memory is limited to half of its
// pages touches them by Zipf's law, in random order, with sequential scans now and then, and at
// last with other pages popular. How often a page is there, under zmem, under the kernel's zram
// with a memory cgroup, and, by simulation of the same touches with as many pages, if the oracle
// chooses (the pages that are the most popular by construction), and LRU, CLOCK, FIFO and chance.
// A hit is a touch without a fault, by the kernel's count of the touching thread, so that whatever
// zmem does to a page to see whether it is wanted counts against it; for zram only major faults,
// which found the page out, count. Every touch is checked; a wrong page ends the bench with a
// failure. The bench runs itself again as the program (--subject).
//   policy [--mib N] [--touches N] [--seed N] [--json FILE]
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "bench/cpu_time.h"
#include "bench/machine.h"
#include "bench/page_trace.h"
#include "bench/policy_program.h"
#include "bench/replacement.h"
#include "bench/run.h"
#include "bench/swap_file.h"
#include "bench/zram_swap.h"
#include "libzmem/base/page.h"
#include "tests/harness.h"
#include "tests/limited_cgroup.h"

namespace zmem {
namespace {

constexpr std::chrono::seconds kFillTimeout{120};
constexpr std::chrono::minutes kStretchTimeout{30};
constexpr std::chrono::minutes kLimitTimeout{2};
// Of the oracle's hits.
constexpr double kTarget = 0.95;
// Who keeps more pages than have room, by more than this, has not been limited.
constexpr double kSlack = 1.02;

struct Options {
  uint64_t mib = 2048;
  double million_touches = 4;
  uint64_t seed = 1;
  std::string json_path;
  bool subject = false;

  PageTrace::Options trace() const {
    return {.pages = static_cast<uint32_t>(mib << 20 >> kPageShift),
            .touches = static_cast<uint64_t>(million_touches * 1e6),
            .seed = seed};
  }
  uint32_t room_pages() const { return trace().pages / 2; }
};

// A wrong page, which is no reason to go on with something else.
class WrongPage : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A piece of a stretch, of kSliceTouches but for the last.
struct Slice {
  double end_s = 0;  // since the stretch began; 0 where it was simulated
  uint64_t touches = 0;
  uint64_t misses = 0;
};

// What became of a stretch of the trace.
struct StretchResult {
  Touches touches;
  std::vector<Slice> slices;
  uint64_t resident_pages = 0;                         // at its end
  nlohmann::json counters = nlohmann::json::object();  // what else was counted, for the JSON

  uint64_t count() const {
    uint64_t count = 0;
    for (const Slice& slice : slices) count += slice.touches;
    return count;
  }
};

// What one keeper of pages did with the whole trace.
struct Result {
  std::vector<StretchResult> stretches;

  // Over all stretches of a kind.
  double HitShare(Touches touches) const {
    uint64_t count = 0;
    uint64_t misses = 0;
    for (const StretchResult& stretch : stretches) {
      if (stretch.touches != touches) continue;
      for (const Slice& slice : stretch.slices) {
        count += slice.touches;
        misses += slice.misses;
      }
    }
    return 1 - static_cast<double>(misses) / static_cast<double>(count);
  }
  const StretchResult& Of(Touches touches) const {
    return *std::find_if(stretches.begin(), stretches.end(),
                         [touches](const auto& stretch) { return stretch.touches == touches; });
  }
};

// The program itself, with memory for half of its pages.
class LiveRun {
 public:
  LiveRun(const Options& options, bool uses_zmem) : options_(options), uses_zmem_(uses_zmem) {}

  // Throws WrongPage, and HarnessError if it cannot be measured.
  Result Measure() {
    SetUp();
    Result result;
    const PageTrace trace(options_.trace());
    for (const Stretch& stretch : trace.stretches()) {
      result.stretches.push_back(Touch(stretch));
    }
    Command("verify");
    child_.reset();
    if (daemon_) daemon_->Stop();
    return result;
  }

 private:
  void SetUp() {
    if (!uses_zmem_) {
      std::string why = WhySwapIsUnavailable();
      if (!why.empty()) throw HarnessError(why);
      cgroup_.emplace();
      zram_.emplace(options_.mib << 20);
    } else {
      daemon_.emplace(DaemonOptions{.config = ""});
    }
    std::vector<std::string> argv = {"/proc/self/exe", "--subject",
                                     "--mib",          absl::StrCat(options_.mib),
                                     "--touches",      absl::StrCat(options_.million_touches),
                                     "--seed",         absl::StrCat(options_.seed)};
    child_ =
        std::make_unique<Child>(uses_zmem_ ? Managed(*daemon_, argv) : ChildOptions{.argv = argv});
    child_->ReadLine(kFillTimeout);
    if (cgroup_) cgroup_->Add(child_->pid());
    auto empty_bytes = static_cast<uint64_t>(ResidentBytes(child_->pid()));
    Command("fill");
    if (uses_zmem_) {
      WaitAttached(*daemon_, *child_);
      LimitByZmem(empty_bytes + uint64_t{options_.room_pages()} * kPageBytes);
    } else {
      LimitByCgroup();
    }
  }

  // Waits until it is held: the program does nothing yet, as a cgroup has it wait.
  void LimitByZmem(uint64_t bytes) {
    CommandResult result =
        daemon_->Ctl({"limit", absl::StrCat(child_->pid()), absl::StrCat(bytes)});
    if (!result.status.Succeeded()) {
      throw HarnessError(absl::StrCat("zmemctl limit: ", result.status.ToString(), ": ",
                                      absl::StripAsciiWhitespace(result.errors)));
    }
    WaitUntil("zmem to hold the limit", kLimitTimeout,
              [&] { return static_cast<uint64_t>(ResidentBytes(child_->pid())) <= bytes; });
  }

  // What else is charged than the pages, such as page tables, is not known before: it takes a
  // second look.
  void LimitByCgroup() {
    uint64_t limit_bytes = uint64_t{options_.room_pages()} * kPageBytes;
    for (int look = 0; look < 2; ++look) {
      cgroup_->Limit(limit_bytes);
      limit_bytes += (options_.room_pages() - ResidentPages()) * kPageBytes;
    }
    cgroup_->Limit(limit_bytes);
  }

  void Command(const std::string& command) { Expect("ok", Ask(command, kFillTimeout)); }

  std::string Ask(const std::string& command, std::chrono::milliseconds timeout) {
    std::string answer = child_->Ask(command, timeout);
    if (absl::StartsWith(answer, "WRONG")) throw WrongPage(answer);
    return answer;
  }

  static void Expect(const std::string& expected, const std::string& answer) {
    if (answer != expected) throw HarnessError("the program says: " + answer);
  }

  uint64_t ResidentPages() {
    std::string answer = Ask("resident", kFillTimeout);
    uint64_t pages = 0;
    if (!absl::SimpleAtoi(answer, &pages)) throw HarnessError("the program says: " + answer);
    return pages;
  }

  StretchResult Touch(const Stretch& stretch) {
    StretchResult result{.touches = stretch.touches};
    nlohmann::json before = Counters();
    nlohmann::json slices = nlohmann::json::parse(Ask("touch", kStretchTimeout), nullptr, false);
    if (slices.is_discarded()) throw HarnessError("the program's answer is not JSON");
    nlohmann::json after = Counters();
    uint64_t left = stretch.count;
    for (const nlohmann::json& slice : slices) {
      uint64_t touches = std::min(left, kSliceTouches);
      uint64_t minor = slice.at(1);
      uint64_t major = slice.at(2);
      result.slices.push_back({.end_s = slice.at(0).get<double>() / 1e9,
                               .touches = touches,
                               .misses = uses_zmem_ ? minor + major : major});
      result.counters["minor_faults"] = result.counters.value("minor_faults", uint64_t{0}) + minor;
      result.counters["major_faults"] = result.counters.value("major_faults", uint64_t{0}) + major;
      left -= touches;
    }
    for (const auto& [name, value] : after.items()) {
      result.counters[name] = value.get<double>() - before.at(name).get<double>();
    }
    result.resident_pages = ResidentPages();
    return result;
  }

  // zmemd's own totals of the program, beside what the kernel counts.
  nlohmann::json Counters() const {
    nlohmann::json counters = nlohmann::json::object();
    if (!daemon_) return counters;
    nlohmann::json process = daemon_->Process(child_->pid());
    for (const char* name : {"faults_total", "zero_faults", "isolated_pages", "returned_pages",
                             "readahead_pages", "stall_ns"}) {
      if (process.contains(name)) counters[name] = process.at(name);
    }
    counters["zmemd_cpu_s"] = CpuSeconds(daemon_->pid());
    return counters;
  }

  const Options& options_;
  const bool uses_zmem_;
  // The program ends before what it is in goes.
  std::optional<LimitedCgroup> cgroup_;
  std::optional<ZramSwap> zram_;
  std::optional<Daemon> daemon_;
  std::unique_ptr<Child> child_;
};

// The same touches, with `replacement` to choose what stays. `stretch_begins` is told of each.
Result Simulate(
    const Options& options, Replacement& replacement,
    const std::function<void(Touches)>& stretch_begins = [](Touches) {}) {
  Result result;
  PageTrace trace(options.trace());
  for (const Stretch& stretch : trace.stretches()) {
    stretch_begins(stretch.touches);
    StretchResult touched{.touches = stretch.touches, .resident_pages = options.room_pages()};
    for (uint64_t left = stretch.count; left > 0; left -= touched.slices.back().touches) {
      Slice slice{.touches = std::min(left, kSliceTouches)};
      for (uint64_t i = 0; i < slice.touches; ++i) slice.misses += !replacement.Touch(trace.Next());
      touched.slices.push_back(slice);
    }
    result.stretches.push_back(touched);
  }
  return result;
}

Result SimulateOracle(const Options& options) {
  PageTrace trace(options.trace());
  KeptPages oracle(trace.MostPopular(Touches::kBefore, options.room_pages()));
  return Simulate(options, oracle, [&](Touches touches) {
    if (touches != Touches::kChanged) return;
    oracle.Keep(trace.MostPopular(touches, options.room_pages()));
  });
}

constexpr char kZmem[] = "zmem";
constexpr char kZram[] = "zram";
constexpr char kOracle[] = "oracle";
constexpr char kLru[] = "LRU";
constexpr const char* kRows[] = {kOracle, kZmem, kZram, kLru, "CLOCK", "FIFO", "random"};

class Bench {
 public:
  explicit Bench(const Options& options) : options_(options) {}

  void RunAll() {
    uint32_t pages = options_.trace().pages;
    uint32_t room = options_.room_pages();
    MeasureLive(kZmem, true);
    MeasureLive(kZram, false);
    std::fprintf(stderr, "policy: simulations ...\n");
    results_[kOracle] = SimulateOracle(options_);
    results_[kLru] = Simulate(options_, *MakeLru(pages, room));
    results_["CLOCK"] = Simulate(options_, *MakeClock(pages, room));
    results_["FIFO"] = Simulate(options_, *MakeFifo(pages, room));
    results_["random"] = Simulate(options_, *MakeRandom(pages, room, options_.seed));
  }

  void Print() const {
    PrintMachine();
    std::printf(
        "input     %u pages of 4 KiB, room for %u; %.1f million touches, every eighth a write, "
        "after\n"
        "          twice as many to warm up; Zipf 0.99, scrambled; seed %llu\n"
        "hits      touches without a fault: of zmem any, also of pages on probation; of zram "
        "without\n"
        "          a major one; the others are simulated on the same touches\n\n",
        options_.trace().pages, options_.room_pages(), options_.million_touches,
        static_cast<unsigned long long>(options_.seed));
    PrintHits();
    PrintChange();
    PrintTarget("steady", Touches::kSteady);
    PrintTarget("between scans", Touches::kAfterScan);
  }

  nlohmann::json Json() const {
    nlohmann::json json = {{"benchmark", "policy"},
                           {"machine", Machine()},
                           {"pages", options_.trace().pages},
                           {"room_pages", options_.room_pages()},
                           {"million_touches", options_.million_touches},
                           {"seed", options_.seed},
                           {"not_measured", failures_}};
    for (const auto& [name, result] : results_) {
      for (const StretchResult& stretch : result.stretches) {
        nlohmann::json slices = nlohmann::json::array();
        for (const Slice& slice : stretch.slices) {
          slices.push_back({slice.end_s, slice.touches, slice.misses});
        }
        json["keepers"][name].push_back({{"touches", Name(stretch.touches)},
                                         {"slices", slices},
                                         {"resident_pages", stretch.resident_pages},
                                         {"counters", stretch.counters}});
      }
    }
    return json;
  }

 private:
  static const char* Name(Touches touches) {
    switch (touches) {
      case Touches::kBefore:
        return "before";
      case Touches::kSteady:
        return "steady";
      case Touches::kScan:
        return "scan";
      case Touches::kAfterScan:
        return "after scan";
      case Touches::kChanged:
        return "changed";
    }
    return "";
  }

  void MeasureLive(const char* name, bool uses_zmem) {
    std::fprintf(stderr, "policy: %s ...\n", name);
    try {
      results_[name] = LiveRun(options_, uses_zmem).Measure();
    } catch (const HarnessError& error) {
      failures_[name] = error.what();
    }
  }

  double OfOracle(const char* name, Touches touches) const {
    return results_.at(name).HitShare(touches) / results_.at(kOracle).HitShare(touches);
  }

  void PrintHits() const {
    std::printf("%-8s %9s %9s %9s %9s %9s %9s %9s %11s %10s %9s\n", "hits %", "steady", "/oracle",
                "scans", "between", "/oracle", "changed", "/oracle", "resident %", "touches/s",
                "faults/s");
    for (const char* name : kRows) {
      std::printf("%-8s", name);
      if (!results_.contains(name)) {
        std::printf(" not measured: %s\n", failures_.at(name).c_str());
        continue;
      }
      const Result& result = results_.at(name);
      for (Touches touches :
           {Touches::kSteady, Touches::kScan, Touches::kAfterScan, Touches::kChanged}) {
        std::printf(" %9.2f", result.HitShare(touches) * 100);
        if (touches != Touches::kScan) std::printf(" %9.3f", OfOracle(name, touches));
      }
      const StretchResult& steady = result.Of(Touches::kSteady);
      std::printf(" %11.1f",
                  static_cast<double>(steady.resident_pages) / options_.trace().pages * 100);
      double elapsed_s = steady.slices.back().end_s;
      if (elapsed_s > 0) {
        double touches_per_s = static_cast<double>(steady.count()) / elapsed_s;
        std::printf(" %10.0f %9.0f", touches_per_s,
                    touches_per_s * (1 - result.HitShare(Touches::kSteady)));
      }
      std::printf("\n");
    }
    std::printf("\n");
  }

  // The time is zmem's, or zram's if zmem was not measured, and the simulated ones are shown for
  // the touches that it had done by then.
  void PrintChange() const {
    const char* timed = results_.contains(kZmem) ? kZmem : kZram;
    if (!results_.contains(timed)) return;
    std::printf("hits %% after others became popular; the simulated ones over the touches of %s\n",
                timed);
    const std::vector<Slice>& timing = results_.at(timed).Of(Touches::kChanged).slices;
    std::vector<double> ends = Ends(timing.back().end_s);
    std::printf("%-8s", "until s");
    for (double end_s : ends) std::printf(" %8.0f", end_s);
    std::printf("\n");
    for (const char* name : kRows) {
      if (!results_.contains(name)) continue;
      std::vector<Slice> slices = results_.at(name).Of(Touches::kChanged).slices;
      bool live = slices.back().end_s > 0;
      for (size_t i = 0; i < slices.size() && !live; ++i) slices[i].end_s = timing[i].end_s;
      PrintByTime(name, slices, ends);
    }
    std::printf("\n");
  }

  // 1, 2, 4 ... seconds, the last of which is `last_s` or later.
  static std::vector<double> Ends(double last_s) {
    std::vector<double> ends = {1};
    while (ends.back() < last_s) ends.push_back(ends.back() * 2);
    return ends;
  }

  static void PrintByTime(const char* name, const std::vector<Slice>& slices,
                          const std::vector<double>& ends) {
    std::printf("%-8s", name);
    size_t at = 0;
    for (double end_s : ends) {
      uint64_t touches = 0;
      uint64_t misses = 0;
      for (; at < slices.size() && slices[at].end_s <= end_s; ++at) {
        touches += slices[at].touches;
        misses += slices[at].misses;
      }
      if (touches == 0) {
        std::printf(" %8s", "-");
      } else {
        std::printf(" %8.2f",
                    (1 - static_cast<double>(misses) / static_cast<double>(touches)) * 100);
      }
    }
    std::printf("\n");
  }

  void PrintTarget(const char* what, Touches touches) const {
    std::printf("zmem's hits over the oracle's, %-14s target >= %.2f   ", what, kTarget);
    if (!results_.contains(kZmem)) {
      std::printf("none   missed\n");
      return;
    }
    double share = OfOracle(kZmem, touches);
    bool kept_limit =
        results_.at(kZmem).Of(touches).resident_pages <= options_.room_pages() * kSlack;
    std::printf("%.3f  %s\n", share,
                !kept_limit        ? "missed: more was resident than the limit allows"
                : share >= kTarget ? "met"
                                   : "missed");
  }

  const Options options_;
  std::map<std::string, Result> results_;
  std::map<std::string, std::string> failures_;
};

int Main(const Options& options) {
  if (options.subject) return PolicyProgram(options.trace()).Serve();
  return RunBench("policy", [&] {
    Bench bench(options);
    bench.RunAll();
    bench.Print();
    WriteJson(options.json_path, bench.Json());
  });
}

}  // namespace
}  // namespace zmem

int main(int argc, char** argv) {
  zmem::Options options;
  CLI::App app("Measures which pages stay in memory that is limited to half of them.");
  app.add_option("--mib", options.mib, "of the program's pages")
      ->capture_default_str()
      ->check(CLI::Range(16, 4096));
  app.add_option("--touches", options.million_touches, "in millions, that are measured at first")
      ->capture_default_str()
      ->check(CLI::Range(0.01, 10'000.0));
  app.add_option("--seed", options.seed, "of the touches")->capture_default_str();
  app.add_option("--json", options.json_path, "also write the results here");
  app.add_flag("--subject", options.subject, "be the program that is measured")->group("");
  CLI11_PARSE(app, argc, argv);
  return zmem::Main(options);
}
