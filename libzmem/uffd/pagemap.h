// Which pages of a process are in memory: /proc/PID/pagemap, bound like RemoteMemory to the address
// space it was opened on.
// Thread-safe.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/statusor.h"
#include "libzmem/base/page.h"
#include "libzmem/base/sys.h"
#include "libzmem/wire/messages.h"

namespace zmem {

class Pagemap {
 public:
  // Errors: as RemoteMemory::Open; FailedPrecondition if the kernel has no PAGEMAP_SCAN (6.7).
  static absl::StatusOr<Pagemap> Open(pid_t pid);

  Pagemap() = default;
  bool valid() const { return fd_.valid(); }

  // Adds to present[i] the pages of chunk `first_chunk` + i that are anonymous, in memory and not
  // the kernel's zero page, as far as they lie in `range`, which must lie in those chunks.
  // One pass over the page tables, whatever the range. Returns 0, also when the address space is
  // gone and so has no page, or a negative errno.
  int ScanPresent(AddressRange range, uint64_t first_chunk, std::span<wire::PageSet> present) const;

  // Reads the entries of the `absent.size()` pages from `start`. absent[i] becomes true if nothing
  // at all is there: no page, no swap entry, no guard (MADV_GUARD_INSTALL, which filling the page
  // would undo: FACTS 11). Returns 0 or a negative errno, -ESRCH when the address space is gone; at
  // most kPagesPerChunk pages.
  int FindAbsent(Address start, std::span<bool> absent) const;

  // Whether the whole chunk is one huge page.
  bool IsHuge(uint64_t chunk_number) const;

  // The same as FindAbsent; exclusive[i] becomes true if the page is in memory and mapped by nobody
  // else.
  int FindExclusive(Address start, std::span<bool> exclusive) const;

 private:
  // Reads the entries of `count` pages from `start`.
  int ReadEntries(Address start, uint64_t* entries, size_t count) const;

  UniqueFd fd_;
};

}  // namespace zmem
