#include "libzmem/fault/readahead.h"

#include <gtest/gtest.h>

#include <random>

#include "libzmem/testing/memory.h"

namespace zmem {
namespace {

constexpr size_t kMaxPages = 64;

TEST(Readahead, AFirstFaultReadsNothingAhead) {
  Readahead readahead(kMaxPages);
  EXPECT_EQ(readahead.OnFault(1000), 0u);
}

TEST(Readahead, SequentialFaultsDoubleTheWindowUpToItsLimit) {
  Readahead readahead(kMaxPages);
  uint64_t page = 500;
  std::vector<size_t> windows;
  for (int fault = 0; fault < 8; ++fault) {
    windows.push_back(readahead.OnFault(page));
    page += 1 + windows.back();  // the program runs through what was read ahead
  }
  EXPECT_EQ(windows, (std::vector<size_t>{0, 4, 8, 16, 32, 64, 64, 64}));
}

TEST(Readahead, AFaultInsideTheWindowBehindContinuesTheStream) {
  Readahead readahead(kMaxPages);
  readahead.OnFault(100);
  ASSERT_EQ(readahead.OnFault(101), 4u);  // 102..105 come with it, the stream goes on at 106
  // 106..109 were in the program already.
  EXPECT_EQ(readahead.OnFault(110), 8u);
}

TEST(Readahead, TellsWhatAStreamHasPassed) {
  Readahead readahead(kMaxPages);
  readahead.OnFault(100);
  readahead.OnFault(101);  // 102..105 come with it
  EXPECT_EQ(readahead.passed().first, 100u);
  EXPECT_EQ(readahead.passed().end, 101u);
  readahead.OnFault(107);  // 106 was there already
  EXPECT_EQ(readahead.passed().first, 101u);
  EXPECT_EQ(readahead.passed().end, 106u);
  readahead.Brought(107, 2);
  readahead.OnFault(110);
  EXPECT_EQ(readahead.passed().first, 107u);
  EXPECT_EQ(readahead.passed().end, 110u);
}

TEST(Readahead, AStreamThatIsReachedInItsWindowKeepsAWholeOneAhead) {
  Readahead readahead(kMaxPages);
  readahead.OnFault(100);
  ASSERT_EQ(readahead.OnFault(101), 4u);  // 102..105 come with it
  Readahead::Pages more = readahead.OnReached(103);
  EXPECT_EQ(more.first, 106u);  // 104..111 are a window of 8
  EXPECT_EQ(more.end, 112u);
  EXPECT_EQ(readahead.passed().first, 101u);
  EXPECT_EQ(readahead.passed().end, 103u);
  more = readahead.OnReached(111);
  EXPECT_EQ(more.first, 112u);
  EXPECT_EQ(more.end, 128u);
  for (uint64_t page = 112; page < 1000; page += 16) more = readahead.OnReached(page);
  EXPECT_EQ(more.end, 992u + 1 + kMaxPages);
  EXPECT_EQ(readahead.OnFault(more.end), kMaxPages);
}

TEST(Readahead, WhatNoStreamHasBroughtIsReachedByNone) {
  Readahead readahead(kMaxPages);
  readahead.OnFault(100);
  readahead.OnFault(101);
  for (uint64_t page : {0u, 100u, 101u, 106u}) {
    Readahead::Pages more = readahead.OnReached(page);
    EXPECT_EQ(more.first, more.end) << page;
  }
  EXPECT_EQ(readahead.OnFault(106), 8u);
}

TEST(Readahead, AStreamGoesOnBehindWhatCame) {
  Readahead readahead(kMaxPages);
  EXPECT_EQ(readahead.OnFault(100), 0u);
  readahead.Brought(100, 7);  // more than asked for
  EXPECT_EQ(readahead.OnFault(108), 4u);
  EXPECT_EQ(readahead.OnFault(113), 8u);
  readahead.Brought(113, 2);  // fewer
  EXPECT_EQ(readahead.OnFault(116), 16u);
}

TEST(Readahead, RandomFaultsReadNothingAhead) {
  Readahead readahead(kMaxPages);
  std::mt19937_64 random(TestSeed());
  for (int fault = 0; fault < 1000; ++fault) {
    uint64_t page = random() >> 16;
    EXPECT_EQ(readahead.OnFault(page), 0u) << page;
  }
}

TEST(Readahead, FaultsGoingDownReadNothingAhead) {
  Readahead readahead(kMaxPages);
  for (uint64_t page = 1000; page > 900; --page) EXPECT_EQ(readahead.OnFault(page), 0u) << page;
}

TEST(Readahead, FourStreamsGrowSideBySide) {
  Readahead readahead(kMaxPages);
  uint64_t pages[4] = {0x1000, 0x20000, 0x300000, 0x4000000};
  size_t window = 0;
  for (int round = 0; round < 6; ++round) {
    for (uint64_t& page : pages) {
      window = readahead.OnFault(page);
      page += 1 + window;
    }
  }
  EXPECT_EQ(window, kMaxPages);
}

TEST(Readahead, AFifthStreamTakesThePlaceOfTheOneLeastUsed) {
  Readahead readahead(kMaxPages);
  for (uint64_t stream = 1; stream <= 4; ++stream) readahead.OnFault(stream << 20);
  readahead.OnFault(uint64_t{5} << 20);
  EXPECT_GT(readahead.OnFault((uint64_t{2} << 20) + 1), 0u);
  EXPECT_EQ(readahead.OnFault((uint64_t{1} << 20) + 1), 0u);
}

}  // namespace
}  // namespace zmem
