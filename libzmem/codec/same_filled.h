// Pages that hold one 8-byte word over and over, zero pages first of all: they are kept as the
// word alone. Pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>

#include "libzmem/base/page.h"

namespace zmem {

// The word that fills `page`, if one does. The last word is compared first, because most pages
// that differ from their first word still differ there (as in zram's page_same_filled).
inline std::optional<uint64_t> SameFilledWord(std::span<const std::byte, kPageBytes> page) {
  uint64_t first;
  std::memcpy(&first, page.data(), sizeof first);
  uint64_t last;
  std::memcpy(&last, page.data() + kPageBytes - sizeof last, sizeof last);
  if (first != last) return std::nullopt;
  // A page equal to itself shifted by one word repeats that word.
  if (std::memcmp(page.data(), page.data() + sizeof first, kPageBytes - sizeof first) != 0) {
    return std::nullopt;
  }
  return first;
}

// Fills `page` with `word`.
inline void FillWithWord(uint64_t word, std::span<std::byte, kPageBytes> page) {
  for (size_t at = 0; at < kPageBytes; at += sizeof word) {
    std::memcpy(page.data() + at, &word, sizeof word);
  }
}

}  // namespace zmem
