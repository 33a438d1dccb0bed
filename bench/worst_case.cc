// What a program pays when memory compression cannot win, as compcache, the ancestor of zram, was
// once asked. Four cases:
//   random    pages of random bytes, touched in random order, every fourth time for writing
//   rewrite   all memory given new contents, round and round
//   turn      the same, but what could be compressed when it was filled is given random bytes
//   cyclic    all memory read in order, round and round, with room for one page less: whatever is
//             used longest ago goes out, and is wanted next
// and by turns five programs: one that is left alone, and four in a memory cgroup with the same
// limit, kept below it by zmem with its pool alone, by zmem with a small pool and a backing file,
// by the kernel's zram, and by the kernel's swap to a file. Where a means does not get the program
// below the limit, none is set, and the line says so. The bench runs itself again as the program
// (--subject).
//   worst_case [--size SIZE] [--share S] [--seconds S] [--repetitions N] [--directory DIR]
//              [--json FILE]
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bench/cpu_time.h"
#include "bench/machine.h"
#include "bench/samples.h"
#include "bench/swap_file.h"
#include "bench/worst_case_program.h"
#include "bench/zram_swap.h"
#include "libzmem/base/quantity.h"
#include "tests/harness.h"
#include "tests/limited_cgroup.h"

namespace zmem {
namespace {

constexpr std::chrono::seconds kAnswerTimeout{60};
// A program that takes so much longer than it was to measure has stalled.
constexpr double kStalledSeconds = 10;
// A pool that holds this share of the program, where there is a backing file behind it.
constexpr uint64_t kSmallPoolDivisor = 16;
// What the files and the swap device take, over what the program has: all of it, and not much more.
constexpr double kDiskShare = 1.25;

struct Options {
  uint64_t bytes = uint64_t{192} << 20;
  double share = 0.5;
  double seconds = 0.75;
  int repetitions = 3;
  std::string directory = "/var/tmp";
  std::string json_path;
  bool subject = false;
  PageContent content = PageContent::kCompressible;
  PageContent rewritten = PageContent::kCompressible;

  uint64_t disk_bytes() const {
    return static_cast<uint64_t>(static_cast<double>(bytes) * kDiskShare);
  }
};

struct Case {
  const char* name;
  const char* title;
  const char* command;
  PageContent content;
  PageContent rewritten;
  bool all_but_one_page;  // has room, else the share
  const char* unit;
  double unit_pages;  // pages to one of the unit
};
constexpr Case kCases[] = {
    {"random", "incompressible pages, random touches, every fourth a write", "random touches",
     PageContent::kRandom, PageContent::kRandom, false, "pages/s", 1},
    {"rewrite", "compressible pages, rewritten round and round", "rewrite",
     PageContent::kCompressible, PageContent::kCompressible, false, "MiB/s", 256},
    {"turn", "compressible pages, rewritten with random bytes round and round", "rewrite",
     PageContent::kCompressible, PageContent::kRandom, false, "MiB/s", 256},
    {"cyclic", "compressible pages, cyclic reads, room for all but one", "cyclic reads",
     PageContent::kCompressible, PageContent::kCompressible, true, "pages/s", 1},
};

const char* ContentName(PageContent content) {
  return content == PageContent::kRandom ? "random" : "compressible";
}

enum class Means { kNone, kPool, kPoolAndFile, kZram, kSwapFile };
struct NamedMeans {
  Means means;
  const char* name;
};
constexpr NamedMeans kMeans[] = {
    {Means::kNone, "plain"},
    {Means::kPool, "zmem, pool"},
    {Means::kPoolAndFile, "zmem, pool and file"},
    {Means::kZram, "zram"},
    {Means::kSwapFile, "swap file"},
};
constexpr Means kPeers[] = {Means::kNone, Means::kZram, Means::kSwapFile};

std::string WhyUnavailable(Means means) {
  switch (means) {
    case Means::kNone:
      return "";
    case Means::kPool:
    case Means::kPoolAndFile:
      return WhyUnsupported();
    case Means::kZram:
      if (std::string why = ZramSwap::WhyUnavailable(); !why.empty()) return why;
      return WhySwapIsUnavailable();
    case Means::kSwapFile:
      return WhySwapIsUnavailable();
  }
  return "";
}

// A program, what squeezes it, and one measurement of both.
class Run {
 public:
  Run(const Options& options, const Case& what, Means means)
      : options_(options), case_(what), means_(means) {}

