// What a program has said of its memory (libzmem/zmem.h) and what is still to be done about it: the
// ranges that it keeps, those that may go out and those that it wants back. One of each Process.
// Everything is bounded, since a program may say anything.
// Thread-safe. Its lock is the last of all: nothing is called with it held.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "libzmem/base/mutex.h"
#include "libzmem/base/page.h"
#include "libzmem/store/range_set.h"
#include "libzmem/wire/messages.h"

namespace zmem {

class Advice {
 public:
  // Ranges that a program can keep, and as many that can wait for the reclaimer and for the fault
  // thread; those that touch are one. Each that is kept is looked for in every mapping, at each
  // scan.
  static constexpr size_t kMostRanges = 512;

  // Takes in advice of the four kinds, of any range; an empty one is fine. Returns 0, EINVAL (not
  // page-aligned, or the wrong way round), ENOMEM (too many ranges would be kept) or EAGAIN (too
  // many would wait); nothing has changed then.
  int Take(wire::QueryKind kind, AddressRange range);

  // For the reclaimer. What may go out now; it waits no longer.
  std::vector<AddressRange> TakeCold();
  // What is kept and was not told by an earlier call: no event would tell the end of its mappings
  // unless they are registered.
  std::vector<AddressRange> TakeUnwatched();

  // For the fault thread. A range that is wanted back, the lowest first; it waits no longer.
  std::optional<AddressRange> TakeWanted();
  bool has_wanted() const { return wanted_count_.load(std::memory_order_acquire) > 0; }

  std::vector<AddressRange> kept() const;
  uint64_t kept_bytes() const;
  bool Keeps(AddressRange range) const;
  // The pages of a chunk that must not go out.
  wire::PageSet KeptIn(uint64_t chunk_number) const;

  // The mappings of the range are gone, and what was said of them with them.
  void Forget(AddressRange range);
  // Mappings have moved: what they keep they keep, as with mlock(2), if there is room.
  void Move(AddressRange from, Address to);

 private:
  void NoteCounts() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // To pass by without the lock: nearly always nothing is kept, and nothing wanted.
  std::atomic<size_t> kept_count_{0};
  std::atomic<size_t> wanted_count_{0};
  mutable Mutex mutex_;
  RangeSet kept_ ABSL_GUARDED_BY(mutex_){kMostRanges};
  RangeSet unwatched_ ABSL_GUARDED_BY(mutex_){kMostRanges};
  RangeSet cold_ ABSL_GUARDED_BY(mutex_){kMostRanges};
  RangeSet wanted_ ABSL_GUARDED_BY(mutex_){kMostRanges};
};

}  // namespace zmem
