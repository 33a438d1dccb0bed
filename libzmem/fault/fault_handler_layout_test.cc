// What a program does to its memory besides touching it: it discards, unmaps, moves and forks.
#include <sys/mman.h>

#include "libzmem/fault/fault_handler.h"
#include "libzmem/fault/fault_handler_fixture.h"

namespace zmem {
namespace {

TEST_F(FaultHandlerTest, DiscardedPagesReadAsZerosAlthoughTheyWereStored) {
  StoreVaried(0, 64);
  Serve();
  ASSERT_EQ(madvise(memory_.data(8), 48 * kPageBytes, MADV_DONTNEED), 0);
  for (size_t page = 8; page < 56; ++page) expected_[page] = FilledPage(0);
  ExpectAllHeld();
  faults_->Settle();
  ExpectNothingStored();
}

TEST_F(FaultHandlerTest, ADiscardAcrossChunksDropsWhatIsStoredInEach) {
  StoreVaried(0, memory_.page_count());
  Serve();
  ASSERT_EQ(madvise(memory_.data(100), (memory_.page_count() - 200) * kPageBytes, MADV_DONTNEED),
            0);
  faults_->Settle();
  EXPECT_EQ(Count(process_->counters.stored_pages), 200);
  for (size_t page = 100; page < memory_.page_count() - 100; ++page) {
    expected_[page] = FilledPage(0);
  }
  ExpectAllHeld();
}

TEST_F(FaultHandlerTest, PagesWrittenAfterADiscardAreTheProgramsOwn) {
  Store(0, CompressiblePage(0));
  Serve();
  ASSERT_EQ(madvise(memory_.data(0), kPageBytes, MADV_DONTNEED), 0);
  memory_.Write(0, CompressiblePage(77));
  EXPECT_TRUE(memory_.Holds(0, CompressiblePage(77)));
  faults_->Settle();
  EXPECT_EQ(EntryOf(*process_, memory_.address(0)), PageEntry());
}

TEST_F(FaultHandlerTest, UnmappingDropsWhatIsStored) {
  StoreVaried(0, memory_.page_count());
  Serve();
  // Half of the first chunk, all of the second.
  memory_.Unmap(0, kPagesPerChunk / 2);
  memory_.Unmap(kPagesPerChunk, kPagesPerChunk);
  faults_->Settle();
  EXPECT_EQ(Count(process_->counters.stored_pages), int64_t{kPagesPerChunk} * 5 / 2);
  EXPECT_EQ(process_->table.size(), kChunks - 1);
  memory_.Unmap(kPagesPerChunk / 2, kPagesPerChunk / 2);
  memory_.Unmap(2 * kPagesPerChunk, 2 * kPagesPerChunk);
  faults_->Settle();
  ExpectNothingStored();
  EXPECT_EQ(store_.arena->held_bytes(), kChunkMetadataBytes) << "of the chunk that went by halves";
}

TEST_F(FaultHandlerTest, AMappingPutOverAManagedOneIsNotOurs) {
  StoreVaried(0, 64);
  Serve();
  void* over = mmap(memory_.data(0), 64 * kPageBytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  ASSERT_EQ(over, memory_.data(0));
  for (size_t page = 0; page < 64; ++page) ASSERT_TRUE(memory_.Holds(page, FilledPage(0)));
  faults_->Settle();
  ExpectNothingStored();
  EXPECT_EQ(Count(process_->counters.zero_faults), 0) << "the kernel filled them";
}

TEST_F(FaultHandlerTest, MovedMappingsKeepTheirBytes) {
  StoreVaried(0, kPagesPerChunk);
  Mapping elsewhere(2);
  Serve();
  // Not by whole chunks, so that every page changes its place within one.
  std::byte* target = elsewhere.data(100);
  ASSERT_EQ(Move(0, kPagesPerChunk, kPagesPerChunk, target), target);
  for (const auto& [page, bytes] : expected_) {
    ASSERT_TRUE(elsewhere.Holds(100 + page, bytes)) << page;
  }
  faults_->Settle();
  ExpectNothingStored();
}

TEST_F(FaultHandlerTest, AMovedMappingThatGrowsReadsAsZerosBehindItsOldEnd) {
  StoreVaried(0, 64);
  Mapping elsewhere(1);
  Serve();
  std::byte* target = elsewhere.data(3);
  ASSERT_EQ(Move(0, 64, 128, target), target);
  for (const auto& [page, bytes] : expected_) ASSERT_TRUE(elsewhere.Holds(3 + page, bytes)) << page;
  for (size_t page = 64; page < 128; ++page) {
    ASSERT_TRUE(elsewhere.Holds(3 + page, FilledPage(0))) << page;
  }
}

TEST_F(FaultHandlerTest, APlaceThatWasMovedAwayFromReadsAsZeros) {
  StoreVaried(0, 64);
  Mapping elsewhere(1);
  Serve();
  std::byte* target = elsewhere.data(0);
  if (mremap(memory_.data(0), 64 * kPageBytes, 64 * kPageBytes,
             MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, target) != target) {
    GTEST_SKIP() << "this kernel has no MREMAP_DONTUNMAP";
  }
  for (const auto& [page, bytes] : expected_) ASSERT_TRUE(elsewhere.Holds(page, bytes)) << page;
  for (size_t page = 0; page < 64; ++page) ASSERT_TRUE(memory_.Holds(page, FilledPage(0))) << page;
}

TEST_F(FaultHandlerTest, AMoveOntoAManagedMappingReplacesWhatWasStoredThere) {
  StoreVaried(0, 128);
  Serve();
  ASSERT_EQ(Move(0, 64, 64, memory_.data(64)), memory_.data(64));
  for (size_t page = 0; page < 64; ++page) {
    ASSERT_TRUE(memory_.Holds(64 + page, expected_[page])) << page;
  }
  faults_->Settle();
  ExpectNothingStored();
}

TEST_F(FaultHandlerTest, AForkedChildAndItsParentHaveTheSameBytes) {
  StoreVaried(0, memory_.page_count());
  Serve();
  pid_t child = ForkChild([&] {
    for (const auto& [page, bytes] : expected_) {
      if (!memory_.Holds(page, bytes)) return kWrongBytes;
    }
    return kAsExpected;
  });
  ExpectAllHeld();
  EXPECT_EQ(Await(child), kAsExpected);
  ASSERT_EQ(faults_->children().size(), 1u);
  faults_->Settle();
  faults_->children()[0]->Settle();
  ExpectNothingStored();
  EXPECT_EQ(Count(faults_->children()[0]->process().counters.stored_pages), 0);
}

TEST_F(FaultHandlerTest, WhatAChildDropsStaysWithItsParentAndTheReverse) {
  StoreVaried(0, 2 * kPagesPerChunk);
  Serve();
  pid_t child = ForkChild([&] {
    memory_.Unmap(0, kPagesPerChunk);
    for (size_t page = kPagesPerChunk; page < 2 * kPagesPerChunk; ++page) {
      if (!memory_.Holds(page, expected_.at(page))) return kWrongBytes;
    }
    return kAsExpected;
  });
  memory_.Unmap(kPagesPerChunk, kPagesPerChunk);
  EXPECT_EQ(Await(child), kAsExpected);
  for (size_t page = 0; page < kPagesPerChunk; ++page) {
    ASSERT_TRUE(memory_.Holds(page, expected_[page])) << page;
  }
  faults_->Settle();
  faults_->children()[0]->Settle();
  ExpectNothingStored();
}

TEST_F(FaultHandlerTest, AGrandchildHasItsGrandparentsBytes) {
  StoreVaried(0, 128);
  Serve();
  pid_t child = ForkChild([&] {
    memory_.Write(0, CompressiblePage(99));
    pid_t grandchild = ForkChild([&] {
      if (!memory_.Holds(0, CompressiblePage(99))) return kWrongBytes;
      for (size_t page = 1; page < 128; ++page) {
        if (!memory_.Holds(page, expected_.at(page))) return kWrongBytes;
      }
      return kAsExpected;
    });
    return Await(grandchild);
  });
  EXPECT_EQ(Await(child), kAsExpected);
  ExpectAllHeld();
}

}  // namespace
}  // namespace zmem
