// zmem beside what the kernel has: zram (lz4) with a memory cgroup, and plain swap to a file. One
// run of ten minutes at most on two CPUs measures all cases, each in several repetitions of zmem
// and peer by turns, and prints for each figure the median and the spread of the pairs' ratios, and
// whether its target is met. Table, JSON and pictures go to a folder.
// Every byte that programs read back is checked; the bench ends with 1 if one was wrong or
// something that it set up could not be taken down, and with 0 whatever the figures are.
//   versus_kernel [--mib N] [--repetitions N] [--only CASE,...] [--quick] [--out DIR] [--json FILE]
// The bench runs itself again as the programs that are measured (subject).
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bench/machine.h"
#include "bench/versus_bench.h"
#include "bench/versus_plots.h"
#include "tests/guardian.h"

namespace zmem {
namespace {

const std::vector<VersusGroup> kGroups = {
    {"refault", {"refault", "threads", "sequential", "eviction", "memory"}, 3, 12, RunRefault},
    {"crowd", {"crowd"}, 30, 5, RunCrowd},
    {"squeeze", {"scan", "random"}, 110, 22, RunSqueeze},
    {"growth", {"growth"}, 1, 8, RunGrowth},
    {"redis", {"redis"}, 12, 7, RunRedis},
    {"compile", {"compile"}, 15, 35, RunCompile},
};

std::string DefaultFolder() {
  const char* workspace = std::getenv("BUILD_WORKSPACE_DIRECTORY");
  return absl::StrCat(workspace == nullptr ? "." : workspace, "/versus_kernel");
}

struct Output {
  std::string folder = DefaultFolder();
  std::string json_path;
};

// The rows of the cases named, by name or number; of all if none is.
std::vector<const Row*> Select(const std::vector<std::string>& cases) {
  std::vector<const Row*> selected;
  for (const Row& row : AllRows()) {
    bool is_named = std::any_of(cases.begin(), cases.end(), [&row](const std::string& name) {
      return name == row.case_name() || name == std::to_string(row.number);
    });
    if (cases.empty() || is_named) selected.push_back(&row);
  }
  return selected;
}

std::string CheckCase(const std::string& name) {
  return Select({name}).empty() ? "there is no case " + name : "";
}

std::string Introduction(const VersusOptions& options) {
  nlohmann::json machine = Machine();
  return absl::StrFormat(
      "%s, %d CPUs, %.1f GiB, %s; programs of %d MiB, %d pairs of runs by turns\n",
      machine.at("cpu").get<std::string>(), machine.at("cpus").get<int>(),
      machine.at("memory_bytes").get<double>() / (1 << 30), machine.at("kernel").get<std::string>(),
      options.mib, options.repetitions);
}

void WriteFile(const std::string& path, const std::string& text) {
  std::ofstream file(path);
  file << text;
  file.close();
  if (!file) throw HarnessError("cannot write " + path);
}

void Report(VersusBench& bench, const Output& output) {
  std::filesystem::create_directories(output.folder);
  if (std::string why = DrawPlots(bench.results(), output.folder); !why.empty()) {
    bench.results().AddNote(why);
  }
  const VersusResults& results = bench.results();
  std::string introduction = Introduction(bench.options());
  std::printf("%s\n%s\n", introduction.c_str(), results.Table(bench.selected()).c_str());
  WriteFile(output.folder + "/versus_kernel.md",
            absl::StrCat(introduction, "\n", results.Markdown(bench.selected())));
  nlohmann::json json = results.Json(bench.selected());
  json.update({{"benchmark", "versus_kernel"},
               {"machine", Machine()},
               {"mib", bench.options().mib},
               {"repetitions", bench.options().repetitions},
               {"seconds", bench.options().seconds}});
  WriteJson(output.folder + "/versus_kernel.json", json);
  WriteJson(output.json_path, json);
  std::printf("table, JSON and pictures: %s\n", output.folder.c_str());
}

int Run(const VersusOptions& options, const std::vector<std::string>& cases, const Output& output) {
  try {
    VersusBench bench(options, Select(cases));
    bench.Run(kGroups);
    Report(bench, output);
    return bench.any_wrong() || Guardian::AnyFailed() ? 1 : 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "versus_kernel: %s\n", error.what());
    return 1;
  }
}

void AddSubject(CLI::App& app, VersusProgram::Options& options) {
  CLI::App* subject = app.add_subcommand("subject", "be a program that is measured")->group("");
  subject->add_option("--pages", options.pages);
  subject->add_option("--seconds", options.seconds);
  subject->add_option("--settle", options.settle_s);
  subject->add_option("--faults", options.faults_per_s);
  subject->add_option("--threads", options.threads);
  subject->add_option("--seed", options.seed);
  subject->add_option("--samples", options.samples_path);
}

}  // namespace
}  // namespace zmem

int main(int argc, char** argv) {
  zmem::VersusOptions options;
  zmem::Output output;
  std::vector<std::string> cases;
  zmem::VersusProgram::Options subject;
  CLI::App app("Measures zmem beside the kernel's zram and plain swap.");
  // First, so that what is given beside it counts.
  bool quick = std::find(argv, argv + argc, std::string("--quick")) != argv + argc;
  if (quick) options.MakeQuick();
  app.add_flag("--quick", quick, "small and short, for trying: two minutes or so");
  app.add_option("--mib", options.mib, "size of the squeezed programs; others are a quarter of it")
      ->capture_default_str()
      ->check(CLI::Range(64, 2048));
  app.add_option("--repetitions", options.repetitions, "pairs of runs")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000));
  app.add_option("--budget", options.budget_s,
                 "seconds in all; where they do not suffice there are fewer repetitions")
      ->capture_default_str();
  app.add_option("--only", cases, "these cases, by number or name")
      ->delimiter(',')
      ->check(CLI::Validator(zmem::CheckCase, "CASE"));
  app.add_option("--directory", options.swap_directory, "on a disk, for the swap file")
      ->capture_default_str()
      ->check(CLI::ExistingDirectory);
  app.add_option("--out", output.folder, "for table, JSON and pictures")->capture_default_str();
  app.add_option("--json", output.json_path, "also write the JSON here");
  zmem::AddSubject(app, subject);
  CLI11_PARSE(app, argc, argv);
  if (app.got_subcommand("subject")) return zmem::VersusProgram(subject).Serve();
  return zmem::Run(options, cases, output);
}
