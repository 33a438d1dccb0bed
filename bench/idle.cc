// What zmemd costs a machine on which nothing happens: CPU time of the daemon and of the agent in a
// managed program that sleeps, and the metadata it keeps.
// The bench runs itself again as the program (--subject).
//   idle [--mib N] [--seconds N] [--json FILE]
#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/cpu_time.h"
#include "bench/machine.h"
#include "bench/run.h"
#include "tests/harness.h"
#include "tests/programs/command_loop.h"
#include "tests/programs/pattern_region.h"

namespace zmem {
namespace {

constexpr std::chrono::seconds kAnswerTimeout{120};

// It looks for cold pages as often as it does by default, and leaves them for the bench to take
// out.
constexpr char kScanButDoNotEvict[] = "[policy]\ncold_age=1h\n";

struct Options {
  size_t mib = 400;
  unsigned seconds = 60;
  std::string json_path;
  bool subject = false;
};

// Of one CPU, in per cent, while nothing but time passes.
struct IdleCost {
  double daemon_percent;
  double program_percent;
};

IdleCost Watch(const Options& options, pid_t daemon, pid_t program) {
  double daemon_before = CpuSeconds(daemon);
  double program_before = CpuSeconds(program);
  std::this_thread::sleep_for(std::chrono::seconds(options.seconds));
  return {(CpuSeconds(daemon) - daemon_before) / options.seconds * 100,
          (CpuSeconds(program) - program_before) / options.seconds * 100};
}

nlohmann::json Describe(const char* state, const IdleCost& cost, const nlohmann::json& status) {
  const nlohmann::json& process = status.at("processes").at(0);
  double managed_bytes = process.at("resident_bytes").get<double>() +
                         process.at("stored_pages").get<double>() * kPageBytes;
  double metadata_percent = status.at("metadata_bytes").get<double>() / managed_bytes * 100;
  std::printf("%-28s %14.2f %14.2f %16.2f\n", state, cost.daemon_percent, cost.program_percent,
              metadata_percent);
  return {{"state", state},
          {"daemon_cpu_percent", cost.daemon_percent},
          {"program_cpu_percent", cost.program_percent},
          {"metadata_percent", metadata_percent}};
}

nlohmann::json Run(const Options& options) {
  nlohmann::json result = {
      {"benchmark", "idle"}, {"machine", Machine()}, {"seconds", options.seconds}};
  PrintMachine();
  std::printf("input     one sleeping program of %zu MiB, %u s each; CPU in %% of one\n\n",
              options.mib, options.seconds);
  std::printf("%-28s %14s %14s %16s\n", "", "zmemd %", "its agent %", "metadata %");
  Daemon daemon({.config = kScanButDoNotEvict});
  Child program(
      Managed(daemon, {"/proc/self/exe", "--subject", "--mib", absl::StrCat(options.mib)}));
  program.ReadLine(kAnswerTimeout);
  WaitAttached(daemon, program);
  IdleCost fresh = Watch(options, daemon.pid(), program.pid());
  result["states"].push_back(Describe("attached, all in memory", fresh, daemon.Status()));
  daemon.Evict(program.pid());
  IdleCost cold = Watch(options, daemon.pid(), program.pid());
  result["states"].push_back(Describe("everything taken out", cold, daemon.Status()));
  daemon.Stop();
  return result;
}

int Main(const Options& options) {
  if (options.subject) {
    PatternRegion region(options.mib << 20 >> kPageShift, PageContent::kCompressible);
    region.Fill(1);
    return ServeCommands({});
  }
  return RunBench("idle", [&] { WriteJson(options.json_path, Run(options)); });
}

}  // namespace
}  // namespace zmem

int main(int argc, char** argv) {
  zmem::Options options;
  CLI::App app("Measures what zmemd costs when nothing happens.");
  app.add_option("--mib", options.mib, "size of the program");
  app.add_option("--seconds", options.seconds, "how long to watch")->check(CLI::Range(1, 86'400));
  app.add_option("--json", options.json_path, "also write the results here");
  app.add_flag("--subject", options.subject, "be the program that is measured")->group("");
  CLI11_PARSE(app, argc, argv);
  return zmem::Main(options);
}
