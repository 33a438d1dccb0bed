#include "libzmem/fault/fault_pace.h"

#include <gtest/gtest.h>

namespace zmem {
namespace {

class FaultPaceTest : public testing::Test {
 protected:
  void Fault(int times, int64_t apart_ns) {
    for (int i = 0; i < times; ++i) pace_.OnFault(now_ns_ += apart_ns);
  }
  bool IsFast() const { return pace_.IsFast(now_ns_); }

  FaultPace pace_;
  int64_t now_ns_ = 1'000'000'000;
};

TEST_F(FaultPaceTest, IsFastOnceManyFaultsFollowEachOtherClosely) {
  Fault(63, 10'000);
  EXPECT_FALSE(IsFast());
  Fault(1, 10'000);
  EXPECT_TRUE(IsFast());
}

TEST_F(FaultPaceTest, IsNotFastAtAFewThousandASecond) {
  Fault(1000, 150'000);
  EXPECT_FALSE(IsFast());
}

TEST_F(FaultPaceTest, WhatIsFastMayPauseForAMoment) {
  Fault(128, 10'000);
  Fault(16 * 64, 300'000);
  EXPECT_TRUE(IsFast());
  Fault(64, 500'000);
  EXPECT_FALSE(IsFast());
}

TEST_F(FaultPaceTest, QuietEndsItUntilManyFollowEachOtherAgain) {
  Fault(128, 10'000);
  now_ns_ += FaultPace::kQuietNs;
  EXPECT_TRUE(IsFast());
  ++now_ns_;
  EXPECT_FALSE(IsFast());
  Fault(63, 10'000);
  EXPECT_FALSE(IsFast());
  Fault(1, 10'000);
  EXPECT_TRUE(IsFast());
}

TEST(LookCredit, LooksGoOnAsLongAsMostFindSomething) {
  LookCredit credit;
  for (int i = 0; i < 1000; ++i) {
    ASSERT_TRUE(credit.Take());
    credit.OnLook(i % 3 != 0);
  }
}

TEST(LookCredit, ThatFindNothingAreGivenUpForAWhile) {
  LookCredit credit;
  int looks = 0;
  for (int i = 0; i < 10'000; ++i) {
    if (!credit.Take()) continue;
    ++looks;
    credit.OnLook(false);
  }
  EXPECT_LT(looks, 60);
  EXPECT_GT(looks, 20);  // and tried again
  while (!credit.Take()) {
  }
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(credit.Take());
    credit.OnLook(true);
  }
}

}  // namespace
}  // namespace zmem
