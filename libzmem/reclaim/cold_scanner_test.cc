#include "libzmem/reclaim/cold_scanner.h"

#include <gtest/gtest.h>

#include <memory>

#include "libzmem/testing/stored_pages.h"

namespace zmem {
namespace {

constexpr int64_t kAge = 1000;
constexpr uint64_t kChunk = 42;

wire::PageSet Pages(size_t first, size_t end) {
  wire::PageSet pages;
  pages.AddRange(first, end);
  return pages;
}

class ColdScannerTest : public testing::Test {
 protected:
  // Scans at `now_ns`, in an epoch of its own. Returns how many pages are cold.
  size_t Observe(const wire::PageSet& present, Chunk* chunk, int64_t now_ns) {
    epochs_.Advance(now_ns);
    return scanner_.Observe({kChunk, present, std::nullopt, chunk}, kAge, now_ns).count();
  }
  // The same where it can be seen that `touched` of them were touched since the scan before.
  wire::PageSet Watch(const wire::PageSet& present, const wire::PageSet& touched, Chunk* chunk,
                      int64_t now_ns) {
    epochs_.Advance(now_ns);
    return scanner_.Observe({kChunk, present, touched, chunk}, kAge, now_ns);
  }

  EpochClock epochs_{0};
  ColdScanner scanner_{epochs_};
  TestStore store_{TestStore::Options()};
  Chunk chunk_{*store_.arena, store_.arena->Allocate()};
};

// Chunks that are not in the table.

TEST_F(ColdScannerTest, AChunkIsColdAfterTheColdAgeAndNotBefore) {
  EXPECT_EQ(Observe(Pages(0, 10), nullptr, 5000), 0u);
  EXPECT_EQ(Observe(Pages(0, 10), nullptr, 5000 + kAge - 1), 0u);
  EXPECT_EQ(Observe(Pages(0, 10), nullptr, 5000 + kAge), 10u);
}

TEST_F(ColdScannerTest, AChangedPopulationStartsTheAgeAgain) {
  Observe(Pages(0, 10), nullptr, 1);
  EXPECT_EQ(Observe(Pages(0, 11), nullptr, 1 + kAge), 0u);
  EXPECT_EQ(Observe(Pages(0, 11), nullptr, 2 * kAge), 0u);
  EXPECT_EQ(Observe(Pages(0, 11), nullptr, 1 + 2 * kAge), 11u);
  EXPECT_EQ(Observe(Pages(1, 11), nullptr, 2 + 2 * kAge), 0u) << "one went";
}

TEST_F(ColdScannerTest, WhatZmemTookIsNoChangeOfTheProgram) {
  Observe(Pages(0, 10), nullptr, 1);
  scanner_.OnTaken(kChunk, Pages(0, 6));
  EXPECT_EQ(Observe(Pages(6, 10), nullptr, 1 + kAge), 4u);
  scanner_.OnReturned(kChunk, Pages(0, 3));
  wire::PageSet present = Pages(6, 10).Or(Pages(0, 3));
  EXPECT_EQ(Observe(present, nullptr, 2 + kAge), 7u);
}

// Chunks in the table.

TEST_F(ColdScannerTest, AChunkBringsItsAgeWithIt) {
  Observe(Pages(0, 10), nullptr, 1);
  EXPECT_EQ(Observe(Pages(0, 10), &chunk_, kAge), 0u);
  EXPECT_EQ(Observe(Pages(0, 10), &chunk_, kAge + 1), 10u);
}

TEST_F(ColdScannerTest, PagesAgeApart) {
  Observe(Pages(0, 10), &chunk_, 1);
  Observe(Pages(0, 20), &chunk_, kAge / 2);
  EXPECT_EQ(Observe(Pages(0, 20), &chunk_, 1 + kAge), 10u);
  EXPECT_EQ(Observe(Pages(0, 20), &chunk_, kAge / 2 + kAge), 20u);
}

TEST_F(ColdScannerTest, APageThatWasWantedBackSoonWaitsTwiceAsLong) {
  Observe(Pages(0, 10), &chunk_, 1);
  constexpr unsigned kResidence = 4;
  int64_t now_ns = 1;
  for (int64_t factor : {2, 4, 8}) {
    chunk_.ages.SetEpoch(3, epochs_.now());  // it goes out
    for (unsigned i = 0; i < kResidence; ++i) epochs_.Advance(now_ns);
    chunk_.ages.OnWanted(3, chunk_.ages.Get(3), epochs_.now(), kResidence);
    Observe(Pages(0, 10), &chunk_, now_ns + factor * kAge - 1);
    EXPECT_EQ(Observe(Pages(3, 4), &chunk_, now_ns + factor * kAge - 1), 0u) << factor;
    EXPECT_EQ(Observe(Pages(3, 4), &chunk_, now_ns + factor * kAge), 1u) << factor;
    now_ns += factor * kAge;
  }
}

TEST_F(ColdScannerTest, AHotChunkIsLeftAloneTwiceAsLongUpToTheLimit) {
  int64_t now_ns = 1;
  Observe(Pages(0, 10), nullptr, now_ns);
  for (int64_t factor : {2, 4, 8, 16, 16, 16}) {
    scanner_.OnHot(kChunk, now_ns);
    EXPECT_EQ(Observe(Pages(0, 10), nullptr, now_ns + factor * kAge - 1), 0u) << factor;
    now_ns += factor * kAge;
    EXPECT_EQ(Observe(Pages(0, 10), nullptr, now_ns), 10u) << factor;
  }
  EXPECT_EQ(ColdScanner::kMaxBackoff, 16u);
}

TEST_F(ColdScannerTest, AColdProbationHalvesTheWaitDownToTheColdAge) {
  Observe(Pages(0, 10), nullptr, 1);
  scanner_.OnHot(kChunk, 1);
  scanner_.OnHot(kChunk, 1);  // four times the age
  scanner_.OnCold(kChunk);
  EXPECT_EQ(Observe(Pages(0, 10), nullptr, 2 * kAge), 0u);
  EXPECT_EQ(Observe(Pages(0, 10), nullptr, 1 + 2 * kAge), 10u);
  scanner_.OnCold(kChunk);
  scanner_.OnCold(kChunk);
  scanner_.OnHot(kChunk, 10 * kAge);
  EXPECT_EQ(Observe(Pages(0, 10), nullptr, 12 * kAge), 10u) << "twice the age, not eight times";
}

TEST_F(ColdScannerTest, ForgetsWhatWasNotSeenInAWholeScan) {
  scanner_.Observe({.chunk_number = 1, .present = Pages(0, 1)}, kAge, 1);
  scanner_.Observe({.chunk_number = 2, .present = Pages(0, 1)}, kAge, 1);
  scanner_.ForgetUnseen();
  EXPECT_EQ(scanner_.size(), 2u);
  scanner_.Observe({.chunk_number = 2, .present = Pages(0, 1)}, kAge, 2);
  scanner_.ForgetUnseen();
  EXPECT_EQ(scanner_.size(), 1u);
  scanner_.ForgetUnseen();
  EXPECT_EQ(scanner_.size(), 0u);
}

// Where touches are seen.

bool Same(const wire::PageSet& a, const wire::PageSet& b) {
  return a.Without(b).empty() && b.Without(a).empty();
}

TEST_F(ColdScannerTest, OfAChunkThatIsPartlyTouchedTheRestIsCold) {
  wire::PageSet all = Pages(0, 100);
  EXPECT_TRUE(Watch(all, all, nullptr, 1).empty()) << "all came at some time before";
  EXPECT_TRUE(Watch(all, Pages(0, 10), nullptr, kAge / 2).empty());
  EXPECT_TRUE(Same(Watch(all, Pages(5, 20), nullptr, 1 + kAge), Pages(20, 100)));
}

TEST_F(ColdScannerTest, WhatWasTouchedBeforeIsWatchedAfresh) {
  wire::PageSet all = Pages(0, 100);
  Watch(all, all, nullptr, 1);
  Watch(all, Pages(0, 10), nullptr, 2);
  EXPECT_TRUE(Same(Watch(all, {}, nullptr, 1 + 2 * kAge), Pages(10, 100)));
  EXPECT_TRUE(Same(Watch(all, Pages(99, 100), nullptr, 1 + 3 * kAge), Pages(0, 99)));
}

TEST_F(ColdScannerTest, PagesThatAreTouchedAgainAndAgainAreNeverCold) {
  wire::PageSet all = Pages(0, 100);
  wire::PageSet hot = Pages(30, 40);
  Watch(all, all, &chunk_, 1);
  for (int64_t now_ns = 1 + kAge / 2; now_ns <= kAge; now_ns += kAge / 2) {
    EXPECT_TRUE(Watch(all, hot, &chunk_, now_ns).empty());
  }
  for (int round = 0; round < 5; ++round) {
    int64_t now_ns = 2 * kAge + round * kAge / 2;
    EXPECT_TRUE(Same(Watch(all, hot, &chunk_, now_ns), all.Without(hot))) << round;
  }
  EXPECT_TRUE(Same(Watch(all, {}, &chunk_, 6 * kAge), all));
}

TEST_F(ColdScannerTest, AChunkThatGetsIntoTheTableKeepsWhatWasSeenOfIt) {
  wire::PageSet all = Pages(0, 100);
  Watch(all, all, nullptr, 1);
  Watch(all, Pages(0, 10), nullptr, kAge / 2);
  EXPECT_TRUE(Same(Watch(all, {}, &chunk_, 1 + kAge), Pages(10, 100)));
  EXPECT_TRUE(Same(Watch(all, {}, &chunk_, 2 + 2 * kAge), all));
}

}  // namespace
}  // namespace zmem
