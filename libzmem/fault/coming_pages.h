// What streams of faults are to get before they ask for it, brought in slices between faults, so
// that whoever waits for a page waits for one slice of these at most.
// Not thread-safe; no allocation.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>

#include "libzmem/base/page.h"

namespace zmem {

class ComingPages {
 public:
  bool empty() const { return count_ == 0; }

  // `range` is to come, with what is to come before it. What has waited longest is forgotten if
  // there are more streams than places.
  void Add(AddressRange range) {
    if (range.empty()) return;
    for (size_t i = 0; i < count_; ++i) {
      if (ranges_[i].end != range.start) continue;
      ranges_[i].end = range.end;
      return;
    }
    if (count_ == ranges_.size()) Remove(0);
    ranges_[count_++] = range;
  }

  // A fault has brought `page`. Whether it was to come: what lies before it in its stream was there
  // already, or is not wanted.
  bool OnFault(Address page) {
    for (size_t i = 0; i < count_; ++i) {
      if (!ranges_[i].Contains(page)) continue;
      ranges_[i].start = page + kPageBytes;
      if (ranges_[i].empty()) Remove(i);
      return true;
    }
    return false;
  }

  // Takes out the next slice: at most `max_pages` (> 0), of one chunk; of each stream by turns.
  // Must not be empty.
  AddressRange Take(size_t max_pages) {
    AddressRange range = ranges_[0];
    Address chunk_end = ((range.start >> kChunkShift) + 1) << kChunkShift;
    AddressRange slice{range.start,
                       std::min({range.end, chunk_end, range.start + max_pages * kPageBytes})};
    Remove(0);
    Add({slice.end, range.end});
    return slice;
  }

  void Clear() { count_ = 0; }

 private:
  void Remove(size_t index) {
    std::copy(ranges_.begin() + static_cast<ptrdiff_t>(index) + 1,
              ranges_.begin() + static_cast<ptrdiff_t>(count_),
              ranges_.begin() + static_cast<ptrdiff_t>(index));
    --count_;
  }

  std::array<AddressRange, 4> ranges_;  // the one that has waited longest in front
  size_t count_ = 0;
};

}  // namespace zmem
