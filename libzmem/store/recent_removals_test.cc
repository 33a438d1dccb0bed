#include "libzmem/store/recent_removals.h"

#include <gtest/gtest.h>

namespace zmem {
namespace {

constexpr int64_t kNow = 5'000'000'000;
constexpr uint64_t kChunk = 100;

AddressRange Pages(uint64_t chunk_number, size_t first, size_t count) {
  Address start = (chunk_number << kChunkShift) + first * kPageBytes;
  return {start, start + count * kPageBytes};
}

TEST(RecentRemovals, KnowThePagesOfEachChunk) {
  RecentRemovals removals;
  EXPECT_TRUE(removals.In(kChunk, kNow).empty());
  removals.Add(Pages(kChunk, kPagesPerChunk - 2, 5), kNow);
  EXPECT_EQ(removals.In(kChunk, kNow).count(), 2u);
  EXPECT_TRUE(removals.In(kChunk, kNow).Has(kPagesPerChunk - 1));
  EXPECT_EQ(removals.In(kChunk + 1, kNow).count(), 3u);
  EXPECT_TRUE(removals.In(kChunk + 1, kNow).Has(0));
  EXPECT_TRUE(removals.In(kChunk + 2, kNow).empty());
}

TEST(RecentRemovals, AreForgottenInTime) {
  RecentRemovals removals;
  removals.Add(Pages(kChunk, 0, 1), kNow);
  EXPECT_FALSE(removals.In(kChunk, kNow + RecentRemovals::kHorizonNs).empty());
  EXPECT_TRUE(removals.In(kChunk, kNow + RecentRemovals::kHorizonNs + 1).empty());
}

// However many there are: pages between them may be among them, none is missing.
TEST(RecentRemovals, LoseNone) {
  RecentRemovals removals;
  constexpr uint64_t kMany = 1000;
  for (uint64_t i = 0; i < kMany; ++i) removals.Add(Pages(kChunk + i, i % 512, 1), kNow);
  for (uint64_t i = 0; i < kMany; ++i) {
    EXPECT_TRUE(removals.In(kChunk + i, kNow).Has(i % 512)) << i;
  }
  EXPECT_TRUE(removals.In(kChunk + kMany, kNow).empty());
}

}  // namespace
}  // namespace zmem
