// Which pages of a process were touched, reads included, by the accessed bits that the processor
// sets in page tables: what the kernel itself goes by. No interface of the kernel's tells them page
// by page unless it was built with idle page tracking, which few are. A BPF program that copies
// page tables does; they are cleared with MADV_COLD, which besides tells the kernel's own reclaim
// that the pages are not needed soon. What is read is a hint: nothing is wrong but somewhat slower
// if it is not so any more.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "libzmem/base/page.h"
#include "libzmem/wire/messages.h"

namespace zmem {

// Thread-safe.
class AccessedBits {
 public:
  virtual ~AccessedBits() = default;

  // accessed[i] becomes the pages of chunk chunk_numbers[i] that are in memory and were touched
  // since they came or were last cleared; of a huge page, all or none. As many sets as numbers.
  // 1 µs a chunk. False if nothing could be read: the process is gone.
  virtual bool Read(pid_t pid, std::span<const uint64_t> chunk_numbers,
                    std::span<wire::PageSet> accessed) = 0;
  // Clears them for the ranges, 0.04 µs a page; a huge page of which a range holds only a part may
  // be split. Pages that are shared with a forked relative, or came just now, keep theirs: read
  // again to know. `pidfd`: of the process.
  virtual void Clear(int pidfd, std::span<const AddressRange> ranges) = 0;
};

// Errors: Unimplemented on processors other than x86-64; FailedPrecondition if the kernel does not
// load the program (it needs BPF with type information, and CAP_BPF, CAP_PERFMON and CAP_SYS_NICE),
// or what it reads of this process's own memory is not so.
// Source: arch/x86/include/asm/pgtable_types.h, madvise_cold_or_pageout_pte_range (mm/madvise.c).
absl::StatusOr<std::unique_ptr<AccessedBits>> OpenAccessedBits();

}  // namespace zmem
