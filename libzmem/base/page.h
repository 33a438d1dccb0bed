// Pages, chunks and address ranges: the units everything else counts in.
// Plain values, no state; usable from the preloaded library.
#pragma once

#include <cstddef>
#include <cstdint>

namespace zmem {

// The only page size zmem manages. The daemon refuses to start where the kernel's differs.
inline constexpr size_t kPageBytes = 4096;
inline constexpr unsigned kPageShift = 12;

// The unit of registration and of the page table: 2 MiB, aligned, as large as a huge page and as
// what one page of page-table entries maps.
inline constexpr size_t kChunkBytes = size_t{2} << 20;
inline constexpr unsigned kChunkShift = 21;
inline constexpr size_t kPagesPerChunk = kChunkBytes / kPageBytes;

using Address = uint64_t;

constexpr Address PageStart(Address address) { return address & ~Address{kPageBytes - 1}; }
constexpr Address ChunkStart(Address address) { return address & ~Address{kChunkBytes - 1}; }
constexpr uint64_t ChunkNumber(Address address) { return address >> kChunkShift; }
constexpr size_t PageInChunk(Address address) {
  return (address >> kPageShift) & (kPagesPerChunk - 1);
}

// Half-open range of addresses, [start, end).
struct AddressRange {
  Address start = 0;
  Address end = 0;

  constexpr uint64_t bytes() const { return end - start; }
  constexpr uint64_t pages() const { return bytes() >> kPageShift; }
  constexpr bool empty() const { return start >= end; }
  constexpr bool Contains(Address address) const { return address >= start && address < end; }
  constexpr AddressRange Intersect(AddressRange other) const {
    AddressRange common{start > other.start ? start : other.start,
                        end < other.end ? end : other.end};
    if (common.empty()) return AddressRange{};
    return common;
  }
  friend constexpr bool operator==(AddressRange, AddressRange) = default;
};

}  // namespace zmem
