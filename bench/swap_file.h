// Plain swap to a file on a disk as the peer of a benchmark, for as long as an object lives, and
// the kernel's counts of what goes there. A guardian takes it down when its owner ends.
// Not thread-safe.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>

#include "tests/guardian.h"

namespace zmem {

// Why no swap may be set up on this machine (not root, there is some already, zswap would stand in
// front of it), or empty.
std::string WhySwapIsUnavailable();

// Switches swap on `path` off, for a guardian. Returns whether there is none there any more.
bool SwapOff(const std::string& path);

// What of a process is swapped out. Throws HarnessError.
uint64_t SwappedBytes(pid_t pid);

// What went to and came from all swap since the machine started.
struct SwapTraffic {
  uint64_t bytes_written = 0;
  uint64_t bytes_read = 0;

  // Throws HarnessError.
  static SwapTraffic Now();
};

class SwapFile {
 public:
  // Sets it up in `directory`, which must be on a file system that takes swap files (not tmpfs),
  // with room for `bytes` and the highest priority. Throws HarnessError if that fails.
  SwapFile(const std::string& directory, uint64_t bytes);

 private:
  std::string path_;
  std::optional<Guardian> guardian_;
};

}  // namespace zmem
