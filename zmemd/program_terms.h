// What one program is promised, put together from all who have a say: the configuration, the
// program's environment, its owner, root.
// Thread-safe.
#pragma once

#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "libzmem/base/mutex.h"
#include "libzmem/store/policy.h"
#include "libzmem/store/process.h"

namespace zmem {

enum class LimitSource {
  kNone,           // there is no limit
  kParent,         // of a forked child without an agent: as its parent's was
  kConfiguration,  // of zmemd
  kEnvironment,    // ZMEM_LIMIT
  kOwner,          // zmemctl limit, by the program's user
  kRoot,           // zmemctl limit, by root
};
absl::string_view LimitSourceName(LimitSource source);

struct ResidentLimit {
  uint64_t bytes = 0;  // 0: none
  LimitSource source = LimitSource::kNone;
};

class ProgramTerms {
 public:
  // From the configuration: everything, and the limit that it gives.
  void Configure(const Policy& policy);
  // What the program asks for with ZMEM_LIMIT; 0: nothing.
  void SetEnvironmentLimit(uint64_t bytes);
  // zmemctl limit; 0: none. Root's wins over all others'; else the smallest counts of the
  // configuration's and the owner's, which stands in for the environment's.
  // Errors: PermissionDenied if an owner asks for more than the configuration gives, or if root
  // has set a limit.
  absl::Status SetLimit(uint64_t bytes, bool by_root);

  // As asked for.
  ResidentLimit limit() const;
  // What all this comes to for a program of which `must_stay_bytes` cannot go out: a limit of the
  // configuration or the environment below that is raised to it.
  Policy policy(uint64_t must_stay_bytes) const;

 private:
  ResidentLimit LimitLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable Mutex mutex_;
  Policy configured_ ABSL_GUARDED_BY(mutex_);
  uint64_t environment_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  std::optional<uint64_t> owner_bytes_ ABSL_GUARDED_BY(mutex_);
  std::optional<uint64_t> root_bytes_ ABSL_GUARDED_BY(mutex_);
};

// What of a bound process's resident memory cannot go out, and a MiB for it to move in: file pages,
// shared memory, and anonymous memory that is locked, a stack, the agent's own. Reads the process's
// whole memory map: milliseconds. 0 if it is gone.
uint64_t MustStayBytes(const Process& process);

}  // namespace zmem
