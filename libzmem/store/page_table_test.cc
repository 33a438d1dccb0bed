#include "libzmem/store/page_table.h"

#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <thread>

#include "libzmem/testing/stored_pages.h"

namespace zmem {
namespace {

constexpr uint64_t kChunk = 1234;

PageEntry Object(uint64_t granule) { return PageEntry::InPool({granule}, 100, CodecId::kLz4); }

class PageTableTest : public testing::Test {
 protected:
  void Set(PageTable& table, uint64_t number, size_t page, PageEntry entry) {
    PageEntry resident;
    ASSERT_TRUE(table.FindOrAdd(number)->Transition(page, resident, entry));
  }
  std::shared_ptr<Chunk> Unshare(PageTable& table, uint64_t number) {
    return table.Unshare(number, [this](PageEntry entry) {
      ++references_[entry.handle().granule];
      return entry.With(PageEntry::kShared);
    });
  }
  void Remove(PageTable& table, uint64_t number) {
    table.Remove(number, [this](PageEntry entry) { released_.push_back(entry); });
  }
  uint64_t held_chunks() const { return arena_->held_bytes() / kChunkMetadataBytes; }

  std::unique_ptr<ChunkArena> arena_ = OrDie(ChunkArena::Create(8));
  PageTable table_{*arena_};
  std::map<uint64_t, int> references_;
  std::vector<PageEntry> released_;
};

TEST_F(PageTableTest, AFreshChunkIsResidentAllOver) {
  EXPECT_EQ(table_.Find(kChunk), nullptr);
  std::shared_ptr<Chunk> chunk = table_.FindOrAdd(kChunk);
  ASSERT_NE(chunk, nullptr);
  for (size_t page = 0; page < kPagesPerChunk; ++page) EXPECT_EQ(chunk->Load(page), PageEntry());
  EXPECT_EQ(table_.Find(kChunk), chunk);
  EXPECT_EQ(table_.FindOrAdd(kChunk), chunk);
  EXPECT_EQ(table_.size(), 1u);
  EXPECT_EQ(held_chunks(), 1u);
}

TEST_F(PageTableTest, NumbersAreAscending) {
  for (uint64_t number : {9, 2, 7, 4}) table_.FindOrAdd(number);
  EXPECT_EQ(table_.Numbers(), (std::vector<uint64_t>{2, 4, 7, 9}));
  auto numbers_in = [this](uint64_t first, uint64_t end) {
    return table_.NumbersIn({(first << kChunkShift) + kPageBytes, end << kChunkShift});
  };
  EXPECT_EQ(numbers_in(4, 8), (std::vector<uint64_t>{4, 7})) << "more chunks than the table has";
  EXPECT_EQ(numbers_in(4, 7), (std::vector<uint64_t>{4})) << "fewer";
  EXPECT_EQ(numbers_in(0, uint64_t{1} << 30), table_.Numbers());
  EXPECT_TRUE(numbers_in(5, 7).empty());
}

TEST_F(PageTableTest, ATransitionFailsAndTellsIfTheEntryIsAnother) {
  std::shared_ptr<Chunk> chunk = table_.FindOrAdd(kChunk);
  PageEntry expected;
  ASSERT_TRUE(chunk->Transition(0, expected, PageEntry::Isolating(1)));
  expected = PageEntry();
  EXPECT_FALSE(chunk->Transition(0, expected, PageEntry::Isolating(2)));
  EXPECT_EQ(expected, PageEntry::Isolating(1));
  EXPECT_EQ(chunk->Load(0), PageEntry::Isolating(1));
}

using PageTableDeathTest = PageTableTest;

TEST_F(PageTableDeathTest, AForbiddenTransitionEndsTheProcess) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  std::shared_ptr<Chunk> chunk = table_.FindOrAdd(kChunk);
  PageEntry expected;
  EXPECT_DEATH(chunk->Transition(0, expected, PageEntry::Staged(1)), "TransitionAllowed");
}

TEST_F(PageTableTest, RemoveReleasesWhatWasNotResident) {
  Set(table_, kChunk, 0, Object(1));
  Set(table_, kChunk, 7, PageEntry::SameFilled(*PackWord(0)));
  Set(table_, kChunk, 511, Object(2));
  Remove(table_, kChunk);
  EXPECT_EQ(released_,
            (std::vector<PageEntry>{Object(1), PageEntry::SameFilled(*PackWord(0)), Object(2)}));
  EXPECT_EQ(table_.Find(kChunk), nullptr);
  EXPECT_EQ(held_chunks(), 0u);
}

TEST_F(PageTableTest, AChunkInUseOutlivesItsRemoval) {
  std::shared_ptr<Chunk> chunk = table_.FindOrAdd(kChunk);
  Remove(table_, kChunk);
  PageEntry expected;
  EXPECT_TRUE(chunk->Transition(0, expected, PageEntry::Isolating(1)));
  EXPECT_EQ(held_chunks(), 1u);
  chunk.reset();
  EXPECT_EQ(held_chunks(), 0u);
}

TEST_F(PageTableTest, WhatTheArenaGetsBackIsFreshWhenItIsHandedOutAgain) {
  for (int round = 0; round < 100; ++round) {
    std::shared_ptr<Chunk> chunk = table_.FindOrAdd(kChunk);
    ASSERT_NE(chunk, nullptr);
    ASSERT_EQ(chunk->Load(3), PageEntry());
    Set(table_, kChunk, 3, Object(1));
    Remove(table_, kChunk);
  }
  EXPECT_EQ(held_chunks(), 0u);
}

TEST_F(PageTableTest, AFullArenaGivesNullUntilSomethingIsFreed) {
  for (uint64_t number = 0; number < 8; ++number) ASSERT_NE(table_.FindOrAdd(number), nullptr);
  EXPECT_EQ(table_.FindOrAdd(8), nullptr);
  EXPECT_EQ(table_.size(), 8u);
  Remove(table_, 3);
  EXPECT_NE(table_.FindOrAdd(8), nullptr);
}

TEST_F(PageTableTest, RelativesShareChunksWithoutMemoryOfTheirOwn) {
  Set(table_, kChunk, 0, Object(1));
  PageTable child(*arena_);
  child.ShareFrom(table_);
  EXPECT_EQ(child.Find(kChunk), table_.Find(kChunk));
  EXPECT_EQ(held_chunks(), 1u);
  EXPECT_TRUE(references_.empty());
  Remove(child, kChunk);
}

TEST_F(PageTableTest, AChunkOfOneTableIsItsOwnAlready) {
  Set(table_, kChunk, 0, Object(1));
  std::shared_ptr<Chunk> chunk = table_.Find(kChunk);
  EXPECT_EQ(Unshare(table_, kChunk), chunk);
  EXPECT_TRUE(references_.empty());
  EXPECT_EQ(Unshare(table_, kChunk + 1), nullptr);
}

TEST_F(PageTableTest, UnsharingCopiesAndCountsEveryObjectOnce) {
  Set(table_, kChunk, 0, Object(1));
  Set(table_, kChunk, 5, Object(2));
  Set(table_, kChunk, 6, PageEntry::SameFilled(*PackWord(7)));
  table_.Find(kChunk)->last_fault_ns = 99;
  PageTable child(*arena_);
  child.ShareFrom(table_);
  std::shared_ptr<Chunk> copy = Unshare(child, kChunk);
  std::shared_ptr<Chunk> original = table_.Find(kChunk);
  ASSERT_NE(copy, original);
  EXPECT_EQ(references_, (std::map<uint64_t, int>{{1, 1}, {2, 1}}));
  for (const std::shared_ptr<Chunk>& chunk : {copy, original}) {
    EXPECT_EQ(chunk->Load(0), Object(1).With(PageEntry::kShared));
    EXPECT_EQ(chunk->Load(5), Object(2).With(PageEntry::kShared));
    EXPECT_EQ(chunk->Load(6), PageEntry::SameFilled(*PackWord(7)));
    EXPECT_EQ(chunk->Load(1), PageEntry());
    EXPECT_EQ(chunk->last_fault_ns, 99);
  }
  // The other has it to itself now.
  EXPECT_EQ(Unshare(table_, kChunk), original);
  EXPECT_EQ(held_chunks(), 2u);
  // Changes of one are not the other's.
  PageEntry entry = copy->Load(0);
  ASSERT_TRUE(copy->Transition(0, entry, PageEntry()));
  EXPECT_EQ(original->Load(0), Object(1).With(PageEntry::kShared));
  Remove(child, kChunk);
}

TEST_F(PageTableTest, OnlyTheLastHolderReleases) {
  Set(table_, kChunk, 0, Object(1));
  PageTable child(*arena_);
  child.ShareFrom(table_);
  Remove(child, kChunk);
  EXPECT_TRUE(released_.empty());
  Remove(table_, kChunk);
  EXPECT_EQ(released_, std::vector<PageEntry>{Object(1)});
  EXPECT_EQ(held_chunks(), 0u);
}

TEST_F(PageTableTest, AChildHasNothingRegistered) {
  table_.FindOrAdd(kChunk);
  wire::PageSet pages;
  pages.AddRange(3, 9);
  table_.AddRegistered(kChunk, pages);
  EXPECT_EQ(table_.Registered(kChunk).count(), 6u);
  PageTable child(*arena_);
  child.ShareFrom(table_);
  EXPECT_TRUE(child.Registered(kChunk).empty());
  Unshare(table_, kChunk);
  EXPECT_EQ(table_.Registered(kChunk).count(), 6u) << "a copy of one's own changes nothing";
  wire::PageSet gone;
  gone.AddRange(0, 5);
  table_.RemoveRegistered(kChunk, gone);
  EXPECT_EQ(table_.Registered(kChunk).count(), 4u);
  EXPECT_TRUE(table_.Registered(kChunk + 1).empty());
  Remove(child, kChunk);
}

TEST_F(PageTableTest, AFullArenaLeavesASharedChunkShared) {
  for (uint64_t number = 0; number < 8; ++number) Set(table_, number, 0, Object(number));
  PageTable child(*arena_);
  child.ShareFrom(table_);
  EXPECT_EQ(Unshare(child, 0), nullptr);
  EXPECT_EQ(child.Find(0), table_.Find(0));
  EXPECT_TRUE(references_.empty());
  for (uint64_t number = 0; number < 8; ++number) Remove(child, number);
}

// Whatever the order in which relatives take their copies: each has one of its own in the end, and
// every object has been counted once for each holder beyond the first.
TEST(PageTable, RelativesThatUnshareAtOnceHaveOneCopyEach) {
  constexpr int kRounds = 200;
  constexpr size_t kRelatives = 3;
  std::unique_ptr<ChunkArena> arena = OrDie(ChunkArena::Create(8));
  for (int round = 0; round < kRounds; ++round) {
    PageTable parent(*arena);
    PageEntry resident;
    ASSERT_TRUE(parent.FindOrAdd(kChunk)->Transition(4, resident, Object(1)));
    PageTable child(*arena);
    PageTable grandchild(*arena);
    child.ShareFrom(parent);
    grandchild.ShareFrom(child);
    PageTable* tables[kRelatives] = {&parent, &child, &grandchild};
    std::atomic<int> references{0};
    std::atomic<size_t> ready{0};
    std::vector<std::thread> threads;
    for (PageTable* table : tables) {
      threads.emplace_back([&, table] {
        ++ready;
        while (ready < kRelatives) {
        }
        table->Unshare(kChunk, [&](PageEntry entry) {
          ++references;
          return entry.With(PageEntry::kShared);
        });
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(references, int{kRelatives} - 1);
    EXPECT_EQ(arena->held_bytes(), kRelatives * kChunkMetadataBytes);
    for (PageTable* table : tables) {
      EXPECT_EQ(table->Find(kChunk)->sharers, 1u);
      int released = 0;
      table->Remove(kChunk, [&](PageEntry) { ++released; });
      EXPECT_EQ(released, 1);
    }
    EXPECT_EQ(arena->held_bytes(), 0u);
  }
}

}  // namespace
}  // namespace zmem
