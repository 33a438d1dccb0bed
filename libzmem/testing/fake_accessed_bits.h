// Accessed bits that a test sets.
#pragma once

#include <sys/types.h>

#include <functional>
#include <map>
#include <span>
#include <vector>

#include "libzmem/uffd/accessed_bits.h"

namespace zmem {

// For the thread that looks.
class FakeAccessedBits final : public AccessedBits {
 public:
  bool Read(pid_t, std::span<const uint64_t> numbers, std::span<wire::PageSet> accessed) override {
    for (size_t i = 0; i < numbers.size(); ++i) accessed[i] = bits[numbers[i]];
    if (was_cleared_ && on_seen_cleared) on_seen_cleared();
    was_cleared_ = false;
    return !is_gone;
  }
  void Clear(int, std::span<const AddressRange> ranges) override {
    was_cleared_ = true;
    cleared.insert(cleared.end(), ranges.begin(), ranges.end());
    for (auto& [number, set] : bits) {
      wire::PageSet before = set;
      for (size_t page = 0; page < kPagesPerChunk; ++page) {
        Address address = (number << kChunkShift) + page * kPageBytes;
        for (AddressRange range : ranges) {
          if (range.Contains(address)) set.Remove(page);
        }
      }
      set = set.Or(before.And(stuck));
    }
  }

  std::map<uint64_t, wire::PageSet> bits;  // those set, by chunk number
  wire::PageSet stuck;                     // in every chunk: those that are not cleared
  bool is_gone = false;
  std::vector<AddressRange> cleared;
  // Called after the first read that follows a clearing.
  std::function<void()> on_seen_cleared;

 private:
  bool was_cleared_ = false;
};

}  // namespace zmem
