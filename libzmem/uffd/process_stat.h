// What the kernel accounts to a process: memory and CPU time. Bound, like RemoteMemory, to the
// process it was opened on.
// Thread-safe: the files are opened once and read afresh for each answer.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>

#include "absl/status/statusor.h"
#include "libzmem/base/sys.h"

namespace zmem {

class ProcessStat {
 public:
  // Errors: what opening /proc/PID/statm and stat says; NotFound when there is no such process.
  static absl::StatusOr<ProcessStat> Open(pid_t pid);

  ProcessStat() = default;
  // Of everything: anonymous, of files, shared. nullopt when the process is gone, or none was
  // opened; so the next.
  std::optional<uint64_t> resident_bytes() const;
  // Of its mappings, touched or not.
  std::optional<uint64_t> mapped_bytes() const;
  // User and system time of all its threads, in steps of 10 ms.
  std::optional<int64_t> cpu_ns() const;

 private:
  struct Memory {
    uint64_t mapped_bytes;
    uint64_t resident_bytes;
  };
  std::optional<Memory> ReadMemory() const;

  UniqueFd statm_;
  UniqueFd stat_;
};

}  // namespace zmem
