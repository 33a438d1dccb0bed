#include "libzmem/store/page_ages.h"

#include <gtest/gtest.h>

namespace zmem {
namespace {

TEST(PageAges, EpochsGoRoundWithoutZero) {
  EXPECT_EQ(NextEpoch(1), 2);
  EXPECT_EQ(NextEpoch(kLastEpoch), 1);
  EXPECT_EQ(EpochsBetween(5, 5), 0u);
  EXPECT_EQ(EpochsBetween(5, 12), 7u);
  EXPECT_EQ(EpochsBetween(kLastEpoch, 1), 1u);
  EXPECT_EQ(EpochsBetween(0, 1), unsigned{kLastEpoch});
}

TEST(PageAges, APageIsAncientUntilItIsSeen) {
  PageAges ages;
  EXPECT_EQ(ages.Get(7).epoch, 0);
  EXPECT_EQ(ages.Get(7).backoff, 0u);
  ages.SetEpoch(7, kLastEpoch);
  EXPECT_EQ(ages.Get(7).epoch, kLastEpoch);
  EXPECT_EQ(ages.Get(6).epoch, 0);
}

TEST(PageAges, WantedSoonMeansHotterUpToTheLimitAndLateColder) {
  PageAges ages;
  constexpr unsigned kResidence = 4;
  for (unsigned i = 1; i <= PageAges::kMaxBackoff + 2; ++i) {
    ages.SetEpoch(0, 10);
    ages.OnWanted(0, ages.Get(0), 14, kResidence);
    EXPECT_EQ(ages.Get(0).backoff, std::min(i, PageAges::kMaxBackoff));
    EXPECT_EQ(ages.Get(0).epoch, 14);
  }
  for (unsigned left = PageAges::kMaxBackoff; left > 0; --left) {
    ages.SetEpoch(0, 10);
    ages.OnWanted(0, ages.Get(0), 15, kResidence);
    EXPECT_EQ(ages.Get(0).backoff, left - 1);
  }
  ages.OnWanted(0, ages.Get(0), 100, kResidence);
  EXPECT_EQ(ages.Get(0).backoff, 0u);
}

TEST(PageAges, TheSoonerItIsWantedTheHotterItIs) {
  constexpr unsigned kResidence = 8;
  PageAges ages;
  for (auto [out, backoff] : {std::pair{0, 3u}, {1, 2u}, {2, 2u}, {3, 1u}, {8, 1u}, {9, 0u}}) {
    PageAges::Age gone{10, 0};
    ages.OnWanted(0, gone, static_cast<Epoch>(10 + out), kResidence);
    EXPECT_EQ(ages.Get(0).backoff, backoff) << out;
  }
}

TEST(PageAges, ACopyIsTheSame) {
  PageAges ages;
  ages.SetEpoch(3, 30);
  ages.OnWanted(3, ages.Get(3), 31, 5);
  PageAges copy;
  copy.CopyFrom(ages);
  EXPECT_EQ(copy.Get(3).epoch, 31);
  EXPECT_EQ(copy.Get(3).backoff, 2u);
}

}  // namespace
}  // namespace zmem
