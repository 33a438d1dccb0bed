#include "libzmem/store/advice.h"

#include <errno.h>
#include <gtest/gtest.h>

#include <vector>

namespace zmem {
namespace {

using wire::QueryKind;
using Ranges = std::vector<AddressRange>;

constexpr AddressRange Pages(uint64_t first, uint64_t end) {
  return {first * kPageBytes, end * kPageBytes};
}

TEST(AdviceTest, WhatIsKeptIsWantedBackAndTheReverseEndsIt) {
  Advice advice;
  EXPECT_EQ(advice.Take(QueryKind::kKeep, Pages(510, 514)), 0);
  EXPECT_TRUE(advice.has_wanted());
  EXPECT_EQ(advice.TakeWanted(), Pages(510, 514));
  EXPECT_FALSE(advice.has_wanted());
  EXPECT_EQ(advice.KeptIn(0).count(), 2u);
  EXPECT_TRUE(advice.KeptIn(1).Has(1));
  EXPECT_FALSE(advice.KeptIn(1).Has(2));
  EXPECT_TRUE(advice.Keeps(Pages(0, 1000)));
  EXPECT_EQ(advice.Take(QueryKind::kNormal, Pages(511, 514)), 0);
  EXPECT_EQ(advice.kept(), Ranges{Pages(510, 511)});
  EXPECT_EQ(advice.kept_bytes(), kPageBytes);
}

TEST(AdviceTest, WhatWasSaidLastCounts) {
  Advice advice;
  EXPECT_EQ(advice.Take(QueryKind::kCold, Pages(0, 10)), 0);
  EXPECT_EQ(advice.Take(QueryKind::kWillNeed, Pages(4, 20)), 0);
  EXPECT_EQ(advice.TakeCold(), Ranges{Pages(0, 4)});
  EXPECT_EQ(advice.TakeCold(), Ranges{});
  EXPECT_EQ(advice.Take(QueryKind::kCold, Pages(4, 6)), 0);
  EXPECT_EQ(advice.TakeWanted(), Pages(6, 20));
  EXPECT_EQ(advice.Take(QueryKind::kNormal, Pages(0, 20)), 0);
  EXPECT_EQ(advice.TakeCold(), Ranges{});
}

TEST(AdviceTest, TooManyRangesAreRefusedAndChangeNothing) {
  Advice advice;
  for (uint64_t i = 0; i < Advice::kMostRanges; ++i) {
    ASSERT_EQ(advice.Take(QueryKind::kKeep, Pages(10 * i, 10 * i + 3)), 0);
    ASSERT_TRUE(advice.TakeWanted().has_value());
  }
  EXPECT_EQ(advice.Take(QueryKind::kKeep, Pages(5, 6)), ENOMEM);
  EXPECT_EQ(advice.Take(QueryKind::kNormal, Pages(1, 2)), ENOMEM);
  EXPECT_FALSE(advice.has_wanted());
  EXPECT_EQ(advice.kept_bytes(), Advice::kMostRanges * 3 * kPageBytes);
  for (uint64_t i = 0; i < Advice::kMostRanges; ++i) {
    ASSERT_EQ(advice.Take(QueryKind::kCold, Pages(1'000'000 + 2 * i, 1'000'001 + 2 * i)), 0);
    ASSERT_EQ(advice.Take(QueryKind::kWillNeed, Pages(2'000'000 + 2 * i, 2'000'001 + 2 * i)), 0);
  }
  EXPECT_EQ(advice.Take(QueryKind::kCold, Pages(3'000'000, 3'000'001)), EAGAIN);
  EXPECT_EQ(advice.Take(QueryKind::kWillNeed, Pages(3'000'000, 3'000'001)), EAGAIN);
  EXPECT_EQ(advice.Take(QueryKind::kKeep, Pages(3'000'000, 3'000'001)), EAGAIN);
  EXPECT_EQ(advice.TakeCold().size(), Advice::kMostRanges);
}

TEST(AdviceTest, RangesThatMakeNoSenseAreRefusedOrCut) {
  Advice advice;
  EXPECT_EQ(advice.Take(QueryKind::kKeep, {1, kPageBytes}), EINVAL);
  EXPECT_EQ(advice.Take(QueryKind::kKeep, {kPageBytes, kPageBytes + 1}), EINVAL);
  EXPECT_EQ(advice.Take(QueryKind::kKeep, Pages(2, 1)), EINVAL);
  EXPECT_EQ(advice.Take(QueryKind::kKeep, Pages(1, 1)), 0);
  EXPECT_EQ(advice.kept_bytes(), 0u);
  EXPECT_EQ(advice.Take(QueryKind::kKeep, {kPageBytes, PageStart(~Address{0})}), 0);
  EXPECT_EQ(advice.kept(), Ranges{Pages(1, uint64_t{1} << 44)});
  EXPECT_EQ(advice.Take(QueryKind::kNormal, {0, PageStart(~Address{0})}), 0);
  EXPECT_EQ(advice.kept_bytes(), 0u);
}

TEST(AdviceTest, WhatIsKeptIsToldOnceToWhoWatchesItsMappings) {
  Advice advice;
  EXPECT_EQ(advice.TakeUnwatched(), Ranges{});
  for (uint64_t i = 0; i < 3; ++i) {
    ASSERT_EQ(advice.Take(QueryKind::kKeep, Pages(10 * i, 10 * i + 3)), 0);
  }
  EXPECT_EQ(advice.Take(QueryKind::kNormal, Pages(10, 13)), 0);
  EXPECT_EQ(advice.TakeUnwatched(), (Ranges{Pages(0, 3), Pages(20, 23)}));
  EXPECT_EQ(advice.TakeUnwatched(), Ranges{});
  EXPECT_EQ(advice.Take(QueryKind::kKeep, Pages(2, 5)), 0);
  EXPECT_EQ(advice.TakeUnwatched(), Ranges{Pages(2, 5)});
}

TEST(AdviceTest, WhatIsKeptEndsWithItsMappingAndMovesWithIt) {
  Advice advice;
  ASSERT_EQ(advice.Take(QueryKind::kKeep, Pages(0, 8)), 0);
  ASSERT_EQ(advice.Take(QueryKind::kCold, Pages(20, 24)), 0);
  advice.Forget(Pages(6, 22));
  EXPECT_EQ(advice.kept(), Ranges{Pages(0, 6)});
  EXPECT_EQ(advice.TakeWanted(), Pages(0, 6));
  EXPECT_EQ(advice.TakeCold(), Ranges{Pages(22, 24)});
  advice.Move(Pages(4, 10), Pages(104, 105).start);
  EXPECT_EQ(advice.kept(), (Ranges{Pages(0, 4), Pages(104, 106)}));
}

}  // namespace
}  // namespace zmem
