// A bounded set of addresses, kept as disjoint ranges that do not touch.
// Not thread-safe; no system call.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <map>
#include <optional>
#include <vector>

#include "libzmem/base/page.h"

namespace zmem {

class RangeSet {
 public:
  explicit RangeSet(size_t max_ranges) : max_ranges_(max_ranges) {}

  bool empty() const { return ends_.empty(); }
  size_t size() const { return ends_.size(); }
  uint64_t bytes() const { return bytes_; }
  std::vector<AddressRange> ranges() const {
    std::vector<AddressRange> all;
    for (auto [start, end] : ends_) all.push_back({start, end});
    return all;
  }

  // Whether Add would not make too many ranges.
  bool HasRoomFor(AddressRange range) const {
    if (range.empty() || ends_.size() < max_ranges_) return true;
    auto [first, last] = Touching(range);
    return first != last;
  }
  // False, and nothing changes, if there is no room.
  bool Add(AddressRange range) {
    if (!HasRoomFor(range)) return false;
    if (range.empty()) return true;
    auto [first, last] = Touching(range);
    for (auto at = first; at != last; ++at) {
      range = {std::min(range.start, at->first), std::max(range.end, at->second)};
      bytes_ -= at->second - at->first;
    }
    ends_.erase(first, last);
    ends_.emplace(range.start, range.end);
    bytes_ += range.bytes();
    return true;
  }

  // False, and nothing changes, if a hole would make too many ranges.
  bool Remove(AddressRange range) {
    std::vector<AddressRange> parts = In(range);
    bool splits = parts.size() == 1 && parts[0] == range &&
                  RangeAt(range.start)->start < range.start &&
                  RangeAt(range.start)->end > range.end;
    if (splits && ends_.size() >= max_ranges_) return false;
    for (AddressRange part : parts) {
      AddressRange whole = *RangeAt(part.start);
      ends_.erase(whole.start);
      if (whole.start < part.start) ends_.emplace(whole.start, part.start);
      if (part.end < whole.end) ends_.emplace(part.end, whole.end);
      bytes_ -= part.bytes();
    }
    return true;
  }
  // The same, but where a hole would make too many, what lies above it goes too.
  void Cut(AddressRange range) {
    if (!Remove(range)) Remove({range.start, RangeAt(range.start)->end});
  }

  // What of `range` is in the set.
  std::vector<AddressRange> In(AddressRange range) const {
    std::vector<AddressRange> parts;
    if (range.empty()) return parts;
    auto [first, last] = Touching(range);
    for (auto at = first; at != last; ++at) {
      AddressRange part = range.Intersect({at->first, at->second});
      if (!part.empty()) parts.push_back(part);
    }
    return parts;
  }

  // Takes the lowest range out.
  std::optional<AddressRange> Pop() {
    if (ends_.empty()) return std::nullopt;
    AddressRange lowest{ends_.begin()->first, ends_.begin()->second};
    ends_.erase(ends_.begin());
    bytes_ -= lowest.bytes();
    return lowest;
  }

 private:
  using Ends = std::map<Address, Address>;  // end by start

  // The ranges that overlap `range` or end where it begins or the reverse.
  std::pair<Ends::const_iterator, Ends::const_iterator> Touching(AddressRange range) const {
    auto first = ends_.upper_bound(range.start);
    if (first != ends_.begin() && std::prev(first)->second >= range.start) --first;
    return {first, ends_.upper_bound(range.end)};
  }
  // The range that `address` lies in.
  std::optional<AddressRange> RangeAt(Address address) const {
    auto behind = ends_.upper_bound(address);
    if (behind == ends_.begin()) return std::nullopt;
    auto at = std::prev(behind);
    if (at->second <= address) return std::nullopt;
    return AddressRange{at->first, at->second};
  }

  const size_t max_ranges_;
  Ends ends_;
  uint64_t bytes_ = 0;
};

}  // namespace zmem
