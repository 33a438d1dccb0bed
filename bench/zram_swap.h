// The kernel's compressed swap as the peer of a benchmark: lz4 zram on /dev/zram0 as swap for as
// long as an object lives. A guardian process takes it down when its owner ends, in whatever way,
// so that no crash and no Ctrl-C leaves the machine with a swap device it did not have.
// Not thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "tests/guardian.h"

namespace zmem {

class ZramSwap {
 public:
  // Why there is no zram that may be used here (not root, no device, in use), or empty.
  static std::string WhyUnavailable();

  // Sets it up with room for `bytes` and the highest priority. Throws if that fails. The object's
  // end takes it down, and waits until it is.
  explicit ZramSwap(uint64_t bytes);

  // What is in it, over what that takes compressed; 0 when it is empty.
  double CompressionRatio() const;

  struct Usage {
    uint64_t original_bytes = 0;   // of what is in it
    uint64_t held_bytes = 0;       // the memory that this takes (mm_stat mem_used_total)
    uint64_t most_held_bytes = 0;  // the most that it ever took (mem_used_max)
  };
  Usage usage() const;
  uint64_t HeldBytes() const { return usage().held_bytes; }

 private:
  std::optional<Guardian> guardian_;
};

}  // namespace zmem
