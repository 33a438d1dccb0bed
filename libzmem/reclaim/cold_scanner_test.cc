#include "libzmem/reclaim/cold_scanner.h"

#include <gtest/gtest.h>

namespace zmem {
namespace {

constexpr int64_t kAge = 1000;
constexpr uint64_t kChunk = 42;
constexpr int64_t kNever = 0;

TEST(ColdScanner, AChunkIsColdAfterTheColdAgeAndNotBefore) {
  ColdScanner scanner(kAge);
  EXPECT_FALSE(scanner.Observe(kChunk, 10, kNever, 5000));
  EXPECT_FALSE(scanner.Observe(kChunk, 10, kNever, 5000 + kAge - 1));
  EXPECT_TRUE(scanner.Observe(kChunk, 10, kNever, 5000 + kAge));
}

TEST(ColdScanner, AChangedPopulationStartsTheAgeAgain) {
  ColdScanner scanner(kAge);
  scanner.Observe(kChunk, 10, kNever, 0);
  EXPECT_FALSE(scanner.Observe(kChunk, 11, kNever, kAge));
  EXPECT_FALSE(scanner.Observe(kChunk, 11, kNever, 2 * kAge - 1));
  EXPECT_TRUE(scanner.Observe(kChunk, 11, kNever, 2 * kAge));
}

TEST(ColdScanner, APageBroughtBackStartsTheAgeAgain) {
  ColdScanner scanner(kAge);
  scanner.Observe(kChunk, 10, kNever, 0);
  EXPECT_FALSE(scanner.Observe(kChunk, 10, kAge - 1, kAge));
  EXPECT_TRUE(scanner.Observe(kChunk, 10, kAge - 1, 2 * kAge - 1));
}

TEST(ColdScanner, AnEmptyChunkIsNeverCold) {
  ColdScanner scanner(kAge);
  scanner.Observe(kChunk, 0, kNever, 0);
  EXPECT_FALSE(scanner.Observe(kChunk, 0, kNever, 100 * kAge));
}

TEST(ColdScanner, WhatZmemTookIsNoChangeOfTheProgram) {
  ColdScanner scanner(kAge);
  scanner.Observe(kChunk, 10, kNever, 0);
  scanner.OnTaken(kChunk, 4);
  EXPECT_TRUE(scanner.Observe(kChunk, 4, kNever, kAge));
}

TEST(ColdScanner, AHotChunkIsLeftAloneTwiceAsLongUpToTheLimit) {
  ColdScanner scanner(kAge);
  int64_t now = 0;
  scanner.Observe(kChunk, 10, kNever, now);
  for (int64_t factor : {2, 4, 8, 16, 16, 16}) {
    scanner.OnHot(kChunk, now);
    EXPECT_FALSE(scanner.Observe(kChunk, 10, kNever, now + factor * kAge - 1)) << factor;
    now += factor * kAge;
    EXPECT_TRUE(scanner.Observe(kChunk, 10, kNever, now)) << factor;
  }
  EXPECT_EQ(ColdScanner::kMaxBackoff, 16u);
}

TEST(ColdScanner, AColdProbationHalvesTheWaitDownToTheColdAge) {
  ColdScanner scanner(kAge);
  scanner.Observe(kChunk, 10, kNever, 0);
  scanner.OnHot(kChunk, 0);
  scanner.OnHot(kChunk, 0);  // four times the age
  scanner.OnCold(kChunk);
  EXPECT_FALSE(scanner.Observe(kChunk, 10, kNever, 2 * kAge - 1));
  EXPECT_TRUE(scanner.Observe(kChunk, 10, kNever, 2 * kAge));
  scanner.OnCold(kChunk);
  scanner.OnCold(kChunk);
  EXPECT_FALSE(scanner.Observe(kChunk, 10, kNever, kAge - 1));
  EXPECT_TRUE(scanner.Observe(kChunk, 10, kNever, kAge));
}

TEST(ColdScanner, ChunksAgeApart) {
  ColdScanner scanner(kAge);
  scanner.Observe(1, 10, kNever, 0);
  scanner.Observe(2, 10, kNever, kAge / 2);
  EXPECT_TRUE(scanner.Observe(1, 10, kNever, kAge));
  EXPECT_FALSE(scanner.Observe(2, 10, kNever, kAge));
}

TEST(ColdScanner, ForgetsWhatWasNotSeenInAWholeScan) {
  ColdScanner scanner(kAge);
  scanner.Observe(1, 10, kNever, 0);
  scanner.Observe(2, 10, kNever, 0);
  scanner.ForgetUnseen();
  EXPECT_EQ(scanner.size(), 2u);
  scanner.Observe(2, 10, kNever, 1);
  scanner.ForgetUnseen();
  EXPECT_EQ(scanner.size(), 1u);
  scanner.ForgetUnseen();
  EXPECT_EQ(scanner.size(), 0u);
}

}  // namespace
}  // namespace zmem
