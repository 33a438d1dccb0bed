// What a page costs that is touched after it was taken out: through a real zmemd and a real program
// under libzmem.so, and through the kernel's zram in the same run, on the same pages.
// The bench runs itself again as the program (--subject). Both sides are measured by turns.
//   fault_latency [--mib N] [--repetitions N] [--seed N] [--json FILE]
#include <sys/mman.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bench/machine.h"
#include "bench/run.h"
#include "bench/samples.h"
#include "bench/shared_array.h"
#include "bench/zram_swap.h"
#include "libzmem/base/clock.h"
#include "tests/harness.h"
#include "tests/programs/command_loop.h"
#include "tests/programs/pattern_region.h"

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21  // Linux 5.4
#endif

namespace zmem {
namespace {

constexpr std::chrono::seconds kAnswerTimeout{120};
// Below this share of its pages an eviction has not done what is to be measured.
constexpr double kLeastOut = 0.95;

struct Options {
  size_t mib = 400;
  int repetitions = 3;
  uint64_t seed = 1;
  std::string json_path;
  bool subject = false;
};

// The program whose pages are taken out. What it needs for measuring is in shared memory, which
// neither side takes out.
class Subject {
 public:
  Subject(size_t pages, uint64_t seed)
      : region_(pages, PageContent::kCompressible),
        order_(SharedArray<uint32_t>(pages)),
        taken_ns_(SharedArray<uint32_t>(pages)),
        resident_(SharedArray<unsigned char>(pages)),
        seed_(seed) {
    region_.Fill(seed_);
  }

  int Serve() {
    return ServeCommands({
        {"random", [this] { return Measure(true); }},
        {"sequential", [this] { return Measure(false); }},
        {"pageout", [this] { return PageOut(); }},
    });
  }

 private:
  std::string PageOut() {
    return madvise(region_.page(0), region_.pages() * kPageBytes, MADV_PAGEOUT) == 0
               ? "ok"
               : "MADV_PAGEOUT failed";
  }

  // Puts the pages that are out into order_, in the order in which to touch them.
  size_t Arrange(bool random) {
    mincore(region_.page(0), region_.pages() * kPageBytes, resident_);
    size_t out = 0;
    for (uint32_t page = 0; page < region_.pages(); ++page) {
      if ((resident_[page] & 1) == 0) order_[out++] = page;
    }
    if (random) std::shuffle(order_, order_ + out, std::mt19937_64(seed_));
    return out;
  }

  // Touches every page that is out, once, and answers with what it cost, as JSON.
  std::string Measure(bool random) {
    size_t out = Arrange(random);
    MonotonicClock clock;
    int64_t start_ns = clock.now_ns();
    for (size_t i = 0; i < out; ++i) {
      const volatile std::byte* page = region_.page(order_[i]);
      int64_t before_ns = clock.now_ns();
      static_cast<void>(*page);
      taken_ns_[i] = static_cast<uint32_t>(clock.now_ns() - before_ns);
    }
    int64_t total_ns = clock.now_ns() - start_ns;
    std::string wrong = region_.Verify(seed_);
    if (!wrong.empty()) return wrong;
    std::vector<int64_t> sorted(taken_ns_, taken_ns_ + out);
    std::sort(sorted.begin(), sorted.end());
    nlohmann::json result = {
        {"pages", out},
        {"share_out", static_cast<double>(out) / static_cast<double>(region_.pages())},
        {"pages_per_s", static_cast<double>(out) * 1e9 / static_cast<double>(total_ns)},
        {"p50", Percentile(sorted, 50)},
        {"p90", Percentile(sorted, 90)},
        {"p99", Percentile(sorted, 99)},
        {"p99.9", Percentile(sorted, 99.9)},
        {"max", Percentile(sorted, 100)},
    };
    return result.dump();
  }

  PatternRegion region_;
  uint32_t* order_;
  uint32_t* taken_ns_;
  unsigned char* resident_;
  const uint64_t seed_;
};

std::vector<std::string> SubjectArguments(const Options& options) {
  return {"/proc/self/exe",          "--subject", "--mib",
          absl::StrCat(options.mib), "--seed",    absl::StrCat(options.seed)};
}

constexpr const char* kOrders[] = {"random", "sequential"};
constexpr const char* kFields[] = {"p50", "p90", "p99", "p99.9", "max", "pages_per_s"};

// What one side did: for each order the results of the repetitions.
struct Side {
  std::map<std::string, std::vector<nlohmann::json>> runs;
  double compression_ratio = 0;

  double Middle(const std::string& order, const std::string& field) const {
    std::vector<double> values;
    for (const nlohmann::json& run : runs.at(order)) values.push_back(run.at(field));
    return Median(values);
  }
};

// One repetition: takes everything out with `take_out` and has it touched again, in both orders.
void Repeat(Child& subject, const std::function<void()>& take_out, Side& side) {
  for (const char* order : kOrders) {
    take_out();
    std::string answer = subject.Ask(order, kAnswerTimeout);
    nlohmann::json run = nlohmann::json::parse(answer, nullptr, false);
    if (run.is_discarded()) throw HarnessError("the subject says: " + answer);
    if (run.at("share_out") < kLeastOut) {
      throw HarnessError(absl::StrFormat("only %.1f %% of the pages were out",
                                         run.at("share_out").get<double>() * 100));
    }
    side.runs[order].push_back(run);
  }
}

class Bench {
 public:
  explicit Bench(const Options& options) : options_(options) {}

