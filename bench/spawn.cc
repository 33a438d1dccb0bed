// What LD_PRELOAD=libzmem.so adds to the start of a program that does nothing: /bin/true, started
// by turns without it, with it and a daemon, and with it and no daemon.
//   spawn [--runs N] [--json FILE]
#include <spawn.h>
#include <sys/wait.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "bench/machine.h"
#include "bench/run.h"
#include "bench/samples.h"
#include "libzmem/base/clock.h"
#include "tests/harness.h"

namespace zmem {
namespace {

// One way of starting /bin/true, and what its starts took.
struct Way {
  std::string name;
  std::vector<std::string> env;
  std::vector<int64_t> taken_ns;
};

std::vector<std::string> Environment(const std::map<std::string, std::string>& variables) {
  std::vector<std::string> env = {"PATH=/usr/bin:/bin", "LANG=C.UTF-8"};
  for (const auto& [name, value] : variables) env.push_back(name + "=" + value);
  return env;
}

// posix_spawn (vfork and exec) to the end of waitpid.
int64_t TimeOneRun(Way& way) {
  char path[] = "/bin/true";
  char* argv[] = {path, nullptr};
  std::vector<char*> env;
  for (std::string& variable : way.env) env.push_back(variable.data());
  env.push_back(nullptr);
  MonotonicClock clock;
  int64_t start_ns = clock.now_ns();
  pid_t pid = -1;
  int error = posix_spawn(&pid, path, nullptr, nullptr, argv, env.data());
  if (error != 0) throw HarnessError(std::string("posix_spawn: ") + std::strerror(error));
  int status = -1;
  CheckErrno(waitpid(pid, &status, 0), "waitpid");
  int64_t taken_ns = clock.now_ns() - start_ns;
  if (status != 0) throw HarnessError("/bin/true failed with " + way.name);
  return taken_ns;
}

void Run(int runs, std::vector<Way>& ways) {
  constexpr int kWarmUp = 50;
  for (int run = -kWarmUp; run < runs; ++run) {
    // Another one goes first each time, so that none always follows the same one.
    for (size_t i = 0; i < ways.size(); ++i) {
      Way& way = ways[(i + static_cast<size_t>(run + kWarmUp)) % ways.size()];
      int64_t taken_ns = TimeOneRun(way);
      if (run >= 0) way.taken_ns.push_back(taken_ns);
    }
  }
  for (Way& way : ways) std::sort(way.taken_ns.begin(), way.taken_ns.end());
}

double Microseconds(int64_t ns) { return static_cast<double>(ns) / 1e3; }

nlohmann::json Report(int runs, const std::vector<Way>& ways) {
  PrintMachine();
  std::printf("input     %d runs of /bin/true each, by turns, posix_spawn to waitpid\n\n", runs);
  std::printf("%-32s %12s %12s %14s\n", "", "median µs", "p99 µs", "added µs");
  nlohmann::json result = {{"benchmark", "spawn"}, {"machine", Machine()}, {"runs", runs}};
  int64_t plain_ns = Percentile(ways[0].taken_ns, 50);
  for (const Way& way : ways) {
    int64_t median_ns = Percentile(way.taken_ns, 50);
    int64_t p99_ns = Percentile(way.taken_ns, 99);
    std::printf("%-32s %12.1f %12.1f %14s\n", way.name.c_str(), Microseconds(median_ns),
                Microseconds(p99_ns),
                &way == &ways[0]
                    ? ""
                    : absl::StrFormat("%+.1f", Microseconds(median_ns - plain_ns)).c_str());
    result["ways"].push_back({{"name", way.name},
                              {"median_ns", median_ns},
                              {"p99_ns", p99_ns},
                              {"added_ns", median_ns - plain_ns}});
  }
  return result;
}

int Main(int runs, const std::string& json_path) {
  return RunBench("spawn", [&] {
    Daemon daemon;
    std::string library = Runfile("preload/libzmem.so");
    std::vector<Way> ways = {
        {"without libzmem.so", Environment({}), {}},
        {"with it, zmemd running",
         Environment({{"LD_PRELOAD", library}, {"ZMEM_SOCKET", daemon.socket()}}),
         {}},
        {"with it, no zmemd",
         Environment(
             {{"LD_PRELOAD", library}, {"ZMEM_SOCKET", daemon.directory().File("nobody.sock")}}),
         {}},
    };
    Run(runs, ways);
    daemon.Stop();
    WriteJson(json_path, Report(runs, ways));
  });
}

}  // namespace
}  // namespace zmem

int main(int argc, char** argv) {
  int runs = 2000;
  std::string json_path;
  CLI::App app("Measures what libzmem.so adds to a program's start.");
  app.add_option("--runs", runs, "of each way")->check(CLI::Range(1, 1'000'000));
  app.add_option("--json", json_path, "also write the results here");
  CLI11_PARSE(app, argc, argv);
  return zmem::Main(runs, json_path);
}