  // Throws HarnessError if the program stalls, is killed, or reads a wrong page.
  nlohmann::json Measure() {
    SetUp();
    if (means_ != Means::kNone) Squeeze();
    nlohmann::json warm_up = Use();
    Totals before = ReadTotals();
    nlohmann::json result = Use();
    Describe(before, ReadTotals(), result);
    result["max_ns"] =
        std::max(result.at("max_ns").get<int64_t>(), warm_up.at("max_ns").get<int64_t>());
    Command("verify");
    child_.reset();
    if (daemon_) daemon_->Stop();
    return result;
  }

 private:
  // What only grows.
  struct Totals {
    double zmemd_cpu_s = 0;
    uint64_t written_bytes = 0;  // to swap of either kind, or the backing file
    uint64_t read_bytes = 0;
  };

  bool uses_zmem() const { return means_ == Means::kPool || means_ == Means::kPoolAndFile; }

  std::string Config() const {
    std::string config = "[policy]\ncold_age=1h\nscan_interval=500ms\nmin_resident=1M\n[pool]\n";
    if (means_ == Means::kPool) return config + "max_pool_percent=90\n";
    return absl::StrCat(config, "max_pool_size=", options_.bytes / kSmallPoolDivisor,
                        "\n[backing]\npath=", backing_path_, "\nsize=", options_.disk_bytes(),
                        "\n");
  }

  void SetUp() {
    if (means_ != Means::kNone) cgroup_.emplace();
    if (means_ == Means::kZram) zram_.emplace(options_.disk_bytes());
    if (means_ == Means::kSwapFile) swap_file_.emplace(options_.directory, options_.disk_bytes());
    if (means_ == Means::kPoolAndFile) {
      backing_path_ = absl::StrCat(options_.directory, "/zmem-backing-", getpid());
      backing_guardian_.emplace(backing_path_, [path = backing_path_] {
        std::error_code failed;
        std::filesystem::remove(path, failed);
        return !failed;
      });
    }
    std::vector<std::string> argv = {"/proc/self/exe", "--subject",
                                     "--size",         absl::StrCat(options_.bytes),
                                     "--seconds",      absl::StrCat(options_.seconds),
                                     "--content",      ContentName(case_.content),
                                     "--rewritten",    ContentName(case_.rewritten)};
    if (uses_zmem()) daemon_.emplace(DaemonOptions{.config = Config()});
    child_ =
        std::make_unique<Child>(uses_zmem() ? Managed(*daemon_, argv) : ChildOptions{.argv = argv});
    child_->ReadLine(kAnswerTimeout);
    if (cgroup_) cgroup_->Add(child_->pid());
    unfilled_bytes_ = cgroup_ ? cgroup_->UsedBytes() : 0;
    Command("fill");
  }

  void Squeeze() {
    uint64_t filled_bytes = cgroup_->UsedBytes();
    auto share_bytes = static_cast<uint64_t>(static_cast<double>(options_.bytes) * options_.share);
    uint64_t limit_bytes =
        case_.all_but_one_page ? filled_bytes - kPageBytes : unfilled_bytes_ + share_bytes;
    if (uses_zmem()) return SqueezeByZmem(limit_bytes);
    cgroup_->Limit(limit_bytes);
    // Each CPU had charged in advance, and gave that back first.
    if (case_.all_but_one_page) cgroup_->Limit(cgroup_->UsedBytes() - kPageBytes);
    squeezed_ = true;
  }

