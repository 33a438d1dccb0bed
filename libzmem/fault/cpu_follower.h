// Keeps the fault thread on the CPU of the thread whose fault it answers: waking a sleeping CPU
// costs more than decompressing a page. Or on another, where no CPU sleeps. Looks rarely, since
// looking costs a system call.
// Belongs to the fault thread that it moves.
#pragma once

#include <sys/types.h>

#include <cstdint>

#include "libzmem/base/sys.h"

namespace zmem {

class CpuFollower {
 public:
  // Call for each fault and fork, with the thread that raised it (0: unknown) in process `pid`.
  void OnMessage(pid_t pid, pid_t tid, int64_t now_ns);

  // From now on to be beside the thread whose fault it answers, not where it is.
  void set_beside(bool beside);

 private:
  void Look(pid_t pid, pid_t tid);

  // A look costs about as much as a fault: at most one in this many faults, unless the last one is
  // old, when a program has had the time to move.
  static constexpr uint32_t kFaultsPerLook = 256;
  static constexpr int64_t kLookAgainNs = 20'000'000;
  static constexpr int64_t kShortestGapNs = 1'000'000;

  uint32_t faults_since_look_ = kFaultsPerLook;
  int64_t last_look_ns_ = 0;
  pid_t watched_ = 0;
  UniqueFd stat_;
  bool beside_ = false;
  int cpu_ = -1;
};

}  // namespace zmem
