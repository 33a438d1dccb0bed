// What being managed costs a program of which nothing is ever taken out: work on memory, with and
// without libzmem.so. Pairs of processes, one of each kind, work by turns in short slices, so that
// what else the machine does meets both; several pairs, because every process is laid out anew.
// Steps are counted per second of CPU time of the whole process, the agent's included; the ratio by
// wall time is printed beside it.
// The bench runs itself again as the program (--subject).
//   overhead [--pairs N] [--slices N] [--seconds S] [--json FILE]
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/machine.h"
#include "bench/run.h"
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
  int pairs = 3;
  int slices = 40;
  double slice_s = 0.1;
  std::string json_path;
  bool subject = false;
};

int64_t ProcessCpuNs() {
  timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return now.tv_sec * int64_t{1'000'000'000} + now.tv_nsec;
}

// Does `step`, which is some hundreds of microseconds of work, for `slice_s`; answers steps per
// second, as JSON.
template <typename Step>
std::string Rate(double slice_s, Step step) {
  MonotonicClock clock;
  auto budget_ns = static_cast<int64_t>(slice_s * 1e9);
  int64_t start_cpu_ns = ProcessCpuNs();
  int64_t start_ns = clock.now_ns();
  double steps = 0;
  int64_t taken_ns = 0;
  while (taken_ns < budget_ns) {
    step();
    ++steps;
    taken_ns = clock.now_ns() - start_ns;
  }
  auto cpu_ns = static_cast<double>(ProcessCpuNs() - start_cpu_ns);
  nlohmann::json rates = {{"cpu", steps * 1e9 / cpu_ns},
                          {"wall", steps * 1e9 / static_cast<double>(taken_ns)}};
  return rates.dump();
}

int ServeAsSubject(double slice_s) {
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
  int code = ServeCommands({{"malloc", [&] { return Rate(slice_s, allocate); }},
                            {"random", [&] { return Rate(slice_s, access); }},
                            {"scan", [&] { return Rate(slice_s, scan); }}});
  for (void* object : objects) std::free(object);
  return code;
}

constexpr const char* kWork[] = {"malloc", "random", "scan"};

nlohmann::json AskRate(Child& child, const char* work) {
  std::string answer = child.Ask(work, kAnswerTimeout);
  nlohmann::json rate = nlohmann::json::parse(answer, nullptr, false);
  if (rate.is_discarded()) throw HarnessError("the subject says: " + answer);
  return rate;
}

// One pair of fresh processes; adds their slices to `slices`.
void MeasurePair(const Options& options, const Daemon& daemon, nlohmann::json& slices) {
  std::vector<std::string> argv = {"/proc/self/exe", "--subject", "--seconds",
                                   absl::StrCat(options.slice_s)};
  Child without({.argv = argv});
  Child with(Managed(daemon, argv));
  without.ReadLine(kAnswerTimeout);
  with.ReadLine(kAnswerTimeout);
  WaitAttached(daemon, with);
  for (const char* work : kWork) {
    for (int slice = 0; slice < options.slices; ++slice) {
      bool with_first = slice % 2 == 0;
      nlohmann::json first = AskRate(with_first ? with : without, work);
      nlohmann::json second = AskRate(with_first ? without : with, work);
      slices[work].push_back(
          {{"with", with_first ? first : second}, {"without", with_first ? second : first}});
    }
  }
  // What was to be measured is a program left alone.
  if (daemon.Process(with.pid()).at("stored_pages") != 0) {
    throw HarnessError("pages were taken out");
  }
}

nlohmann::json Run(const Options& options) {
  Daemon daemon;  // evicts by hand only, which is never
  nlohmann::json slices;
  for (int pair = 0; pair < options.pairs; ++pair) MeasurePair(options, daemon, slices);
  daemon.Stop();
  return {{"benchmark", "overhead"},    {"machine", Machine()},
          {"pairs", options.pairs},     {"slices_per_pair", options.slices},
          {"slice_s", options.slice_s}, {"slices", slices}};
}

// Of one kind of work and one clock: what each slice reached with libzmem.so, over without.
std::vector<double> Ratios(const nlohmann::json& slices, const char* clock) {
  std::vector<double> ratios;
  for (const nlohmann::json& slice : slices) {
    ratios.push_back(slice.at("with").at(clock).get<double>() /
                     slice.at("without").at(clock).get<double>());
  }
  std::sort(ratios.begin(), ratios.end());
  return ratios;
}

double MedianRate(const nlohmann::json& slices, const char* side) {
  std::vector<double> rates;
  for (const nlohmann::json& slice : slices) rates.push_back(slice.at(side).at("cpu"));
  return Median(rates);
}

void Print(const Options& options, const nlohmann::json& all) {
  PrintMachine();
  std::printf("input     %d pairs of processes, %d slices of %.1f s of each work, by turns\n\n",
              options.pairs, options.slices, options.slice_s);
  std::printf("%-8s %14s %14s %14s %22s %14s\n", "", "without /cpu-s", "with /cpu-s",
              "with/without", "middle half of slices", "by wall time");
  for (const char* work : kWork) {
    const nlohmann::json& slices = all.at(work);
    std::vector<double> ratios = Ratios(slices, "cpu");
    std::printf("%-8s %14.1f %14.1f %14.4f %12.4f to %6.4f %14.4f\n", work,
                MedianRate(slices, "without"), MedianRate(slices, "with"), Median(ratios),
                ratios[ratios.size() / 4], ratios[ratios.size() * 3 / 4],
                Median(Ratios(slices, "wall")));
  }
}

int Main(const Options& options) {
  if (options.subject) return ServeAsSubject(options.slice_s);
  return RunBench("overhead", [&] {
    nlohmann::json result = Run(options);
    Print(options, result.at("slices"));
    WriteJson(options.json_path, result);
  });
}

}  // namespace
}  // namespace zmem

int main(int argc, char** argv) {
  zmem::Options options;
  CLI::App app("Measures what libzmem.so costs a program of which nothing is taken out.");
  app.add_option("--pairs", options.pairs, "of processes")->check(CLI::Range(1, 1000));
  app.add_option("--slices", options.slices, "of each work")->check(CLI::Range(1, 100'000));
  app.add_option("--seconds", options.slice_s, "of a slice");
  app.add_option("--json", options.json_path, "also write the results here");
  app.add_flag("--subject", options.subject, "be the program that is measured")->group("");
  CLI11_PARSE(app, argc, argv);
  return zmem::Main(options);
}
