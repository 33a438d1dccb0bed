// Which pages of a chunk lie in ranges of addresses.
#pragma once

#include <cstdint>
#include <span>

#include "libzmem/base/page.h"
#include "libzmem/wire/messages.h"

namespace zmem {

// `ranges`: page-aligned, in any order.
inline wire::PageSet PagesIn(uint64_t chunk_number, std::span<const AddressRange> ranges) {
  Address start = chunk_number << kChunkShift;
  wire::PageSet pages;
  for (AddressRange range : ranges) {
    AddressRange part = range.Intersect({start, start + kChunkBytes});
    if (part.empty()) continue;
    size_t first = PageInChunk(part.start);
    pages.AddRange(first, first + part.pages());
  }
  return pages;
}

inline wire::PageSet PagesIn(uint64_t chunk_number, AddressRange range) {
  return PagesIn(chunk_number, std::span(&range, 1));
}

}  // namespace zmem
