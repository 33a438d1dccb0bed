// Keeps the fault thread on the CPU of the thread whose faults it answers, while they follow each
// other closely: waking a sleeping CPU costs more than decompressing a page. Or on another, where
// no CPU sleeps. Otherwise the scheduler chooses, which sees who else wants a CPU: kept on one, the
// fault threads of many programs wait there while others are idle.
// Looks rarely, since looking costs a system call.
// Belongs to the fault thread that it moves.
#pragma once

#include <sched.h>
#include <sys/types.h>

#include <cstdint>

#include "libzmem/base/sys.h"

namespace zmem {

class CpuFollower {
 public:
  // Call for each fault, with the thread that raised it (0: unknown) in process `pid`.
  void OnFault(pid_t pid, pid_t tid, int64_t now_ns);

  // From now on to be beside the thread whose fault it answers, not where it is.
  void set_beside(bool beside);

 private:
  void Look(pid_t pid, pid_t tid);
  void LetGo();

  // Faults are counted by so many.
  static constexpr int kFaults = 32;
  static constexpr int64_t kCloseNs = 500'000;  // from one to the next, on average
  // A look costs about as much as a fault: at most one in so many counts.
  static constexpr int kCountsPerLook = 8;
  static constexpr int64_t kShortestGapNs = 1'000'000;

  int faults_ = 0;
  int64_t counted_since_ns_ = 0;
  int counts_since_look_ = kCountsPerLook;
  int64_t last_look_ns_ = 0;
  pid_t watched_ = 0;
  UniqueFd stat_;
  bool beside_ = false;
  int cpu_ = -1;    // of the thread; -1: the scheduler chooses ours
  cpu_set_t ours_;  // the CPUs we may use, if it does not
};

}  // namespace zmem
