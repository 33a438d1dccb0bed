// What the groups of cases of bench/versus_kernel share: the options, what was measured, and how
// far it has come. Not thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "bench/versus_keeper.h"
#include "bench/versus_results.h"
#include "libzmem/base/clock.h"

namespace zmem {

struct VersusOptions {
  uint64_t mib = 1024;  // the size of the programs of cases 5 to 7; the others' follow from it
  int repetitions = 5;
  double seconds = 1.5;   // how long what goes on and on is measured
  double settle_s = 0.5;  // and goes on before that
  double budget_s = 600;  // in all: where it does not suffice there are fewer repetitions
  std::string swap_directory = "/var/tmp";

  // For trying: two minutes or so in all.
  void MakeQuick() {
    mib = 256;
    repetitions = 2;
    seconds = 0.5;
    settle_s = 0.2;
  }
  // What the programs take beside those of the default size.
  double scale() const { return static_cast<double>(mib) / VersusOptions().mib; }
  uint32_t pages() const { return static_cast<uint32_t>(mib << 20 >> kPageShift); }
};

// Some cases that are measured together.
struct VersusGroup;

// Figures of one side in one repetition, by the names of their rows.
using Figures = std::map<std::string, double>;

// A program of zmem and the same of zram, side by side.
struct ProgramPair {
  // Without zram, if there can be none, the peer stays empty.
  ProgramPair(const std::string& zmem_config, const VersusProgram::Options& options);

  // Runs `work` on one and then the other.
  void ForEach(const std::function<void(KeptProgram&, MemoryKeeper&)>& work);
  // Starts zram's program anew: the kernel kills programs in a full cgroup now and then although
  // swap has room.
  void RestartZram();
  // Has both check all their bytes, and ends them.
  void VerifyAndStop();

  std::unique_ptr<MemoryKeeper> zmem_keeper;
  std::unique_ptr<MemoryKeeper> zram_keeper;
  std::unique_ptr<KeptProgram> zmem;
  std::unique_ptr<KeptProgram> zram;
};

class VersusBench {
 public:
  // `selected`: the rows that are wanted.
  VersusBench(const VersusOptions& options, std::vector<const Row*> selected);

  // Runs the groups that have one of the rows wanted. Wrong bytes and what could not be measured
  // are noted; nothing is thrown for them.
  void Run(const std::vector<VersusGroup>& groups);

  const VersusOptions& options() const { return options_; }
  VersusResults& results() { return results_; }
  const VersusResults& results() const { return results_; }
  const std::vector<const Row*>& selected() const { return selected_; }
  bool any_wrong() const { return any_wrong_; }

  // Whether a row of the case `name` is wanted.
  bool Wants(absl::string_view case_name) const;

  // Says on stderr what is done now.
  void Tell(const std::string& what) const;
  // Calls `repeat` for each repetition, once at least, as long as the time is not up.
  void Repeat(const std::function<void()>& repeat);

  // Notes a pair of figures for each row wanted that both sides have, or zmem alone; with what bare
  // system calls reach, where `bare` says.
  void Add(const Figures& zmem, const std::optional<Figures>& peer, const Figures& bare = {});

 private:
  double ElapsedSeconds() const;
  // Of one, in the mean of those of the group that are done.
  double RepetitionSeconds() const;
  // Expected of a group, before it has begun.
  double ExpectedSeconds(const VersusGroup& group) const;
  // Whether another repetition would leave too little for the groups behind this one.
  bool IsTimeUp() const;
  double SecondsLeft() const;
  void RunGroup(const VersusGroup& group);
  void NotMeasured(const VersusGroup& group, const std::string& why);

  const VersusOptions options_;
  const std::vector<const Row*> selected_;
  VersusResults results_;
  const MonotonicClock clock_;
  const int64_t start_ns_;
  bool any_wrong_ = false;

  // Of the group that runs.
  const VersusGroup* group_ = nullptr;
  double after_group_s_ = 0;  // what those behind it are expected to take
  int repetitions_done_ = 0;
  double repetitions_begun_s_ = 0;  // when the first began
};

struct VersusGroup {
  const char* name;
  std::vector<const char*> cases;
  // What it takes at the default options on two slow CPUs.
  double setup_s;
  double repetition_s;
  void (*run)(VersusBench& bench);
};

// Throws WrongBytes and HarnessError, as all groups do.
void RunRefault(VersusBench& bench);  // cases 1 to 4 and 10
void RunCrowd(VersusBench& bench);    // 11
void RunSqueeze(VersusBench& bench);  // 5 and 6
void RunGrowth(VersusBench& bench);   // 7
void RunRedis(VersusBench& bench);    // 8
void RunCompile(VersusBench& bench);  // 9

}  // namespace zmem
