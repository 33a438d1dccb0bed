// Memory of which a program says that it must stay, since the kernel touches it when a thread ends
// (FACTS 18) and no look from outside can be sure to see that thread. libzmem.so writes it, zmemd
// reads it through /proc/PID/mem. Plain data, in memory of the agent's, which is never taken.
//
// A range is added before the program may use it so: the generation is counted up, and a move that
// is under way is waited for. A move is ordered with the generation for which zmemd has looked, and
// the agent carries it out only if that is still the one.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "libzmem/base/page.h"

namespace zmem::wire {

struct KeptMemory {
  // Of more, the oldest are forgotten. Robust mutexes and stacks of the program's own are few.
  static constexpr size_t kRanges = 512;

  std::atomic<uint32_t> generation{0};  // counts the ranges that were added
  std::atomic<uint32_t> adding{0};      // threads that have written a range and not yet counted it
  std::atomic<uint32_t> moving{0};      // 1 while the agent may be moving pages out
  std::atomic<uint32_t> next{0};        // place of the next range, modulo kRanges
  std::atomic<uint64_t> ranges[kRanges] = {};  // packed; 0 is none

  static constexpr unsigned kLengthBits = 19;  // of pages: 2 GiB

  // The pages that `range` reaches into; of a longer one the upper end, where a stack begins.
  static constexpr uint64_t Pack(AddressRange range) {
    uint64_t first = range.start >> kPageShift;
    uint64_t end = (range.end + kPageBytes - 1) >> kPageShift;
    constexpr uint64_t kMost = (uint64_t{1} << kLengthBits) - 1;
    uint64_t pages = end - first < kMost ? end - first : kMost;
    return (end - pages) << kLengthBits | pages;
  }
  static constexpr AddressRange Unpack(uint64_t packed) {
    Address start = packed >> kLengthBits << kPageShift;
    uint64_t pages = packed & ((uint64_t{1} << kLengthBits) - 1);
    return {start, start + pages * kPageBytes};
  }
};
static_assert(KeptMemory::Unpack(KeptMemory::Pack({0x7f0000001010, 0x7f0000002010})) ==
              AddressRange{0x7f0000001000, 0x7f0000003000});

}  // namespace zmem::wire
