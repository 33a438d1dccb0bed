// CPU time of another process.
#pragma once

#include <sys/types.h>

#include <ctime>

#include "tests/harness.h"

namespace zmem {

// What a process has used, all its threads, user and kernel. Throws if there is no such process.
inline double CpuSeconds(pid_t pid) {
  clockid_t clock;
  timespec used{};
  if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &used) != 0) {
    throw HarnessError("cannot read the CPU time of a process");
  }
  return static_cast<double>(used.tv_sec) + static_cast<double>(used.tv_nsec) / 1e9;
}

}  // namespace zmem
