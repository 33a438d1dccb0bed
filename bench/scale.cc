// How zmemd grows with what it manages: programs (all but one of them idle), memory that is out,
// memory that is in, and threads that touch pages of one program. Of each step it says what zmemd
// takes while nothing happens and while pages are touched at a fixed rate, and of each figure
// whether it grows faster than what is managed; and what a program costs that does nothing.
// The bench runs itself again as the programs (--subject).
//   scale [--quick] [--only SECTION] [--json FILE]
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "bench/growth.h"
#include "bench/machine.h"
#include "bench/run.h"
#include "bench/scale_host.h"
#include "bench/scale_program.h"

namespace zmem {
namespace {

// Of the program whose pages are touched, and of those that are idle: the least that zmemd manages
// by default.
constexpr size_t kTouchedMib = 256;
constexpr size_t kIdleMib = 16;

struct Plan {
  ScaleTimes times;
  std::vector<size_t> programs = {1, 4, 16, 64, 256};
  std::vector<size_t> out_mib = {1024, 2048, 4096, 8192, 16384, 32768};
  std::vector<size_t> in_mib = {1024, 2048, 4096};
  std::vector<unsigned> threads = {1, 2, 4, 8, 16};
};

Plan QuickPlan() {
  Plan plan;
  plan.times = {.idle_scan_interval_s = 1,
                .idle_seconds = 2,
                .busy_scan_interval_s = 0.2,
                .busy_seconds = 1,
                .touch_seconds = 1,
                .touches_per_s = 2000};
  plan.programs = {1, 4, 16};
  plan.out_mib = {256, 512, 1024};
  plan.in_mib = {256, 512};
  plan.threads = {1, 4};
  return plan;
}

// A figure as it is shown. A growth of less than `noise` or `noise_share` of its first value does
// not count.
struct Column {
  const char* key;
  const char* title;
  const char* unit;
  double divisor;
  int decimals;
  double noise;
  double noise_share;
};

constexpr double kMiB = 1 << 20;
constexpr Column kIdleCpu = {"idle_cpu_percent", "idle CPU", "%", 1, 2, 0.1, 0.1};
constexpr Column kScan = {"scan_ms", "scan", "ms", 1, 2, 0.3, 0.1};
constexpr Column kScanOfGib = {"scan_ms_per_gib", "scan", "ms/GiB", 1, 2, 0.3, 0.1};
constexpr Column kWakeUps = {"wake_ups_per_s", "wake-ups", "/s", 1, 1, 1, 0.1};
constexpr Column kTheirWakeUps = {"programs_wake_ups_per_s", "their w.", "/s", 1, 1, 1, 0.1};
constexpr Column kTheirCpu = {"programs_cpu_percent", "their CPU", "%", 1, 2, 0.1, 0.1};
constexpr Column kResident = {"resident_bytes", "RSS", "MiB", kMiB, 1, kMiB, 0.05};
constexpr Column kProportional = {"proportional_bytes", "PSS", "MiB", kMiB, 1, kMiB, 0.05};
constexpr Column kMetadata = {"metadata_bytes", "metadata", "MiB", kMiB, 1, kMiB, 0.01};
constexpr Column kPool = {"pool_bytes", "pool", "MiB", kMiB, 1, kMiB, 0.01};
constexpr Column kOut = {"out_cpu_us", "out", "µs/page", 1, 2, 0.2, 0.3};
constexpr Column kLoadCpu = {"load_cpu_percent", "load CPU", "%", 1, 2, 0.5, 0.2};
constexpr Column kP50 = {"p50_ns", "p50", "µs", 1e3, 1, 2'000, 0.5};
constexpr Column kP99 = {"p99_ns", "p99", "µs", 1e3, 1, 20'000, 1};
constexpr Column kFlood = {"flood_per_s", "most", "/s", 1, 0, 1'000, 0.2};

struct Step {
  double amount;
  nlohmann::json figures;
};

// Steps that differ in one amount, measured, printed and judged in the same way.
class Section {
 public:
  Section(std::string name, std::string what, std::string unit, std::vector<Column> columns)
      : name_(std::move(name)),
        what_(std::move(what)),
        unit_(std::move(unit)),
        columns_(std::move(columns)) {}

  const std::string& name() const { return name_; }
  const std::vector<Step>& steps() const { return steps_; }
  void Add(double amount, nlohmann::json figures) {
    steps_.push_back({amount, std::move(figures)});
  }
  void Announce(double amount) const {
    std::fprintf(stderr, "scale: %s: %g %s ...\n", name_.c_str(), amount, unit_.c_str());
  }

  void PrintTable() const {
    std::printf("%s: %s\n%10s", name_.c_str(), what_.c_str(), unit_.c_str());
    for (const Column& column : columns_) PrintRight(column.title);
    std::printf("\n%10s", "");
    for (const Column& column : columns_) PrintRight(column.unit);
    for (const Step& step : steps_) {
      std::printf("\n%10g", step.amount);
      for (const Column& column : columns_) {
        std::printf("%10.*f", column.decimals, Value(step, column) / column.divisor);
      }
    }
    std::printf("\n\n");
  }

  void PrintGrowth() const {
    if (steps_.size() < 2) return;
    double times = steps_.back().amount / steps_.front().amount;
    for (const Column& column : columns_) {
      Growth growth = Judge(column);
      std::string verdict = absl::StrFormat("upper part / lower %.2f", growth.steepening);
      const char* kind = growth.kind == GrowthKind::kFlat     ? "does not grow"
                         : growth.kind == GrowthKind::kLinear ? "linear or less"
                                                              : "FASTER";
      std::printf("%-9s x%-6g %-9s %10.*f -> %-10.*f %-8s %-15s %s\n", name_.c_str(), times,
                  column.title, column.decimals, Value(steps_.front(), column) / column.divisor,
                  column.decimals, Value(steps_.back(), column) / column.divisor, column.unit, kind,
                  growth.kind == GrowthKind::kFlat ? "" : verdict.c_str());
    }
  }

  nlohmann::json Json() const {
    nlohmann::json steps = nlohmann::json::array();
    for (const Step& step : steps_) {
      steps.push_back(step.figures);
      steps.back()["amount"] = step.amount;
    }
    nlohmann::json faster = nlohmann::json::array();
    for (const Column& column : columns_) {
      if (steps_.size() >= 2 && Judge(column).kind == GrowthKind::kFaster) {
        faster.push_back(column.key);
      }
    }
    return {{"section", name_}, {"unit", unit_}, {"steps", steps}, {"faster_than_linear", faster}};
  }

 private:
  // The terminal's columns, whatever the bytes.
  static void PrintRight(const std::string& text) {
    constexpr size_t kWidth = 10;
    size_t shown = 0;
    for (char c : text) shown += (c & 0xc0) != 0x80;
    std::printf("%s%s", std::string(kWidth - std::min(shown, kWidth), ' ').c_str(), text.c_str());
  }
  static double Value(const Step& step, const Column& column) {
    return step.figures.at(column.key).get<double>();
  }
  Growth Judge(const Column& column) const {
    std::vector<GrowthPoint> points;
    for (const Step& step : steps_) points.push_back({step.amount, Value(step, column)});
    double noise = std::max(column.noise, column.noise_share * points.front().figure);
    return JudgeGrowth(points, noise);
  }

  const std::string name_;
  const std::string what_;
  const std::string unit_;
  const std::vector<Column> columns_;
  std::vector<Step> steps_;
};

Section MeasurePrograms(const Plan& plan) {
  Section section("programs",
                  absl::StrCat("one of ", kTouchedMib, " MiB that is touched, the others of ",
                               kIdleMib, " MiB and idle; all is out"),
                  "programs",
                  {kIdleCpu, kScan, kWakeUps, kTheirCpu, kTheirWakeUps, kLoadCpu, kP50, kP99,
                   kResident, kProportional, kMetadata, kPool});
  ScaleHost host(plan.times);
  host.Start(1, kTouchedMib, 1);
  host.FillAndTakeOut(0, kTouchedMib);
  size_t running = 1;
  for (size_t programs : plan.programs) {
    section.Announce(static_cast<double>(programs));
    host.Start(programs - running, kIdleMib, 1);
    if (programs > running) host.FillAndTakeOut(running, kIdleMib);
    running = programs;
    host.TakeOutFirst();
    nlohmann::json figures = host.MeasureIdle();
    figures.update(host.MeasureTouches());
    section.Add(static_cast<double>(programs), figures);
  }
  host.VerifyAndEnd();
  return section;
}

Section MeasureOut(const Plan& plan) {
  Section section("out", "one program, all of its memory out", "GiB",
                  {kOut, kIdleCpu, kScan, kScanOfGib, kWakeUps, kLoadCpu, kP50, kP99, kResident,
                   kProportional, kMetadata, kPool});
  ScaleHost host(plan.times);
  host.Start(1, plan.out_mib.back(), 1);
  size_t filled_mib = 0;
  for (size_t mib : plan.out_mib) {
    double gib = static_cast<double>(mib) / 1024;
    section.Announce(gib);
    double out_cpu_us = host.FillAndTakeOut(0, mib - filled_mib);
    filled_mib = mib;
    nlohmann::json figures = host.MeasureIdle();
    figures.update(host.MeasureTouches());
    figures["out_cpu_us"] = out_cpu_us;
    figures["scan_ms_per_gib"] = figures.at("scan_ms").get<double>() / gib;
    section.Add(gib, figures);
  }
  host.VerifyAndEnd();
  return section;
}

Section MeasureIn(const Plan& plan) {
  Section section("in", "one program, all of its memory in", "GiB",
                  {kIdleCpu, kScan, kScanOfGib, kWakeUps, kResident, kProportional, kMetadata});
  ScaleHost host(plan.times);
  host.Start(1, plan.in_mib.back(), 1);
  size_t filled_mib = 0;
  for (size_t mib : plan.in_mib) {
    double gib = static_cast<double>(mib) / 1024;
    section.Announce(gib);
    host.FillFirst(mib - filled_mib);
    filled_mib = mib;
    nlohmann::json figures = host.MeasureIdle();
    figures["scan_ms_per_gib"] = figures.at("scan_ms").get<double>() / gib;
    section.Add(gib, figures);
  }
  host.VerifyAndEnd();
  return section;
}

Section MeasureThreads(const Plan& plan) {
  Section section(
      "threads", absl::StrCat("one program of ", kTouchedMib, " MiB, out, touched by its threads"),
      "threads", {kOut, kIdleCpu, kScan, kWakeUps, kLoadCpu, kP50, kP99, kFlood, kResident});
  for (unsigned threads : plan.threads) {
    section.Announce(threads);
    ScaleHost host(plan.times);
    host.Start(1, kTouchedMib, threads);
    double out_cpu_us = host.FillAndTakeOut(0, kTouchedMib);
    nlohmann::json figures = host.MeasureIdle();
    figures.update(host.MeasureTouches());
    host.TakeOutFirst();
    figures.update(host.MeasureFlood());
    figures["out_cpu_us"] = out_cpu_us;
    section.Add(threads, figures);
    host.VerifyAndEnd();
  }
  return section;
}

// What each idle program adds, by the steps with the fewest and the most of them.
nlohmann::json IdleProgramCost(const Section& programs) {
  const Step& none = programs.steps().front();
  const Step& most = programs.steps().back();
  double count = most.amount - none.amount;
  auto each = [&](const char* key) {
    return (most.figures.at(key).get<double>() - none.figures.at(key).get<double>()) / count;
  };
  return {{"idle_programs", count},
          {"zmemd_cpu_of_none_percent", none.figures.at("idle_cpu_percent")},
          {"zmemd_cpu_of_all_percent", most.figures.at("idle_cpu_percent")},
          {"zmemd_cpu_us_per_s", each("idle_cpu_percent") * 1e4},
          {"zmemd_quiet_cpu_us_per_s", each("quiet_cpu_percent") * 1e4},
          {"zmemd_wake_ups_per_s", each("wake_ups_per_s")},
          {"scan_us", each("scan_ms") * 1e3},
          {"own_cpu_us_per_s", each("programs_cpu_percent") * 1e4},
          {"own_wake_ups_per_s", each("programs_wake_ups_per_s")},
          {"proportional_bytes", each("proportional_bytes")},
          {"pool_bytes", each("pool_bytes")},
          {"entries_bytes", kIdleMib << 20 >> kChunkShift << kPageShift}};
}

void PrintIdleProgramCost(const nlohmann::json& cost) {
  auto value = [&cost](const char* key) { return cost.at(key).get<double>(); };
  std::printf(
      "An idle program of %zu MiB that is out, of %g beside the one that is touched:\n"
      "  CPU time of zmemd    %8.1f µs a second, %.1f without its scans of %.0f µs each\n"
      "  ... of all of them   %8.2f %% of a CPU, %.2f %% without any\n"
      "  wake-ups of zmemd    %8.2f a second\n"
      "  CPU time of its own  %8.1f µs a second, %.2f wake-ups\n"
      "  memory of zmemd      %8.1f KiB, of which %.1f are its entries and %.1f its pages\n\n",
      kIdleMib, value("idle_programs"), value("zmemd_cpu_us_per_s"),
      value("zmemd_quiet_cpu_us_per_s"), value("scan_us"), value("zmemd_cpu_of_all_percent"),
      value("zmemd_cpu_of_none_percent"), value("zmemd_wake_ups_per_s"), value("own_cpu_us_per_s"),
      value("own_wake_ups_per_s"), value("proportional_bytes") / 1024,
      value("entries_bytes") / 1024, value("pool_bytes") / 1024);
}

struct Options {
  bool quick = false;
  std::string only;
  std::string json_path;
  bool subject = false;
  ScaleProgram::Options program;
};

constexpr const char* kSections[] = {"programs", "out", "in", "threads"};

Section Measure(const std::string& name, const Plan& plan) {
  if (name == "programs") return MeasurePrograms(plan);
  if (name == "out") return MeasureOut(plan);
  if (name == "in") return MeasureIn(plan);
  return MeasureThreads(plan);
}

void PrintInput(const Plan& plan) {
  const ScaleTimes& times = plan.times;
  std::printf(
      "input     pages of one word behind a header, checked whenever they are touched\n"
      "idle      for %g s with a scan every %g s; scan: CPU time of all programs' once, from %g s\n"
      "          with one every %g s beside it\n"
      "load      %g touches a second for %g s, all over what is out\n"
      "CPU       of one, in %%; of zmemd, as the wake-ups (w.) are, but for \"their\", of all "
      "programs\n\n",
      times.idle_seconds, times.idle_scan_interval_s, times.busy_seconds,
      times.busy_scan_interval_s, times.touches_per_s, times.touch_seconds);
}

void Run(const Options& options) {
  // Five descriptors a program, kept by whoever started it.
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  Plan plan = options.quick ? QuickPlan() : Plan();
  PrintMachine();
  PrintInput(plan);
  nlohmann::json result = {
      {"benchmark", "scale"}, {"machine", Machine()}, {"sections", nlohmann::json::array()}};
  std::vector<Section> sections;
  for (const char* name : kSections) {
    if (!options.only.empty() && options.only != name) continue;
    sections.push_back(Measure(name, plan));
    sections.back().PrintTable();
    std::fflush(stdout);
    result["sections"].push_back(sections.back().Json());
    if (sections.back().name() != "programs") continue;
    result["idle_program"] = IdleProgramCost(sections.back());
    PrintIdleProgramCost(result["idle_program"]);
  }
  for (const Section& section : sections) section.PrintGrowth();
  WriteJson(options.json_path, result);
}

int Main(const Options& options) {
  if (options.subject) return ScaleProgram(options.program).Serve();
  return RunBench("scale", [&] { Run(options); });
}

}  // namespace
}  // namespace zmem

int main(int argc, char** argv) {
  zmem::Options options;
  CLI::App app(
      "Measures how zmemd grows with the programs, the memory and the threads that it manages.\n"
      "Takes about ten minutes, and 5 GiB of memory.");
  app.add_flag("--quick", options.quick, "smaller and shorter, in less than a minute");
  app.add_option("--only", options.only, "programs, out, in or threads")
      ->check(CLI::IsMember({"programs", "out", "in", "threads"}));
  app.add_option("--json", options.json_path, "also write the results here");
  app.add_flag("--subject", options.subject, "be a program that is measured")->group("");
  app.add_option("--pages", options.program.pages, "of its memory")->group("");
  app.add_option("--slice-pages", options.program.slice_pages, "filled at once")->group("");
  app.add_option("--threads", options.program.threads, "that touch")->group("");
  app.add_option("--rate", options.program.touches_per_s, "of touches")->group("");
  app.add_option("--seconds", options.program.seconds, "of touching")->group("");
  CLI11_PARSE(app, argc, argv);
  return zmem::Main(options);
}
