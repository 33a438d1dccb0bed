// CPU time of another process.
#pragma once

#include <sys/types.h>
#include <unistd.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "libzmem/base/sys.h"
#include "tests/harness.h"

namespace zmem {

// What a process has used, all its threads, user and kernel (proc(5), stat), in steps of a clock
// tick. Throws if there is no such process.
inline double CpuSeconds(pid_t pid) {
  std::string stat;
  absl::Status status = sys::ReadFile(absl::StrCat("/proc/", pid, "/stat"), stat);
  if (!status.ok()) throw HarnessError(std::string(status.message()));
  // The name may hold anything, so fields are counted from the parenthesis after it: the third.
  std::vector<std::string> fields = absl::StrSplit(stat.substr(stat.rfind(')') + 2), ' ');
  int64_t user_ticks = 0;
  int64_t kernel_ticks = 0;
  if (!absl::SimpleAtoi(fields.at(14 - 3), &user_ticks) ||
      !absl::SimpleAtoi(fields.at(15 - 3), &kernel_ticks)) {
    throw HarnessError("cannot read /proc/PID/stat");
  }
  return static_cast<double>(user_ticks + kernel_ticks) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

}  // namespace zmem