  void SqueezeByZmem(uint64_t limit_bytes) {
    WaitAttached(*daemon_, *child_);
    double cpu_before_s = CpuSeconds(daemon_->pid());
    daemon_->Evict(child_->pid());
    eviction_cpu_s_ = CpuSeconds(daemon_->pid()) - cpu_before_s;
    if (cgroup_->UsedBytes() >= limit_bytes) return;
    cgroup_->Limit(limit_bytes);
    WaitUntil("zmemd to know of the limit", kAnswerTimeout,
              [this] { return daemon_->Process(child_->pid()).contains("room_bytes"); });
    squeezed_ = true;
  }

  void Command(const std::string& command) {
    std::string answer = AskOrSayWhyNot(command, kAnswerTimeout);
    if (answer != "ok") throw HarnessError("the program says: " + answer);
  }

  // Has it do what is measured.
  nlohmann::json Use() {
    std::chrono::milliseconds timeout(
        static_cast<int64_t>((options_.seconds + kStalledSeconds) * 1000));
    std::string answer = AskOrSayWhyNot(case_.command, timeout);
    nlohmann::json parsed = nlohmann::json::parse(answer, nullptr, false);
    if (parsed.is_discarded()) throw HarnessError("the program says: " + answer);
    return parsed;
  }

  std::string AskOrSayWhyNot(const std::string& command, std::chrono::milliseconds timeout) {
    double cpu_before_s = daemon_ ? CpuSeconds(daemon_->pid()) : 0;
    try {
      return child_->Ask(command, timeout);
    } catch (const HarnessError&) {
      if (!child_->Running()) {
        throw HarnessError(
            absl::StrCat("the program ended: ", child_->Wait(kAnswerTimeout).ToString()));
      }
      double cpu_s = daemon_ ? CpuSeconds(daemon_->pid()) - cpu_before_s : 0;
      throw HarnessError(absl::StrFormat("stalled, no end after %.1f s; zmemd used %.1f s of CPU",
                                         std::chrono::duration<double>(timeout).count(), cpu_s));
    }
  }

  Totals ReadTotals() const {
    if (!daemon_) {
      SwapTraffic traffic = SwapTraffic::Now();
      return {0, traffic.bytes_written, traffic.bytes_read};
    }
    nlohmann::json backing = daemon_->Status().at("backing");
    Totals totals{.zmemd_cpu_s = CpuSeconds(daemon_->pid())};
    if (!backing.is_null()) {
      totals.written_bytes = backing.at("bytes_written");
      totals.read_bytes = backing.at("bytes_read");
    }
    return totals;
  }

  void Describe(const Totals& before, const Totals& after, nlohmann::json& result) {
    double elapsed_s = result.at("elapsed_s");
    result["per_s"] = result.at("operations").get<double>() / elapsed_s / case_.unit_pages;
    result["program_cpu"] = result.at("program_cpu_s").get<double>() / elapsed_s;
    result["zmemd_cpu_s"] = after.zmemd_cpu_s - before.zmemd_cpu_s;
    result["zmemd_cpu"] = (after.zmemd_cpu_s - before.zmemd_cpu_s) / elapsed_s;
    result["written_per_s"] =
        static_cast<double>(after.written_bytes - before.written_bytes) / elapsed_s;
    result["read_per_s"] = static_cast<double>(after.read_bytes - before.read_bytes) / elapsed_s;
    result["squeezed"] = squeezed_;
    uint64_t out_bytes = 0;
    uint64_t held_bytes = 0;
    if (daemon_) {
      nlohmann::json status = daemon_->Status();
      result["process"] = status.at("processes").at(0);
      result["eviction_cpu_s"] = eviction_cpu_s_;
      out_bytes = status.at("pool").at("original_bytes");
      held_bytes = status.at("pool").at("held_bytes").get<uint64_t>() +
                   status.at("metadata_bytes").get<uint64_t>();
    } else if (means_ != Means::kNone) {
      out_bytes = SwappedBytes(child_->pid());
      held_bytes = zram_ ? zram_->HeldBytes() : 0;
    }
    result["out_share"] = static_cast<double>(out_bytes) / static_cast<double>(options_.bytes);
    result["held_bytes"] = held_bytes;
  }

