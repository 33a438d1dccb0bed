#include "libzmem/pool/size_class.h"

#include <gtest/gtest.h>

namespace zmem {
namespace {

TEST(SizeClass, EverySizeFitsItsClassAndNoSmallerOne) {
  for (size_t bytes = 1; bytes <= kPageBytes; ++bytes) {
    size_t number = SizeClassOf(bytes);
    ASSERT_LT(number, kSizeClasses);
    EXPECT_GE(kSizeClassTable.classes[number].object_bytes, bytes);
    if (number > 0) {
      EXPECT_LT(kSizeClassTable.classes[number - 1].object_bytes, bytes);
    }
  }
}

TEST(SizeClass, ObjectsFitTheirSpanAndStayAligned) {
  for (const SizeClass& size_class : kSizeClassTable.classes) {
    size_t span_bytes = size_class.span_pages * kPageBytes;
    EXPECT_EQ(size_class.object_bytes % kSizeStepBytes, 0u);
    EXPECT_GE(size_class.span_pages, 1u);
    EXPECT_LE(size_class.span_pages, kMaxSpanPages);
    EXPECT_EQ(size_class.objects_per_span, span_bytes / size_class.object_bytes);
  }
}

TEST(SizeClass, NoOtherSpanWastesLess) {
  for (const SizeClass& size_class : kSizeClassTable.classes) {
    auto wasted_share = [&](size_t pages) {
      return static_cast<double>(pages * kPageBytes % size_class.object_bytes) /
             static_cast<double>(pages);
    };
    for (size_t pages = 1; pages <= kMaxSpanPages; ++pages) {
      EXPECT_LE(wasted_share(size_class.span_pages), wasted_share(pages))
          << size_class.object_bytes << " bytes, " << pages << " pages";
    }
  }
}

TEST(SizeClass, SpansOfCompressedPagesAreNearlyFull) {
  // Above three quarters of a page few objects share a span; such pages are stored raw or on disk.
  for (const SizeClass& size_class : kSizeClassTable.classes) {
    if (size_class.object_bytes > kPageBytes * 3 / 4) continue;
    size_t used_bytes = size_t{size_class.object_bytes} * size_class.objects_per_span;
    EXPECT_GE(used_bytes * 100, size_class.span_pages * kPageBytes * 93) << size_class.object_bytes;
  }
}

}  // namespace
}  // namespace zmem
