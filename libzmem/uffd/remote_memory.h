// Another process's memory, bound to the address space it had when this was opened: after an exec
// nothing is read. Reading never blocks on a page that is missing (it fails instead), which is why
// this is /proc/PID/mem and not process_vm_readv (FACTS 20).
// Thread-safe; the fault path may use it.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"
#include "libzmem/base/page.h"
#include "libzmem/base/sys.h"

namespace zmem {

class RemoteMemory {
 public:
  // Errors: PermissionDenied, NotFound, or what open(2) says; they name the process.
  static absl::StatusOr<RemoteMemory> Open(pid_t pid);

  RemoteMemory() = default;
  bool valid() const { return fd_.valid(); }

  // Reads `bytes` from `address`. True only if all of them were there.
  bool Read(Address address, void* buffer, size_t bytes) const {
    return sys::Pread(fd_.get(), buffer, bytes, address) == static_cast<ssize_t>(bytes);
  }

 private:
  UniqueFd fd_;
};

}  // namespace zmem