  void Run() {
    why_no_zram_ = ZramSwap::WhyUnavailable();
    managed_ = std::make_unique<Child>(Managed(daemon_, SubjectArguments(options_)));
    managed_->ReadLine(kAnswerTimeout);
    WaitAttached(daemon_, *managed_);
    for (int repetition = 0; repetition < options_.repetitions; ++repetition) {
      MeasureZmem();
      if (why_no_zram_.empty()) MeasureZram();
    }
    daemon_.Stop();
  }

  void Print() const {
    PrintMachine();
    std::printf("input     %zu pages of 4 KiB, seed %llu; compressed %.2f to 1 by zmem (lz4)",
                options_.mib * 256, static_cast<unsigned long long>(options_.seed),
                zmem_.compression_ratio);
    if (why_no_zram_.empty()) std::printf(", %.2f by zram (lz4)", zram_.compression_ratio);
    std::printf("\nruns      %d by turns; each figure is the median of the runs\n",
                options_.repetitions);
    if (!why_no_zram_.empty()) std::printf("zram      not measured: %s\n", why_no_zram_.c_str());
    std::printf("\n%-12s %-12s %10s %10s %10s %10s %10s %12s\n", "order", "", "p50 µs", "p90 µs",
                "p99 µs", "p99.9 µs", "max µs", "pages/s");
    for (const char* order : kOrders) {
      PrintRow(order, "zmem", zmem_);
      if (!why_no_zram_.empty()) continue;
      PrintRow(order, "zram", zram_);
      std::printf("%-12s %-12s", order, "zmem/zram");
      for (const char* field : kFields) {
        bool last = std::string(field) == "pages_per_s";
        std::printf(" %*.2f", last ? 12 : 10,
                    zmem_.Middle(order, field) / zram_.Middle(order, field));
      }
      std::printf("\n\n");
    }
  }

  nlohmann::json Json() const {
    nlohmann::json result = {{"benchmark", "fault_latency"},
                             {"machine", Machine()},
                             {"pages", options_.mib * 256},
                             {"seed", options_.seed},
                             {"repetitions", options_.repetitions},
                             {"zmem", {{"ratio", zmem_.compression_ratio}, {"runs", zmem_.runs}}}};
    if (why_no_zram_.empty()) {
      result["zram"] = {{"ratio", zram_.compression_ratio}, {"runs", zram_.runs}};
    } else {
      result["zram_not_measured"] = why_no_zram_;
    }
    return result;
  }

 private:
  void MeasureZmem() {
    Repeat(
        *managed_, [this] { daemon_.Evict(managed_->pid()); }, zmem_);
    daemon_.Evict(managed_->pid());
    nlohmann::json pool = daemon_.Status().at("pool");
    zmem_.compression_ratio =
        pool.at("original_bytes").get<double>() / pool.at("compressed_bytes").get<double>();
  }

  void MeasureZram() {
    ZramSwap swap(uint64_t{options_.mib} << 21);  // twice the region
    Child subject({.argv = SubjectArguments(options_)});
    subject.ReadLine(kAnswerTimeout);
    auto page_out = [&] {
      std::string answer = subject.Ask("pageout", kAnswerTimeout);
      if (answer != "ok") throw HarnessError("the subject says: " + answer);
      zram_.compression_ratio = swap.CompressionRatio();
    };
    Repeat(subject, page_out, zram_);
  }

  static void PrintRow(const char* order, const char* name, const Side& side) {
    std::printf("%-12s %-12s", order, name);
    for (const char* field : kFields) {
      bool last = std::string(field) == "pages_per_s";
      double value = side.Middle(order, field);
      std::printf(last ? " %12.0f" : " %10.2f", last ? value : value / 1e3);
    }
    std::printf("\n");
  }

  const Options options_;
  Daemon daemon_;
  std::unique_ptr<Child> managed_;
  std::string why_no_zram_;
  Side zmem_;
  Side zram_;
};

int Main(const Options& options) {
  if (options.subject) {
    return Subject(options.mib << 20 >> kPageShift, options.seed).Serve();
  }
  return RunBench("fault_latency", [&] {
    Bench bench(options);
    bench.Run();
    bench.Print();
    WriteJson(options.json_path, bench.Json());
  });
}

}  // namespace
}  // namespace zmem

int main(int argc, char** argv) {
  zmem::Options options;
  CLI::App app("Measures refaults through zmem and through zram.");
  app.add_option("--mib", options.mib, "size of the region");
  app.add_option("--repetitions", options.repetitions, "runs of each side")
      ->check(CLI::Range(1, 1000));
  app.add_option("--seed", options.seed, "of the pages' contents and order");
  app.add_option("--json", options.json_path, "also write the results here");
  app.add_flag("--subject", options.subject, "be the program that is measured")->group("");
  CLI11_PARSE(app, argc, argv);
  return zmem::Main(options);
}
