// How much memory the memory cgroups of a process still take. Filling a page charges the program's
// cgroup, not ours, and at its limit the kernel kills the program (FACTS 23).
// Thread-safe: the files are opened once and read afresh for each answer.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "libzmem/base/sys.h"

namespace zmem {

class MemoryCgroup {
 public:
  static constexpr uint64_t kNoLimit = ~uint64_t{0};

  // The cgroups that `pid` is in now, of either version. A process without any, or one that has
  // ended, has no limit.
  static MemoryCgroup Of(pid_t pid);

  // The same from the texts of /proc/PID/cgroup and /proc/self/mountinfo.
  static MemoryCgroup Parse(absl::string_view cgroup, absl::string_view mountinfo);

  // Whether any of them has a limit now.
  bool limited() const;
  // Bytes that can still be charged before the kernel would kill: up to the nearest limit, counting
  // as free what it would reclaim first (page cache). kNoLimit if there is no limit.
  uint64_t RoomBytes() const;
  // What is charged to those that have a limit: a fifth of the price, and the same as long as
  // nothing comes or goes there.
  uint64_t UsedBytes() const;

 private:
  struct Level {
    UniqueFd limit;  // reads as a number, or "max"
    UniqueFd usage;
    UniqueFd stat;
  };
  void AddLevels(std::string directory, absl::string_view mount, bool unified);

  std::vector<Level> levels_;  // from the process's own to the root's
};

}  // namespace zmem
