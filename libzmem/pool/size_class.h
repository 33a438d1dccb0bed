// Size classes: which objects share a span, and how many pages such a span has.
// Sizes are rounded up to a step of 16 bytes; neighbouring steps that give a span the same number
// of objects and pages are one class, as in zsmalloc, whose spans have 8 pages at most. One
// constant table; thread-safe. Source: mm/zsmalloc.c, get_pages_per_zspage, can_merge.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "libzmem/base/page.h"

namespace zmem {

inline constexpr size_t kSizeStepBytes = 16;
inline constexpr size_t kSizeSteps = kPageBytes / kSizeStepBytes;
inline constexpr size_t kMaxSpanPages = 12;
inline constexpr size_t kSizeClasses = 153;  // what the rule above comes to

struct SizeClass {
  uint16_t object_bytes = 0;      // room for one object, a multiple of kSizeStepBytes
  uint16_t objects_per_span = 0;  // side by side from the span's start
  uint8_t span_pages = 0;         // 1..kMaxSpanPages
};

struct SizeClassTable {
  std::array<SizeClass, kSizeClasses> classes;    // smallest objects first
  std::array<uint8_t, kSizeSteps> class_of_step;  // step n holds sizes 16 n + 1 .. 16 n + 16
};
extern const SizeClassTable kSizeClassTable;

// The number of the class for objects of `object_bytes`, 1..kPageBytes.
inline size_t SizeClassOf(size_t object_bytes) {
  return kSizeClassTable.class_of_step[(object_bytes - 1) / kSizeStepBytes];
}

}  // namespace zmem
