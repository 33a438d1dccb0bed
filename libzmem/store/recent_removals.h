// What a program has lately told to drop (madvise) in chunks that nobody knows: a mapping is
// registered as a whole, its chunks become known one by one. The event comes before the pages go
// (FACTS 8), so a chunk that becomes known in between must not be taken from yet.
// Belongs to who holds the gate.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "libzmem/base/page.h"
#include "libzmem/wire/messages.h"

namespace zmem {

class RecentRemovals {
 public:
  // A thread that has been told to go on drops the pages at once, unless it does not get a CPU. For
  // so long it may not get one; a program that is stopped has its agent stopped too.
  static constexpr int64_t kHorizonNs = 60'000'000'000;

  void Add(AddressRange range, int64_t now_ns) {
    Removal& oldest = removals_[next_];
    next_ = (next_ + 1) % kRemovals;
    if (!Forgotten(oldest, now_ns)) {
      // Too many to remember one by one: its neighbour answers for it, and for what lies between.
      Removal& neighbour = removals_[next_];
      if (!Forgotten(neighbour, now_ns)) {
        neighbour.range.start = std::min(neighbour.range.start, oldest.range.start);
        neighbour.range.end = std::max(neighbour.range.end, oldest.range.end);
      } else {
        neighbour = oldest;
      }
    }
    oldest = {range, now_ns};
  }

  // The pages of a chunk that may be about to go.
  wire::PageSet In(uint64_t chunk_number, int64_t now_ns) const {
    AddressRange chunk{chunk_number << kChunkShift, (chunk_number + 1) << kChunkShift};
    wire::PageSet pages;
    for (const Removal& removal : removals_) {
      AddressRange part = removal.range.Intersect(chunk);
      if (part.empty() || Forgotten(removal, now_ns)) continue;
      size_t first = PageInChunk(part.start);
      pages.AddRange(first, first + part.pages());
    }
    return pages;
  }

 private:
  static constexpr size_t kRemovals = 64;
  struct Removal {
    AddressRange range{};
    int64_t added_ns = 0;
  };
  static bool Forgotten(const Removal& removal, int64_t now_ns) {
    return removal.range.empty() || now_ns - removal.added_ns > kHorizonNs;
  }

  std::array<Removal, kRemovals> removals_{};
  size_t next_ = 0;
};

}  // namespace zmem
