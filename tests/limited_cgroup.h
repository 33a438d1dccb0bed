// A memory cgroup whose limit squeezes the program in it. Version 1 or 2, whichever the machine
// has. A guardian removes it when its owner ends.
// Not thread-safe.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>

#include "tests/guardian.h"

namespace zmem {

class LimitedCgroup {
 public:
  // Makes one without a limit. Throws HarnessError if there can be none (not root, no controller).
  LimitedCgroup();

  // Moves a process there; what it touches from now on counts. Throws HarnessError.
  void Add(pid_t pid);
  // What is charged to it. A few hundred KiB too much: each CPU charges in advance.
  uint64_t UsedBytes() const;
  // The most that ever was. Throws HarnessError where the kernel does not say (version 2 before
  // Linux 5.19).
  uint64_t PeakBytes() const;
  // Limits it; the kernel swaps out what is too much. Throws HarnessError if that does not help;
  // with version 2 the kernel kills the program instead.
  void Limit(uint64_t bytes);

 private:
  uint64_t Read(const std::string& file) const;

  std::string path_;
  bool unified_;
  std::optional<Guardian> guardian_;
};

}  // namespace zmem
