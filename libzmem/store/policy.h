// What a program is promised and what is expected of it: set from outside (configuration, zmemctl,
// the program's environment), and changed at any time (Process::SetPolicy).
// A plain value.
#pragma once

#include <cstdint>

#include "libzmem/codec/compressor.h"

namespace zmem {

enum class ReclaimMode {
  kProactive,  // what is cold goes out, as far as the stall target lets it
  kPressure,   // only when the host is short of memory
  kLimitOnly,  // only what a resident limit, a full cgroup or zmemctl asks for
};

struct Policy {
  ReclaimMode mode = ReclaimMode::kProactive;
  // Pages that nobody has wanted for so long are cold.
  int64_t cold_age_ns = 30'000'000'000;
  int64_t scan_interval_ns = 5'000'000'000;
  // Time that the program's threads may spend waiting for its pages, summed over the threads, in
  // percent of wall time. What a limit takes is not held back by it.
  double stall_target_percent = 1;
  // Of resident memory, as the kernel counts it (VmRSS); 0: none.
  uint64_t limit_bytes = 0;
  // For pages that go out from now on; null: the store's.
  const Compressor* compressor = nullptr;

  friend bool operator==(const Policy&, const Policy&) = default;
};

}  // namespace zmem
