#include "libzmem/pool/size_class.h"

#include <gtest/gtest.h>

#include <algorithm>

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

TEST(SizeClass, NoSmallerSpanWastesLessAndNoLargerOneMuchLess) {
  for (const SizeClass& size_class : kSizeClassTable.classes) {
    auto wasted_share = [&](size_t pages) {
      return static_cast<double>(pages * kPageBytes % size_class.object_bytes) /
             static_cast<double>(pages);
    };
    constexpr double kWorthAPageBytes = 8;
    for (size_t pages = 1; pages <= kMaxSpanPages; ++pages) {
      double more_pages = static_cast<double>(pages) - size_class.span_pages;
      EXPECT_LE(wasted_share(size_class.span_pages),
                wasted_share(pages) + more_pages * kWorthAPageBytes)
          << size_class.object_bytes << " bytes, " << pages << " pages";
    }
  }
}

TEST(SizeClass, SpansWasteWhatTheHeaderOfThePoolSays) {
  constexpr size_t kFatBytes = kPageBytes * 3 / 4;
  double worst = 0;
  double worst_of_fat = 0;
  double sum = 0;
  for (size_t bytes = kSizeStepBytes; bytes <= kPageBytes; bytes += kSizeStepBytes) {
    const SizeClass& size_class = kSizeClassTable.classes[SizeClassOf(bytes)];
    size_t used_bytes = bytes * size_class.objects_per_span;
    double waste = 1 - static_cast<double>(used_bytes) /
                           static_cast<double>(size_class.span_pages * kPageBytes);
    if (bytes <= kFatBytes) sum += waste;
    double& most = bytes <= kFatBytes ? worst : worst_of_fat;
    most = std::max(most, waste);
  }
  EXPECT_LE(sum / (kFatBytes / kSizeStepBytes), 0.007);
  EXPECT_LE(worst, 0.04);
  EXPECT_LE(worst_of_fat, 0.075);
}

TEST(SizeClass, OneSpanOfEachIsLittle) {
  size_t bytes = 0;
  for (const SizeClass& size_class : kSizeClassTable.classes) {
    bytes += size_class.span_pages * kPageBytes;
  }
  EXPECT_LE(bytes, (size_t{1} << 20) * 36 / 10);
}

}  // namespace
}  // namespace zmem
