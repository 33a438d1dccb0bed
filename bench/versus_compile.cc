// Case 9 of bench/versus_kernel: a compile job in a memory cgroup that has room for half of what it
// needs. Beside zmem, which has its pool and no swap, the job with swap to a file and with zram.
// The objects must be the same, bit for bit.
#include "absl/strings/str_format.h"
#include "bench/compile_job.h"
#include "bench/versus_bench.h"

namespace zmem {
namespace {

using Means = CompileJob::Means;

// Kills of one job after which it is given up.
constexpr int kMostKills = 10;

const char* Name(Means means) {
  switch (means) {
    case Means::kNone:
      return "no means";
    case Means::kZmem:
      return "zmem";
    case Means::kZram:
      return "zram";
    case Means::kSwapFile:
      return "the swap file";
  }
  return "";
}

class Jobs {
 public:
  explicit Jobs(VersusBench& bench) : bench_(bench) {}

  // With all the memory it wants; the first time only fills the page cache.
  void MeasurePlain() {
    bench_.Tell("compiling without a limit");
    Once({});
    plain_ = Once({});
  }

  void Repeat() {
    CompileJob::Result zmem = Squeezed(Means::kZmem);
    Figures figures = {{"compile.time", zmem.elapsed_s},
                       {"compile.io", Mib(zmem.io_bytes)},
                       {"compile.zram", zmem.elapsed_s}};
    Figures peers;
    if (CompileJob::WhyUnavailable(Means::kSwapFile).empty()) {
      CompileJob::Result swapped = Squeezed(Means::kSwapFile);
      peers["compile.time"] = swapped.elapsed_s;
      peers["compile.io"] = Mib(swapped.io_bytes);
    }
    if (CompileJob::WhyUnavailable(Means::kZram).empty()) {
      CompileJob::Result zram = Squeezed(Means::kZram);
      peers["compile.zram"] = zram.elapsed_s;
    }
    bench_.Add(figures, peers);
  }

  void Describe() const {
    auto held = [this](Means means) {
      auto found = most_held_bytes_.find(means);
      return found == most_held_bytes_.end() ? 0 : Mib(found->second);
    };
    bench_.results().AddNote(absl::StrFormat(
        "compile: %.1f s without a limit, peak %.0f MiB, limit %.0f MiB; beside that zmemd held "
        "%.0f MiB at most and used %.1f s of CPU time, zram held %.0f MiB",
        plain_.elapsed_s, Mib(plain_.peak_bytes), Mib(plain_.peak_bytes / 2), held(Means::kZmem),
        zmemd_cpu_s_, held(Means::kZram)));
    for (auto [means, count] : kills_) {
      bench_.results().AddNote(
          absl::StrFormat("compile: over %s the kernel killed a compiler %d times for want of "
                          "room; the job was run again",
                          Name(means), count));
    }
  }

 private:
  static double Mib(uint64_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

  CompileJob::Result Squeezed(Means means) {
    CompileJob::Result result = UntilNotKilled({.means = means,
                                                .limit_bytes = plain_.peak_bytes / 2,
                                                .swap_bytes = plain_.peak_bytes * 3 / 2,
                                                .directory = bench_.options().swap_directory});
    uint64_t& most_bytes = most_held_bytes_[means];
    most_bytes = std::max(most_bytes, result.held_bytes);
    if (means == Means::kZmem) zmemd_cpu_s_ = result.zmemd_cpu_s;
    return result;
  }

  // A job of which a compiler was killed is begun again, and only its last run counts; the notes
  // tell of it.
  CompileJob::Result UntilNotKilled(const CompileJob::Options& options) {
    for (int kills = 1;; ++kills) {
      try {
        return Once(options);
      } catch (const CompilerKilled&) {
        ++kills_[options.means];
        if (kills < kMostKills) continue;
        throw HarnessError(absl::StrFormat("a compiler was killed in each of %d jobs over %s",
                                           kills, Name(options.means)));
      }
    }
  }

  CompileJob::Result Once(const CompileJob::Options& options) {
    CompileJob::Result result = CompileJob(options).Run();
    if (digest_.empty()) digest_ = result.digest;
    if (result.digest != digest_) throw WrongBytes("WRONG objects of the compile job");
    return result;
  }

  VersusBench& bench_;
  CompileJob::Result plain_;
  std::string digest_;
  std::map<Means, uint64_t> most_held_bytes_;
  std::map<Means, int> kills_;
  double zmemd_cpu_s_ = 0;
};

}  // namespace

void RunCompile(VersusBench& bench) {
  if (std::string why = CompileJob::WhyUnavailable(Means::kNone); !why.empty()) {
    throw HarnessError(why);
  }
  Jobs jobs(bench);
  jobs.MeasurePlain();
  bench.Repeat([&] { jobs.Repeat(); });
  jobs.Describe();
}

}  // namespace zmem
