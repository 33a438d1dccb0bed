#include "libzmem/reclaim/touched_pages.h"

#include <gtest/gtest.h>

#include <vector>

#include "libzmem/testing/fake_accessed_bits.h"
#include "libzmem/testing/stored_pages.h"

namespace zmem {
namespace {

wire::PageSet Pages(size_t first, size_t end) {
  wire::PageSet pages;
  pages.AddRange(first, end);
  return pages;
}

bool Same(const TouchedPages::Touched& found, const wire::PageSet& expected) {
  return found && found->Without(expected).empty() && expected.Without(*found).empty();
}

class TouchedPagesTest : public testing::Test {
 protected:
  static constexpr uint64_t kChunk = 100;

  FakeAccessedBits bits_;
  TestStore store_{TestStore::Options()};
  std::shared_ptr<Process> process_ = ProcessOfThisOne(store_);
  TouchedPages touched_{*process_, &bits_};
  std::vector<Candidate> candidates_ = {{kChunk, Pages(0, 50)}, {kChunk + 1, Pages(0, 512)}};
};

TEST_F(TouchedPagesTest, ALookTellsWhatWasTouchedSinceTheOneBefore) {
  bits_.bits[kChunk] = Pages(10, 60);
  std::vector<TouchedPages::Touched> look = touched_.Look(candidates_);
  ASSERT_EQ(look.size(), 2u);
  EXPECT_TRUE(Same(look[0], Pages(10, 50))) << "not what is no candidate's";
  EXPECT_TRUE(Same(look[1], {}));
  bits_.bits[kChunk + 1] = Pages(7, 8);
  look = touched_.Look(candidates_);
  EXPECT_TRUE(Same(look[0], {}));
  EXPECT_TRUE(Same(look[1], Pages(7, 8)));
}

TEST_F(TouchedPagesTest, BetweenLooksTouchesAreSeenAndStay) {
  bits_.bits[kChunk] = Pages(0, 50);
  touched_.Look(candidates_);
  bits_.bits[kChunk] = Pages(3, 5);
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(Same(touched_.SinceLook(candidates_)[0], Pages(3, 5)));
  EXPECT_TRUE(Same(touched_.Look(candidates_)[0], Pages(3, 5)));
}

TEST_F(TouchedPagesTest, PagesThatKeepTheirBitsShowNothingByThem) {
  bits_.stuck = Pages(20, 21);
  bits_.bits[kChunk] = Pages(0, 50);
  touched_.Look(candidates_);
  bits_.bits[kChunk].Add(30);
  EXPECT_TRUE(Same(touched_.SinceLook(candidates_)[0], Pages(30, 31)));
}

TEST_F(TouchedPagesTest, NothingIsKnownOfChunksThatWereNotLookedAt) {
  bits_.bits[kChunk + 1] = Pages(0, 10);
  touched_.Look(std::span(candidates_).first(1));
  EXPECT_TRUE(Same(touched_.SinceLook(candidates_)[1], {}));
}

TEST_F(TouchedPagesTest, NeighboursAreClearedTogetherAndOthersNot) {
  bits_.bits[kChunk] = Pages(40, 50);
  bits_.bits[kChunk + 1] = Pages(0, 512);
  bits_.bits[kChunk + 9] = Pages(1, 3);
  candidates_.push_back({kChunk + 9, Pages(0, 512)});
  touched_.Look(candidates_);
  ASSERT_EQ(bits_.cleared.size(), 2u);
  Address start = kChunk << kChunkShift;
  EXPECT_EQ(bits_.cleared[0], (AddressRange{start + 40 * kPageBytes, start + 2 * kChunkBytes}));
  EXPECT_EQ(bits_.cleared[1].pages(), 2u);
}

TEST_F(TouchedPagesTest, ChunksThatAreTouchedAllOverAgainAndAgainAreClearedNowAndThen) {
  candidates_.erase(candidates_.begin());  // leaves one chunk
  auto look_after_touching = [&](size_t pages, TouchedPages::Effort effort) {
    bits_.bits[kChunk + 1] = bits_.bits[kChunk + 1].Or(Pages(0, pages));
    bits_.cleared.clear();
    return touched_.Look(candidates_, effort)[0];
  };
  auto cleared_in = [&](int looks, TouchedPages::Effort effort) {
    int cleared = 0;
    for (int i = 0; i < looks; ++i) {
      EXPECT_TRUE(Same(look_after_touching(512, effort), Pages(0, 512)));
      cleared += static_cast<int>(bits_.cleared.size());
    }
    return cleared;
  };
  constexpr int kHot = TouchedPages::kHotLooks;
  constexpr int kSparing = TouchedPages::kSparingLooks;
  EXPECT_EQ(cleared_in(kHot, TouchedPages::Effort::kSparing), kHot);
  EXPECT_EQ(cleared_in(2 * kSparing, TouchedPages::Effort::kSparing), 2);
  EXPECT_EQ(cleared_in(3, TouchedPages::Effort::kFull), 3);
  // Once a part of it is seen to be left alone, it is looked at as closely as any other.
  EXPECT_TRUE(Same(look_after_touching(200, TouchedPages::Effort::kSparing), Pages(0, 200)));
  EXPECT_EQ(bits_.cleared.size(), 1u);
  EXPECT_EQ(cleared_in(kHot, TouchedPages::Effort::kSparing), kHot);
}

TEST_F(TouchedPagesTest, OfASparedChunkNothingIsKnownBetweenLooks) {
  bits_.bits[kChunk] = Pages(0, 50);
  int spared = 0;
  for (uint64_t i = 0; i < TouchedPages::kHotLooks + TouchedPages::kSparingLooks; ++i) {
    bits_.cleared.clear();
    touched_.Look(candidates_, TouchedPages::Effort::kSparing);
    bool was_spared = bits_.cleared.empty();
    spared += was_spared;
    bits_.bits[kChunk] = Pages(0, 50);
    EXPECT_TRUE(Same(touched_.SinceLook(candidates_)[0], was_spared ? Pages(0, 0) : Pages(0, 50)));
  }
  EXPECT_GT(spared, 0);
}

TEST_F(TouchedPagesTest, WhatCannotBeSeenIsNotTakenForUntouched) {
  bits_.is_gone = true;
  TouchedPages blind(*process_, nullptr);
  EXPECT_FALSE(blind.can_see());
  for (TouchedPages* pages : {&touched_, &blind}) {
    for (const TouchedPages::Touched& touched : pages->Look(candidates_)) EXPECT_FALSE(touched);
    for (const TouchedPages::Touched& touched : pages->SinceLook(candidates_)) {
      EXPECT_FALSE(touched);
    }
  }
}

}  // namespace
}  // namespace zmem
