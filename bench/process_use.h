// What a process takes of the machine besides its CPU time (cpu_time.h).
#pragma once

#include <sys/types.h>

#include <cstdint>

namespace zmem {

struct MemoryUse {
  uint64_t resident_bytes;
  uint64_t proportional_bytes;  // what is shared is divided by those who share it
};

// Throw HarnessError if there is no such process.
MemoryUse MemoryOf(pid_t pid);
// Times that its threads, those that live now, were woken up since they began.
uint64_t WakeUps(pid_t pid);

}  // namespace zmem
