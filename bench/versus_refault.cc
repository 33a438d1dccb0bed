// Cases 1 to 4 and 10 of bench/versus_kernel: programs whose memory is taken out whole, and wanted
// back one page after the other.
#include <algorithm>
#include <chrono>
#include <thread>

#include "absl/strings/str_format.h"
#include "bench/samples.h"
#include "bench/versus_bench.h"

namespace zmem {
namespace {

constexpr uint32_t kSizeDivisor = 4;  // of the size of the squeezed programs
constexpr double kLeastOut = 0.95;    // less has not done what is to be measured
// How long what was put aside for the pages that go out next may stay before memory is read.
constexpr std::chrono::milliseconds kUpkeepTime{1500};

class Side {
 public:
  Side(const VersusBench& bench, KeptProgram& program, MemoryKeeper& keeper)
      : bench_(bench), program_(program), keeper_(keeper) {}

  Figures Repeat() {
    Figures figures;
    MeasureEviction(figures);
    if (bench_.Wants("refault")) MeasureOne(figures);
    if (bench_.Wants("threads")) {
      program_.TakeOut();
      figures["threads.rate"] = Touch("threads").per_s();
    }
    if (bench_.Wants("sequential")) {
      program_.TakeOut();
      figures["sequential.rate"] = Touch("sequential").per_s() * kPageBytes / (1 << 30);
    }
    return figures;
  }

  // Of all repetitions, sorted: in nanoseconds.
  std::vector<int64_t> SortedSamples() const {
    std::vector<int64_t> sorted = samples_;
    std::sort(sorted.begin(), sorted.end());
    return sorted;
  }

 private:
  // Of pages that have all been written to since they were out, so that nothing kept of them helps.
  void MeasureEviction(Figures& figures) {
    program_.Do("rewrite");
    double before_s = keeper_.CpuSecondsFor(program_);
    program_.TakeOut();
    double taken_s = keeper_.CpuSecondsFor(program_) - before_s;
    uint32_t out_pages = program_.options().pages - program_.ResidentPages();
    figures["eviction.rate"] = out_pages / taken_s;
    std::this_thread::sleep_for(kUpkeepTime);
    figures["memory.held"] = keeper_.StoredPageBytes();
  }

  void MeasureOne(Figures& figures) {
    Touch("one");
    std::vector<int64_t> taken_ns = program_.Samples();
    samples_.insert(samples_.end(), taken_ns.begin(), taken_ns.end());
    std::sort(taken_ns.begin(), taken_ns.end());
    figures["refault.p50"] = static_cast<double>(Percentile(taken_ns, 50)) / 1e3;
    figures["refault.p99"] = static_cast<double>(Percentile(taken_ns, 99)) / 1e3;
  }

  Measured Touch(const std::string& command) {
    Measured measured = program_.Measure(command);
    if (measured.operations < kLeastOut * program_.options().pages) {
      throw HarnessError(absl::StrFormat("only %.1f %% of the pages were out",
                                         measured.operations / program_.options().pages * 100));
    }
    return measured;
  }

  const VersusBench& bench_;
  KeptProgram& program_;
  MemoryKeeper& keeper_;
  std::vector<int64_t> samples_;
};

// What a plot of a distribution needs: [percent, nanoseconds], closer together towards the end.
nlohmann::json Quantiles(const std::vector<int64_t>& sorted) {
  nlohmann::json quantiles = nlohmann::json::array();
  for (double beyond = 100; beyond >= 0.01; beyond /= 1.1) {
    quantiles.push_back({100 - beyond, Percentile(sorted, std::max(100 - beyond, 0.01))});
  }
  return quantiles;
}

}  // namespace

void RunRefault(VersusBench& bench) {
  ProgramPair pair(kEvictByHand, {.pages = bench.options().pages() / kSizeDivisor, .threads = 2});
  Side zmem(bench, *pair.zmem, *pair.zmem_keeper);
  std::optional<Side> zram;
  if (pair.zram) zram.emplace(bench, *pair.zram, *pair.zram_keeper);
  pair.ForEach([](KeptProgram& program, MemoryKeeper&) { program.Measure("fill"); });
  bench.Repeat([&] {
    Figures figures = zmem.Repeat();
    bench.Add(figures, zram ? std::optional(zram->Repeat()) : std::nullopt);
  });
  if (bench.Wants("refault")) {
    nlohmann::json& latency = bench.results().details()["refault_ns"];
    latency["zmem"] = Quantiles(zmem.SortedSamples());
    if (zram) latency["zram"] = Quantiles(zram->SortedSamples());
  }
  pair.VerifyAndStop();
}

}  // namespace zmem