  const Options& options_;
  const Case& case_;
  const Means means_;
  // The program ends before what it is in goes, and its daemon before the backing file does.
  std::optional<LimitedCgroup> cgroup_;
  std::optional<ZramSwap> zram_;
  std::optional<SwapFile> swap_file_;
  std::string backing_path_;
  std::optional<Guardian> backing_guardian_;
  std::optional<Daemon> daemon_;
  std::unique_ptr<Child> child_;
  uint64_t unfilled_bytes_ = 0;
  double eviction_cpu_s_ = 0;
  bool squeezed_ = false;
};

// What one means did in one case.
struct Outcome {
  std::vector<nlohmann::json> runs;
  std::vector<std::string> failures;  // of the other runs, or why there was none

  double Middle(const std::string& field) const {
    std::vector<double> values;
    for (const nlohmann::json& run : runs) values.push_back(run.at(field));
    return Median(values);
  }
  bool squeezed() const {
    return std::all_of(runs.begin(), runs.end(),
                       [](const nlohmann::json& run) { return run.at("squeezed").get<bool>(); });
  }
};

class Bench {
 public:
  explicit Bench(const Options& options) : options_(options) {}

  void RunAll() {
    for (int repetition = 0; repetition < options_.repetitions; ++repetition) {
      for (const Case& what : kCases) {
        for (const NamedMeans& means : kMeans) RunOne(what, means.means);
      }
    }
  }

  void Print() const {
    PrintMachine();
    std::printf(
        "input     programs of %s, %.0f %% of it in memory, or all but one page; files in %s\n"
        "          of %s, the pool before the file of %s at most\n"
        "runs      %d by turns of %.2f s, after as long to warm up; medians, of max the largest\n"
        "          CPU in %% of one; the program's includes what the kernel takes out and brings\n"
        "          back for it; store: memory that holds what is out, with zmemd's metadata\n\n",
        FormatBytes(options_.bytes).c_str(), options_.share * 100, options_.directory.c_str(),
        FormatBytes(options_.disk_bytes()).c_str(),
        FormatBytes(options_.bytes / kSmallPoolDivisor).c_str(), options_.repetitions,
        options_.seconds);
    for (const Case& what : kCases) PrintCase(what);
  }

  nlohmann::json Json() const {
    nlohmann::json result = {{"benchmark", "worst_case"},   {"machine", Machine()},
                             {"bytes", options_.bytes},     {"share", options_.share},
                             {"seconds", options_.seconds}, {"repetitions", options_.repetitions}};
    for (const Case& what : kCases) {
      for (const NamedMeans& means : kMeans) {
        const Outcome& outcome = Find(what, means.means);
        nlohmann::json& entry = result["cases"][what.name][means.name];
        entry["runs"] = outcome.runs;
        entry["failures"] = outcome.failures;
      }
    }
    return result;
  }

 private:
  using Outcomes = std::map<Means, Outcome>;

  const Outcome& Find(const Case& what, Means means) const {
    return outcomes_.at(what.name).at(means);
  }

  void RunOne(const Case& what, Means means) {
    Outcome& outcome = outcomes_[what.name][means];
    std::string why = WhyUnavailable(means);
    if (!why.empty()) {
      outcome.failures = {why};
      return;
    }
    try {
      outcome.runs.push_back(Run(options_, what, means).Measure());
    } catch (const HarnessError& error) {
      outcome.failures.push_back(error.what());
    }
  }

  void PrintCase(const Case& what) const {
    // A µ is two bytes to printf.
    std::printf("%s\n%-20s %10s %8s %8s %8s %10s %10s %8s %6s %8s %6s %10s %9s %9s\n", what.title,
                "", what.unit, "plain=1", "zram=1", "file=1", "p50 µs", "p99 µs", "max ms", "CPU %",
                "zmemd %", "out %", "store MiB", "wr MiB/s", "rd MiB/s");
    for (const NamedMeans& means : kMeans) PrintRow(what, means);
    std::printf("\n");
  }

