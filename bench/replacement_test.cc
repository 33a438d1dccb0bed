#include "bench/replacement.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <string>
#include <vector>

namespace zmem {
namespace {

// 'h' for every touch that found its page, 'm' for every other.
std::string Hits(Replacement& replacement, const std::vector<uint32_t>& trace) {
  std::string hits;
  for (uint32_t page : trace) hits += replacement.Touch(page) ? 'h' : 'm';
  return hits;
}

// The string of Belady's anomaly (Belady, Nelson, Shedler 1969), with the faults known for it.
const std::vector<uint32_t> kAnomaly = {1, 2, 3, 4, 1, 2, 5, 1, 2, 3, 4, 5};

TEST(FifoTest, FaultsMoreOftenWithMoreRoomOnBeladysString) {
  EXPECT_EQ(Hits(*MakeFifo(6, 3), kAnomaly), "mmmmmmmhhmmh");
  EXPECT_EQ(Hits(*MakeFifo(6, 4), kAnomaly), "mmmmhhmmmmmm");
}

TEST(LruTest, FaultsLessOftenWithMoreRoomOnBeladysString) {
  EXPECT_EQ(Hits(*MakeLru(6, 3), kAnomaly), "mmmmmmmhhmmm");
  EXPECT_EQ(Hits(*MakeLru(6, 4), kAnomaly), "mmmmhhmhhmmm");
}

TEST(LruTest, ATouchRenewsWhereFifoForgets) {
  const std::vector<uint32_t> trace = {0, 1, 0, 2, 0, 1};
  EXPECT_EQ(Hits(*MakeLru(3, 2), trace), "mmhmhm");
  EXPECT_EQ(Hits(*MakeFifo(3, 2), trace), "mmhmmm");
}

TEST(LruTest, RoomForOnePageHoldsTheLast) {
  EXPECT_EQ(Hits(*MakeLru(3, 1), {0, 0, 1, 1, 0, 2, 2}), "mhmhmmh");
}

TEST(LruTest, AgreesWithAListOnARandomTrace) {
  std::mt19937_64 random(3);
  std::unique_ptr<Replacement> lru = MakeLru(50, 20);
  std::deque<uint32_t> there;  // the newest first
  for (int touch = 0; touch < 5000; ++touch) {
    uint32_t page = static_cast<uint32_t>(std::min(random() % 50, random() % 50));
    auto found = std::find(there.begin(), there.end(), page);
    bool expected = found != there.end();
    if (expected) there.erase(found);
    there.push_front(page);
    if (there.size() > 20) there.pop_back();
    ASSERT_EQ(lru->Touch(page), expected) << "touch " << touch;
  }
}

// Pages 0 and 1 are touched again, so the hand passes them and takes 2; then it takes 0, which was
// not touched since.
TEST(ClockTest, ASecondChanceIsGivenOnce) {
  EXPECT_EQ(Hits(*MakeClock(6, 3), {0, 1, 2, 0, 1, 3, 0, 1}), "mmmhhmhh");
  EXPECT_EQ(Hits(*MakeClock(6, 3), {0, 1, 2, 0, 1, 3, 4, 1, 0}), "mmmhhmmhm");
}

TEST(ClockTest, IsFifoWhereNothingIsTouchedTwice) {
  const std::vector<uint32_t> circle = {0, 1, 2, 3, 0, 1, 2, 3};
  EXPECT_EQ(Hits(*MakeClock(4, 3), circle), "mmmmmmmm");
}

TEST(RandomTest, KeepsWhatFitsAndItsShareOfACircle) {
  EXPECT_EQ(Hits(*MakeRandom(3, 3, 1), {0, 1, 2, 0, 1, 2}), "mmmhhh");
  // Uniform touches of 100 pages with room for 30 hit 30 in 100 times, whatever goes.
  std::unique_ptr<Replacement> replacement = MakeRandom(100, 30, 1);
  std::mt19937_64 random(5);
  int hits = 0;
  for (int touch = 0; touch < 100'000; ++touch) hits += replacement->Touch(random() % 100);
  EXPECT_NEAR(hits / 1e5, 0.3, 0.01);
}

// Every one has room for exactly `capacity` pages: all of them stay.
TEST(ReplacementTest, WhatFitsStays) {
  std::vector<uint32_t> twice = {4, 3, 2, 1, 4, 3, 2, 1};
  for (const auto& replacement :
       {MakeLru(5, 4), MakeFifo(5, 4), MakeClock(5, 4), MakeRandom(5, 4, 1)}) {
    EXPECT_EQ(Hits(*replacement, twice), "mmmmhhhh");
  }
}

TEST(KeptPagesTest, OnlyTheyAreThere) {
  KeptPages oracle({true, false, true});
  EXPECT_EQ(Hits(oracle, {0, 1, 1, 2}), "hmmh");
  oracle.Keep({false, true, false});
  EXPECT_EQ(Hits(oracle, {0, 1, 1, 2}), "mhhm");
}

}  // namespace
}  // namespace zmem
