#include "libzmem/reclaim/oldest_pages.h"

#include <gtest/gtest.h>

#include "libzmem/testing/stored_pages.h"

namespace zmem {
namespace {

class OldestPagesTest : public testing::Test {
 protected:
  // Pages [first, end) of the chunk are present and came in `epoch`.
  void Add(uint64_t number, size_t first, size_t end, Epoch epoch) {
    std::shared_ptr<Chunk> chunk = table_.FindOrAdd(number);
    for (size_t page = first; page < end; ++page) chunk->ages.SetEpoch(page, epoch);
    if (present_.empty() || present_.back().chunk_number != number)
      present_.push_back({number, {}});
    present_.back().pages.AddRange(first, end);
  }
  OldestPages Pick(size_t most) { return PickOldest(present_, table_, kNow, most); }
  static size_t Count(const OldestPages& oldest) {
    size_t pages = 0;
    for (const Candidate& chunk : oldest.chunks) pages += chunk.pages.count();
    return pages;
  }

  static constexpr Epoch kNow = 100;
  TestStore store_{TestStore::Options()};
  PageTable table_{*store_.arena};
  std::vector<Candidate> present_;
};

TEST_F(OldestPagesTest, TakesTheOldestAndTellsHowOldTheyAre) {
  Add(1, 0, 10, 90);
  Add(2, 0, 10, 50);
  Add(3, 0, 10, 70);
  OldestPages oldest = Pick(15);
  ASSERT_EQ(oldest.chunks.size(), 2u);
  EXPECT_EQ(oldest.chunks.back().chunk_number, 2u) << "the first to go";
  EXPECT_EQ(oldest.chunks.front().chunk_number, 3u);
  EXPECT_EQ(oldest.residence_epochs, 30u);
}

TEST_F(OldestPagesTest, TakesPagesAndNotChunks) {
  Add(1, 0, 100, 99);
  Add(1, 100, 110, 40);
  Add(2, 0, 100, 98);
  OldestPages oldest = Pick(10);
  ASSERT_EQ(oldest.chunks.size(), 1u);
  wire::PageSet expected;
  expected.AddRange(100, 110);
  EXPECT_TRUE(oldest.chunks[0].pages.Without(expected).empty());
  EXPECT_EQ(Count(oldest), 10u);
}

TEST_F(OldestPagesTest, PagesThatProvedHotLookYounger) {
  Add(1, 0, 1, 20);  // 80 epochs old
  Add(2, 0, 1, 60);  // 40
  std::shared_ptr<Chunk> hot = table_.Find(1);
  hot->ages.OnWanted(0, hot->ages.Get(0), 20, 1);  // looks 10
  EXPECT_EQ(Pick(1).chunks.back().chunk_number, 2u);
}

TEST_F(OldestPagesTest, PagesThatAllProvedHotAreStillToldApart) {
  Add(1, 0, 1, 99);
  Add(2, 0, 1, 96);
  Add(3, 0, 1, 98);
  for (uint64_t number : {1, 2, 3}) {
    PageAges& ages = table_.Find(number)->ages;
    for (unsigned i = 0; i < PageAges::kMaxBackoff; ++i) {
      PageAges::Age age = ages.Get(0);
      ages.OnWanted(0, age, age.epoch, 1);
    }
  }
  OldestPages oldest = Pick(3);
  ASSERT_EQ(oldest.chunks.size(), 3u);
  EXPECT_EQ(oldest.chunks[2].chunk_number, 2u);
  EXPECT_EQ(oldest.chunks[1].chunk_number, 3u);
  EXPECT_EQ(oldest.chunks[0].chunk_number, 1u);
}

TEST_F(OldestPagesTest, WhatIsOlderThanCanBeToldGoesFirst) {
  Add(1, 0, 1, 1);
  Add(2, 0, 1, 0);
  Add(3, 0, 1, 101 + kLastEpoch / 2);  // of the last round: half a round ago
  EXPECT_EQ(Pick(1).chunks.back().chunk_number, 2u);
}

TEST_F(OldestPagesTest, LeavesAloneWhatDoesNotCompressAndWhatIsNotInTheTable) {
  Add(1, 0, 2, 10);
  table_.Find(1)->Initialise(1, PageEntry().With(PageEntry::kIncompressible));
  wire::PageSet pages;
  pages.Add(0);
  present_.push_back({7, pages});
  OldestPages oldest = Pick(100);
  ASSERT_EQ(oldest.chunks.size(), 1u);
  EXPECT_EQ(Count(oldest), 1u);
  EXPECT_TRUE(oldest.chunks[0].pages.Has(0));
}

TEST_F(OldestPagesTest, OfManyOfTheSameAgeNotMuchMoreThanWanted) {
  for (uint64_t number = 1; number <= 20; ++number) Add(number, 0, kPagesPerChunk, 5);
  OldestPages oldest = Pick(1000);
  EXPECT_EQ(Count(oldest), 2 * kPagesPerChunk);
  EXPECT_EQ(oldest.chunks.back().chunk_number, 1u);
}

TEST_F(OldestPagesTest, OfNothingThereIsNothing) { EXPECT_TRUE(Pick(10).chunks.empty()); }

}  // namespace
}  // namespace zmem
