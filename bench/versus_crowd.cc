// Case 11 of bench/versus_kernel: many managed programs that want pages back at once, beside one
// program that wants as many of them as all together, with a thread on each CPU.
#include <unistd.h>

#include <algorithm>

#include "bench/samples.h"
#include "bench/versus_bench.h"

namespace zmem {
namespace {

constexpr int kPrograms = 64;
// Far from what the CPUs could do, so that what is measured is the service and not a queue.
constexpr double kFaultsPerCpu = 8000;
constexpr std::chrono::seconds kAnswerTimeout{60};
// More than are touched.
constexpr double kSparePages = 1.5;

// Programs of one daemon, which are given the same command at the same time.
class Crowd {
 public:
  Crowd(int programs, int threads, double faults_per_s, double seconds)
      : keeper_(KeepByZmem(kEvictByHand)) {
    auto pages = static_cast<uint32_t>(faults_per_s * seconds * kSparePages / programs) + 512;
    for (int i = 0; i < programs; ++i) {
      programs_.push_back(std::make_unique<KeptProgram>(
          *keeper_, VersusProgram::Options{.pages = pages,
                                           .seconds = seconds,
                                           .faults_per_s = faults_per_s / programs,
                                           .threads = threads,
                                           .seed = static_cast<uint64_t>(i) + 1}));
      programs_.back()->Measure("fill");
    }
  }

  // Takes everything out and has it wanted back. Returns the 99th percentile in µs.
  double Repeat() {
    for (auto& program : programs_) program->TakeOut();
    for (auto& program : programs_) program->child().Send("paced");
    std::vector<int64_t> taken_ns;
    for (auto& program : programs_) {
      ParseMeasured(program->child().ReadLine(kAnswerTimeout));
      std::vector<int64_t> samples = program->Samples();
      taken_ns.insert(taken_ns.end(), samples.begin(), samples.end());
    }
    std::sort(taken_ns.begin(), taken_ns.end());
    return static_cast<double>(Percentile(taken_ns, 99)) / 1e3;
  }

  void VerifyAndStop() {
    for (auto& program : programs_) program->Do("verify");
    programs_.clear();
    keeper_->Stop();
  }

 private:
  std::unique_ptr<MemoryKeeper> keeper_;
  std::vector<std::unique_ptr<KeptProgram>> programs_;
};

}  // namespace

void RunCrowd(VersusBench& bench) {
  auto cpus = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  double faults_per_s = kFaultsPerCpu * cpus;
  Crowd many(kPrograms, 1, faults_per_s, bench.options().seconds);
  Crowd one(1, cpus, faults_per_s, bench.options().seconds);
  bench.Repeat([&] {
    double p99_us = many.Repeat();
    bench.Add({{"crowd.p99", p99_us}}, Figures{{"crowd.p99", one.Repeat()}});
  });
  many.VerifyAndStop();
  one.VerifyAndStop();
}

}  // namespace zmem