  void PrintRow(const Case& what, const NamedMeans& means) const {
    const Outcome& outcome = Find(what, means.means);
    if (outcome.runs.empty()) {
      std::printf("%-20s not measured: %s\n", means.name, outcome.failures.at(0).c_str());
      return;
    }
    std::printf("%-20s %10.0f", means.name, outcome.Middle("per_s"));
    for (Means peer : kPeers) {
      const Outcome& other = Find(what, peer);
      std::string ratio =
          other.runs.empty()
              ? ""
              : absl::StrFormat("%.3g", outcome.Middle("per_s") / other.Middle("per_s"));
      std::printf(" %8s", ratio.c_str());
    }
    double max_ns = 0;
    for (const nlohmann::json& run : outcome.runs) {
      max_ns = std::max(max_ns, run.at("max_ns").get<double>());
    }
    std::printf(" %9.2f %9.2f %8.1f %6.0f %8.0f %6.1f %10.1f %9.1f %9.1f\n",
                outcome.Middle("p50_ns") / 1e3, outcome.Middle("p99_ns") / 1e3, max_ns / 1e6,
                outcome.Middle("program_cpu") * 100, outcome.Middle("zmemd_cpu") * 100,
                outcome.Middle("out_share") * 100, outcome.Middle("held_bytes") / (1 << 20),
                outcome.Middle("written_per_s") / (1 << 20),
                outcome.Middle("read_per_s") / (1 << 20));
    if (means.means != Means::kNone && !outcome.squeezed()) {
      std::printf("%-20s   not squeezed: it cannot be brought below the limit, so none was set\n",
                  "");
    }
    if (!outcome.failures.empty()) {
      std::printf("%-20s   %zu of %d runs failed: %s\n", "", outcome.failures.size(),
                  options_.repetitions, outcome.failures.at(0).c_str());
    }
  }

  const Options options_;
  std::map<std::string, Outcomes> outcomes_;
};

int Main(const Options& options) {
  if (options.subject) {
    return WorstCaseProgram({.pages = options.bytes >> kPageShift,
                             .content = options.content,
                             .rewritten = options.rewritten,
                             .seconds = options.seconds})
        .Serve();
  }
  try {
    Bench bench(options);
    bench.RunAll();
    bench.Print();
    WriteJson(options.json_path, bench.Json());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "worst_case: %s\n", error.what());
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace zmem

int main(int argc, char** argv) {
  zmem::Options options;
  CLI::App app("Measures the worst cases of memory compression: zmem, zram and a swap file.");
  app.add_option_function<std::string>(
         "--size",
         [&options](const std::string& text) {
           auto bytes = zmem::ParseBytes(text);
           constexpr uint64_t kLeast = uint64_t{32} << 20;
           if (!bytes.ok()) throw CLI::ValidationError("--size", bytes.status().ToString());
           if (*bytes < kLeast) throw CLI::ValidationError("--size", "takes 32M at least");
           options.bytes = *bytes / zmem::kPageBytes * zmem::kPageBytes;
         },
         "of the programs, such as 192M or 1G")
      ->default_str("192M");
  app.add_option("--share", options.share, "of a program that has room in memory")
      ->capture_default_str()
      ->check(CLI::Range(0.1, 0.9));
  app.add_option("--seconds", options.seconds, "how long each is measured")
      ->capture_default_str()
      ->check(CLI::Range(0.1, 600.0));
  app.add_option("--repetitions", options.repetitions, "runs of each")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000));
  app.add_option("--directory", options.directory, "on a disk, for the files")
      ->capture_default_str()
      ->check(CLI::ExistingDirectory);
  app.add_option("--json", options.json_path, "also write the results here");
  app.add_flag("--subject", options.subject, "be the program that is measured")->group("");
  const std::map<std::string, zmem::PageContent> contents = {
      {zmem::ContentName(zmem::PageContent::kCompressible), zmem::PageContent::kCompressible},
      {zmem::ContentName(zmem::PageContent::kRandom), zmem::PageContent::kRandom}};
  app.add_option("--content", options.content, "what is in it")
      ->transform(CLI::CheckedTransformer(contents))
      ->group("");
  app.add_option("--rewritten", options.rewritten, "what it is rewritten with")
      ->transform(CLI::CheckedTransformer(contents))
      ->group("");
  CLI11_PARSE(app, argc, argv);
  return zmem::Main(options);
}
