// What the kernel itself touches when a thread ends. Such a thread gets no fault service (FACTS
// 18), so none of this may be out at that moment: a control block that is would make pthread_join
// hang, a robust mutex would keep its dead owner. Thread-safe.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "libzmem/base/page.h"
#include "libzmem/uffd/remote_memory.h"

namespace zmem {

// Of each thread of `pid`, whose memory `memory` is: the memory around its control block, found by
// its robust list, which libc keeps there; and the robust mutexes that it holds or is about to.
// Page-aligned, in no order. Threads without a robust list (not libc's) and threads still starting
// are not in the result; AddressMap leaves their stacks out by their shape.
// Errors: what opendir(3) says, when the process is gone.
absl::StatusOr<std::vector<AddressRange>> ThreadMemory(pid_t pid, const RemoteMemory& memory);

// What the program itself has said must stay, for threads that begin and end between two looks.
struct KeptRanges {
  uint32_t generation = 0;  // complete up to this one
  std::vector<AddressRange> ranges;
};

// Reads the wire::KeptMemory that lies at `kept`. Nullopt if it cannot be read: the process is
// gone.
std::optional<KeptRanges> ReadKept(Address kept, const RemoteMemory& memory);

}  // namespace zmem
