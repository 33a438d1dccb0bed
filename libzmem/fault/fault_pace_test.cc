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

TEST_F(FaultPaceTest, AStreamCountsByItsPages) {
  for (int slice = 0; slice < 16; ++slice) pace_.OnStream(64, now_ns_ += 200'000);
  EXPECT_TRUE(IsFast());
  for (int slice = 0; slice < 16; ++slice) pace_.OnStream(64, now_ns_ += 2'000'000);
  EXPECT_FALSE(IsFast());
}

TEST_F(FaultPaceTest, AFewPagesOfAStreamAreNone) {
  for (int slice = 0; slice < 1000; ++slice) pace_.OnStream(15, now_ns_ += 1000);
  EXPECT_FALSE(IsFast());
}

TEST(LoneFaulter, IsAloneAfterManyFaultsAndUntilAnotherThreadFaults) {
  LoneFaulter faulter;
  for (int fault = 0; fault < 32; ++fault) {
    faulter.OnFault(7);
    EXPECT_FALSE(faulter.is_alone());
  }
  faulter.OnFault(7);
  EXPECT_TRUE(faulter.is_alone());
  faulter.OnFault(8);
  EXPECT_FALSE(faulter.is_alone());
  for (int fault = 0; fault < 100; ++fault) faulter.OnFault(fault % 20 == 0 ? 7 : 8);
  EXPECT_FALSE(faulter.is_alone());
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
