// How many threads want the host's CPUs just now.
// Thread-safe: one read of a file of the kernel's, 2 µs on a small host, and no state.
#pragma once

#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "libzmem/base/sys.h"

namespace zmem {

class HostLoad {
 public:
  // `path` stands for /proc/loadavg, `cpus` for those that are online; 0: asks the kernel. If the
  // file cannot be opened, nothing is known.
  explicit HostLoad(const std::string& path = "/proc/loadavg", int cpus = 0);

  // Threads that run or wait for a CPU now, with the caller's, less one for each CPU: above 0 some
  // wait. nullopt if it is not known.
  std::optional<int> ThreadsBeyondCpus() const;

 private:
  UniqueFd file_;
  int cpus_;
};

// The number of threads that run or wait in what /proc/loadavg says.
std::optional<int> RunnableThreads(absl::string_view text);

}  // namespace zmem
