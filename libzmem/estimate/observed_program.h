// A running program that is looked at from outside and not changed: its memory, its page map, and
// the kernel's marks of which pages were touched. Bound to the address space it had when opened, so
// that neither an exec nor a reused process number is taken for it.
// Not thread-safe.
#pragma once

#include <sys/types.h>

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libzmem/base/sys.h"
#include "libzmem/uffd/pagemap.h"
#include "libzmem/uffd/remote_memory.h"

namespace zmem {

class ObservedProgram {
 public:
  // Errors: NotFound without such a process; PermissionDenied where ptrace(2) would be;
  // FailedPrecondition for what has no memory (ended but not yet reaped, a kernel thread); as
  // Pagemap::Open.
  static absl::StatusOr<ObservedProgram> Open(pid_t pid);

  pid_t pid() const { return pid_; }
  const RemoteMemory& memory() const { return memory_; }
  const Pagemap& pagemap() const { return pagemap_; }

  // The text of its smaps file as of now. Errors: Aborted when the address space is gone.
  absl::StatusOr<std::string> ReadSmaps() const;

  // Clears the mark of every page that it was touched (Documentation/filesystems/proc.rst,
  // clear_refs). No contents change. The program's page faults wait meanwhile, some 20 ms for each
  // GiB of small pages, and the kernel's own choice of what to swap out starts afresh for them.
  // Errors: Aborted when the process is gone; PermissionDenied.
  absl::Status ClearTouched() const;

  // Waits until it has ended, at most `timeout_ms`. Whether it has.
  bool AwaitEnd(int timeout_ms) const;

 private:
  absl::Status Gone() const;

  pid_t pid_ = 0;
  UniqueFd pidfd_;
  UniqueFd smaps_;
  UniqueFd clear_refs_;
  RemoteMemory memory_;
  Pagemap pagemap_;
};

}  // namespace zmem
