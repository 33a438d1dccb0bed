// What being managed costs a program of which nothing is ever taken out: work on memory, with and
// without libzmem.so, by turns, in fresh processes.
// The bench runs itself again as the program (--subject).
//   overhead [--rounds N] [--seconds S] [--json FILE]
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <numeric>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/machine.h"
#include "bench/samples.h"
#include "libzmem/base/clock.h"
#include "tests/harness.h"
#include "tests/programs/command_loop.h"

namespace zmem {
namespace {

constexpr std::chrono::seconds kAnswerTimeout{120};
constexpr size_t kArrayWords = (size_t{256} << 20) / sizeof(uint64_t);
constexpr size_t kObjects = 200'000;

struct Options {
  int rounds = 11;
  double work_s = 1;
  std::string json_path;
  bool subject = false;
};

// Does `step`, which is some hundreds of microseconds of work, for `work_s`; answers steps per
// second.
template <typename Step>
std::string Rate(double work_s, Step step) {
  MonotonicClock clock;
  auto budget_ns = static_cast<int64_t>(work_s * 1e9);
  int64_t start_ns = clock.now_ns();
  int64_t steps = 0;
  int64_t taken_ns = 0;
  while (taken_ns < budget_ns) {
    step();
    ++steps;
    taken_ns = clock.now_ns() - start_ns;
  }
  return absl::StrCat(static_cast<double>(steps) * 1e9 / static_cast<double>(taken_ns));
}

int ServeAsSubject(double work_s) {
  std::vector<uint64_t> array(kArrayWords);
  std::iota(array.begin(), array.end(), 0);
  std::vector<void*> objects(kObjects, nullptr);
  std::mt19937_64 random(1);
  volatile uint64_t sink = 0;

  auto allocate = [&] {
    for (int i = 0; i < 2000; ++i) {
      void*& object = objects[random() % kObjects];
      std::free(object);
      size_t bytes = 16 + random() % 2000;
      object = std::malloc(bytes);
      *static_cast<char*>(object) = 1;
    }
  };
  auto access = [&] {
    for (int i = 0; i < 20'000; ++i) array[random() % kArrayWords] += 1;
  };
  auto scan = [&] {
    size_t start = random() % (kArrayWords - (size_t{1} << 18));
    sink =
        sink + std::accumulate(array.data() + start, array.data() + start + (1 << 18), uint64_t{0});
  };
  int code = ServeCommands({{"malloc", [&] { return Rate(work_s, allocate); }},
                            {"random", [&] { return Rate(work_s, access); }},
                            {"scan", [&] { return Rate(work_s, scan); }}});
  for (void* object : objects) std::free(object);
  return code;
}

constexpr const char* kWork[] = {"malloc", "random", "scan"};

// The rates of each kind of work, in one fresh process.
std::map<std::string, double> MeasureOnce(Child& child, const Daemon* daemon) {
  child.ReadLine(kAnswerTimeout);
  if (daemon != nullptr) WaitAttached(*daemon, child);
  std::map<std::string, double> rates;
  for (const char* work : kWork) {
    std::string answer = child.Ask(work, kAnswerTimeout);
    rates[work] = std::strtod(answer.c_str(), nullptr);
    if (rates[work] <= 0) throw HarnessError("the subject says: " + answer);
  }
  // What was to be measured is a program left alone.
  if (daemon != nullptr && daemon->Process(child.pid()).at("stored_pages") != 0) {
    throw HarnessError("pages were taken out");
  }
  return rates;
}

nlohmann::json Run(const Options& options) {
  Daemon daemon;  // evicts by hand only, which is never
  std::vector<std::string> argv = {"/proc/self/exe", "--subject", "--seconds",
                                   absl::StrCat(options.work_s)};
  std::map<std::string, std::vector<double>> with;
  std::map<std::string, std::vector<double>> without;
  for (int round = 0; round < options.rounds; ++round) {
    for (bool managed : {round % 2 == 0, round % 2 != 0}) {
      Child child(managed ? Managed(daemon, argv) : ChildOptions{.argv = argv});
      for (const auto& [work, rate] : MeasureOnce(child, managed ? &daemon : nullptr)) {
        (managed ? with : without)[work].push_back(rate);
      }
    }
  }
  daemon.Stop();
  return {{"benchmark", "overhead"},
          {"machine", Machine()},
          {"rounds", options.rounds},
          {"with", with},
          {"without", without}};
}

void Print(const Options& options, const nlohmann::json& result) {
  PrintMachine();
  std::printf("input     %d rounds by turns, %.1f s of each work in a fresh process\n\n",
              options.rounds, options.work_s);
  std::printf("%-10s %16s %16s %12s %22s\n", "work", "without steps/s", "with steps/s",
              "with/without", "spread of the rounds");
  for (const char* work : kWork) {
    auto with = result.at("with").at(work).get<std::vector<double>>();
    auto without = result.at("without").at(work).get<std::vector<double>>();
    std::vector<double> ratios;
    for (size_t round = 0; round < with.size(); ++round) {
      ratios.push_back(with[round] / without[round]);
    }
    auto [least, most] = std::minmax_element(ratios.begin(), ratios.end());
    std::printf("%-10s %16.1f %16.1f %12.4f %10.4f to %8.4f\n", work, Median(without), Median(with),
                Median(ratios), *least, *most);
  }
}

int Main(const Options& options) {
  if (options.subject) return ServeAsSubject(options.work_s);
  try {
    nlohmann::json result = Run(options);
    Print(options, result);
    WriteJson(options.json_path, result);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "overhead: %s\n", error.what());
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace zmem

int main(int argc, char** argv) {
  zmem::Options options;
  CLI::App app("Measures what libzmem.so costs a program of which nothing is taken out.");
  app.add_option("--rounds", options.rounds, "runs of each side")->check(CLI::Range(1, 1000));
  app.add_option("--seconds", options.work_s, "of each work in each round");
  app.add_option("--json", options.json_path, "also write the results here");
  app.add_flag("--subject", options.subject, "be the program that is measured")->group("");
  CLI11_PARSE(app, argc, argv);
  return zmem::Main(options);
}
