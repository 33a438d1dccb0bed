// Pages as programs hold them, for benchmarks: the same bytes on every machine and run, and no two
// pages alike, so that neither a codec nor a branch predictor can learn them by heart.
// Pure functions, thread-safe.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "libzmem/base/page.h"

namespace zmem::bench {

enum class PageKind {
  kText,    // JSON records: repeated field names, varied words, numbers and hex ids
  kHeap,    // allocated structures: headers, a few vtables, near pointers, counters, short strings
  kSparse,  // mostly zeros with small structures here and there
  kRandom,  // incompressible, as encrypted or already compressed data
};
inline constexpr std::array kPageKinds = {PageKind::kText, PageKind::kHeap, PageKind::kSparse,
                                          PageKind::kRandom};

// "text", "heap", "sparse", "random".
std::string_view PageKindName(PageKind kind);

// Fills `page` with page number `index` of its kind. Takes a few microseconds; do it before timing.
void FillSamplePage(PageKind kind, uint64_t index, std::span<std::byte, kPageBytes> page);

// The kind of page `index` in a mix as of a service under load: 45 % heap, 30 % text, 20 % sparse,
// 5 % random, interleaved.
PageKind MixedPageKind(uint64_t index);

}  // namespace zmem::bench
