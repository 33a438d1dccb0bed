// The reclaim flow from the survey to the pool, with this process as the program. Its memory is
// arranged so that a survey finds nothing eligible but what the test maps for it.
#include "libzmem/reclaim/reclaimer.h"

#include <sys/mman.h>

#include <functional>
#include <thread>

#include "libzmem/base/kernel_abi.h"
#include "libzmem/reclaim/reclaimer_fixture.h"

namespace zmem {
namespace {

TEST_F(ReclaimerTest, NothingButTheTestsMemoryIsEligible) {
  std::vector<AddressRange> excluded{process_->agent, process_->staging};
  AddressMap map = OrDie(AddressMap::Read(getpid(), excluded));
  ASSERT_EQ(map.eligible().size(), 1u);
  EXPECT_EQ(map.eligible()[0], memory_->range());
}

TEST_F(ReclaimerTest, EvictAllTakesEverythingOutAndTouchesBringTheSameBytesBack) {
  WriteVaried(0, memory_->page_count());
  Reclaimer::EvictResult result = EvictAll();
  EXPECT_EQ(result.evicted_pages, memory_->page_count());
  EXPECT_EQ(result.skipped_pages, 0u);
  EXPECT_FALSE(result.pool_full);
  EXPECT_EQ(process_->counters.stored_pages, memory_->page_count());
  EXPECT_EQ(process_->counters.staged_pages, 0u);
  EXPECT_EQ(StagingPages(), 0u) << "what was stored was dropped from its slots";
  ExpectAllHeld();
  ExpectNothingOut();
}

TEST_F(ReclaimerTest, EvictAllAgainTakesWhatCameBackAndLeavesTheRestStored) {
  WriteVaried(0, kPagesPerChunk);
  EXPECT_EQ(EvictAll().evicted_pages, kPagesPerChunk);
  EXPECT_EQ(EvictAll().evicted_pages, 0u);
  Write(7, CompressiblePage(1007));
  faults_->Settle();
  uint64_t stored = process_->counters.stored_pages;
  EXPECT_EQ(EvictAll().evicted_pages, kPagesPerChunk - stored);
  EXPECT_EQ(process_->counters.stored_pages, kPagesPerChunk);
  ExpectAllHeld();
  ExpectNothingOut();
}

TEST_F(ReclaimerTest, MemoryThatIsHotAgainIsGivenUp) {
  WriteVaried(0, kPagesPerChunk);
  PassUntilStaged();
  ExpectAllHeld();  // all of it comes back
  faults_->Settle();
  ASSERT_GT(process_->table.size(), 0u);
  Pass(2 * kPolicy.scan_interval_ns);
  EXPECT_EQ(process_->table.size(), 0u);
  // Its first touches are the kernel's again.
  ASSERT_EQ(madvise(memory_->data(0), kChunkBytes, MADV_DONTNEED), 0);
  uint64_t zero_faults = process_->counters.zero_faults;
  WriteVaried(0, kPagesPerChunk);
  EXPECT_EQ(process_->counters.zero_faults, zero_faults);
  // And it can go cold again.
  PassUntilStaged();
  ExpectAllHeld();
}

TEST_F(ReclaimerTest, EvictAllTellsHowFarItIs) {
  WriteVaried(0, kPagesPerChunk + 10);
  std::atomic<bool> cancel{false};
  std::vector<uint64_t> done;
  uint64_t all = 0;
  auto note = [&](uint64_t pages, uint64_t total) {
    done.push_back(pages);
    all = total;
  };
  ASSERT_TRUE(reclaimer_->EvictAll(cancel, note).ok());
  EXPECT_EQ(done, (std::vector<uint64_t>{kPagesPerChunk, kPagesPerChunk + 10}));
  EXPECT_EQ(all, kPagesPerChunk + 10);
}

TEST_F(ReclaimerTest, ACancelledEvictionStopsAndLosesNothing) {
  WriteVaried(0, memory_->page_count());
  std::atomic<bool> cancel{false};
  auto stop = [&](uint64_t, uint64_t) { cancel = true; };
  Reclaimer::EvictResult result = OrDie(reclaimer_->EvictAll(cancel, stop));
  EXPECT_EQ(result.evicted_pages, kPagesPerChunk);
  EXPECT_EQ(result.skipped_pages, memory_->page_count() - kPagesPerChunk);
  ExpectAllHeld();
  ExpectNothingOut();
}

TEST_F(ReclaimerTest, IncompressiblePagesGoBackAndAreMarked) {
  for (size_t page = 0; page < 64; ++page) {
    Write(page, page % 2 == 0 ? IncompressiblePage(page) : CompressiblePage(page));
  }
  Reclaimer::EvictResult result = EvictAll();
  EXPECT_EQ(result.evicted_pages, 32u);
  EXPECT_EQ(result.skipped_pages, 32u);
  EXPECT_FALSE(result.pool_full);
  for (size_t page = 0; page < 64; ++page) {
    bool marked = entry(page) == PageEntry().With(PageEntry::kIncompressible);
    EXPECT_EQ(marked, page % 2 == 0) << page;
  }
  EXPECT_EQ(store_.store.stats().incompressible_rejects, 32u);
  EXPECT_EQ(StagingPages(), 0u);
  ExpectAllHeld();
  ExpectNothingOut();
}

TEST_F(ReclaimerTest, PagesSharedWithAForkedChildAreSkipped) {
  WriteVaried(0, 64);
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  UniqueFd theirs(ends[0]);
  UniqueFd ours(ends[1]);
  pid_t child = ForkChild([&] {
    ours.reset();
    char byte;
    return static_cast<int>(read(theirs.get(), &byte, 1));  // until the parent is done
  });
  Write(9, CompressiblePage(9));  // its own again
  Reclaimer::EvictResult result = EvictAll();
  EXPECT_EQ(result.evicted_pages, 1u);
  EXPECT_EQ(result.skipped_pages, 63u);
  EXPECT_EQ(CountState(PageState::kResident), 63u);
  ours.reset();
  EXPECT_EQ(Await(child), 0);
  ExpectAllHeld();
  ExpectNothingOut();
}

TEST_F(ReclaimerTest, AnAgentThatDiesInTheMiddleLosesNothing) {
  WriteVaried(0, memory_->page_count());
  agent_.moves_left = kPagesPerChunk + 100;
  std::atomic<bool> cancel{false};
  EXPECT_TRUE(absl::IsUnavailable(reclaimer_->EvictAll(cancel, nullptr).status()));
  EXPECT_EQ(CountState(PageState::kStaged), 100u);
  faults_->Drain();
  ExpectNothingOut();
  ExpectAllHeld();
}

TEST_F(ReclaimerTest, AnAgentThatComesBackFindsWhatItLeftHalfDone) {
  WriteVaried(0, memory_->page_count());
  agent_.moves_left = 100;
  std::atomic<bool> cancel{false};
  EXPECT_FALSE(reclaimer_->EvictAll(cancel, nullptr).ok());
  ASSERT_EQ(CountState(PageState::kStaged), 100u);
  // Their slots are not given to other pages, nor emptied, until they are stored.
  agent_.moves_left = ~size_t{0};
  EvictAll();
  EXPECT_EQ(process_->counters.stored_pages, memory_->page_count());
  EXPECT_EQ(StagingPages(), 0u);
  ExpectAllHeld();
  ExpectNothingOut();
}

TEST_F(ReclaimerTest, WhileRoomIsAwaitedSeveralThreadsStore) {
  Crew crew(3, [] {});
  Reclaimer::Options options = kOptions;
  options.crew = &crew;
  int told = 0;
  options.on_room = [&] {
    ++told;
    process_->room_awaited = true;
  };
  reclaimer_.emplace(*process_, agent_, clock_, options);
  process_->room_awaited = true;
  WriteVaried(0, memory_->page_count());
  for (size_t page = 0; page < memory_->page_count(); page += 7)
    Write(page, IncompressiblePage(page));
  std::atomic<bool> stop{false};
  std::thread reader([&] {
    while (!stop) ExpectAllHeld();
  });
  for (int round = 0; round < 5; ++round) EvictAll();
  stop = true;
  reader.join();
  EXPECT_GE(told, 5);
  ExpectAllHeld();
  ExpectNothingOut();
}

TEST_F(ReclaimerTest, AProgramThatIsGoneIsUnavailable) {
  process_->gone = true;
  WriteVaried(0, 8);
  std::atomic<bool> cancel{false};
  EXPECT_TRUE(absl::IsUnavailable(reclaimer_->EvictAll(cancel, nullptr).status()));
  ExpectAllHeld();
}

TEST_F(ReclaimerTest, QuietMemoryIsTakenOnProbationThenStoredAndComesBack) {
  WriteVaried(0, kPagesPerChunk);
  Pass(kPolicy.cold_age_ns);
  EXPECT_EQ(process_->counters.isolated_pages, 0u) << "not before the cold age";
  PassUntilStaged();
  EXPECT_EQ(process_->counters.staged_pages, kPagesPerChunk);
  EXPECT_EQ(process_->counters.stored_pages, 0u) << "on probation";
  Pass(2 * kSecond);
  EXPECT_EQ(process_->counters.staged_pages, 0u);
  EXPECT_EQ(process_->counters.stored_pages, kPagesPerChunk);
  EXPECT_EQ(StagingPages(), 0u);
  ExpectAllHeld();
  ExpectNothingOut();
}

TEST_F(ReclaimerTest, MoreColdChunksThanSlabsAreTakenByTurns) {
  WriteVaried(0, memory_->page_count());
  Pass(kPolicy.cold_age_ns + 6 * kPolicy.scan_interval_ns);
  EXPECT_EQ(process_->counters.stored_pages, memory_->page_count());
  ExpectAllHeld();
  ExpectNothingOut();
}

TEST_F(ReclaimerTest, MemoryWhosePopulationChangesIsNotCold) {
  WriteVaried(0, 16);
  for (size_t page = 16; page < 22; ++page) {
    Pass(kPolicy.cold_age_ns / 2);
    Write(page, CompressiblePage(page));
  }
  EXPECT_EQ(process_->counters.isolated_pages, 0u);
}

TEST_F(ReclaimerTest, AFewPagesWantedOnProbationComeFromTheirSlotsAndTheRestIsStored) {
  WriteVaried(0, kPagesPerChunk);
  PassUntilStaged();
  for (size_t page = 0; page < 8; ++page)
    EXPECT_TRUE(memory_->Holds(page * 9, expected_[page * 9]));
  faults_->Settle();
  EXPECT_EQ(process_->counters.staged_pages, kPagesPerChunk - 8);
  Pass(2 * kSecond);
  EXPECT_EQ(process_->counters.stored_pages, kPagesPerChunk - 8);
  EXPECT_EQ(StagingPages(), 0u);
  ExpectAllHeld();
  ExpectNothingOut();
}

// Replayed: the fault thread has claimed a page and is about to read its slot while the rest of the
// slab is stored and dropped.
TEST_F(ReclaimerTest, ASlotStaysAsLongAsThePageInItIsBeingRestored) {
  WriteVaried(0, kPagesPerChunk);
  PassUntilStaged();
  std::shared_ptr<Chunk> chunk = process_->table.Find(ChunkNumber(memory_->address(0)));
  PageEntry staged = chunk->Load(5);
  PageEntry claimed = staged.With(PageEntry::kRestoring);
  ASSERT_TRUE(chunk->Transition(5, staged, claimed));
  Pass(2 * kSecond);
  EXPECT_EQ(process_->counters.stored_pages, kPagesPerChunk - 1);
  PageBytes slot;
  ASSERT_TRUE(process_->memory.Read(process_->slot_address(staged.slot()), &slot, sizeof slot));
  EXPECT_EQ(slot, expected_[5]);
  // It could not be filled in then, and is tried again.
  ASSERT_TRUE(chunk->Transition(5, claimed, staged));
  ExpectAllHeld();
  Pass(2 * kSecond);
  EXPECT_EQ(StagingPages(), 0u);
  ExpectNothingOut();
}

TEST_F(ReclaimerTest, AHotChunkIsReturnedAndLeftAloneForTwiceTheColdAge) {
  WriteVaried(0, kPagesPerChunk);
  PassUntilStaged();
  for (size_t page = 0; page < kPagesPerChunk; page += 4) {
    EXPECT_TRUE(memory_->Holds(page, expected_[page]));
  }
  faults_->Settle();
  Tick();
  EXPECT_EQ(process_->counters.staged_pages, 0u);
  EXPECT_EQ(process_->counters.stored_pages, 0u);
  EXPECT_GT(process_->counters.returned_pages, 0u);
  EXPECT_EQ(StagingPages(), 0u);
  EXPECT_EQ(CountState(PageState::kResident), kPagesPerChunk);
  uint64_t isolated = process_->counters.isolated_pages;
  Pass(2 * kPolicy.cold_age_ns - kSecond);
  EXPECT_EQ(process_->counters.isolated_pages, isolated);
  // This process has hardly used CPU time since, and is scanned less often if it seems asleep.
  Pass(2 * kPolicy.cold_age_ns);
  EXPECT_GT(process_->counters.isolated_pages, isolated);
  ExpectAllHeld();
}

TEST_F(ReclaimerTest, PagesMarkedIncompressibleAreNotTakenByTheScan) {
  for (size_t page = 0; page < 32; ++page) Write(page, IncompressiblePage(page));
  EXPECT_EQ(EvictAll().evicted_pages, 0u);
  uint64_t isolated = process_->counters.isolated_pages;
  Pass(2 * kPolicy.cold_age_ns);
  EXPECT_EQ(process_->counters.isolated_pages, isolated);
  ExpectAllHeld();
}

TEST_F(ReclaimerTest, IncompressiblePagesThatChangeAreTakenInTheEnd) {
  for (size_t page = 0; page < 32; ++page) Write(page, IncompressiblePage(page));
  EXPECT_EQ(EvictAll().evicted_pages, 0u);
  uint64_t isolated = process_->counters.isolated_pages;
  for (size_t page = 0; page < 8; ++page) Write(page, CompressiblePage(page));
  Pass(40 * kPolicy.cold_age_ns);  // asked less and less often, too
  EXPECT_EQ(process_->counters.stored_pages, 8u);
  EXPECT_EQ(process_->counters.isolated_pages, isolated + 8) << "the others were left alone";
  ExpectAllHeld();
}

TEST_F(ReclaimerTest, UnmappingAChunkOnProbationFreesItsSlab) {
  WriteVaried(0, 2 * kPagesPerChunk);
  PassUntilStaged();
  memory_->Unmap(0, 2 * kPagesPerChunk);
  faults_->Settle();
  EXPECT_EQ(process_->counters.staged_pages, 0u);
  Pass(2 * kSecond);
  EXPECT_EQ(StagingPages(), 0u);
  expected_.clear();
  ExpectNothingOut();
  // Both slabs can be used again.
  WriteVaried(2 * kPagesPerChunk, 2 * kPagesPerChunk);
  EXPECT_EQ(EvictAll().evicted_pages, 2 * kPagesPerChunk);
  ExpectAllHeld();
}

TEST_F(ReclaimerTest, AForkDuringProbationKeepsTheBytesForBothAndFreesTheSlab) {
  WriteVaried(0, kPagesPerChunk);
  PassUntilStaged();
  pid_t child = ForkChild([&] {
    for (const auto& [page, bytes] : expected_) {
      if (!memory_->Holds(page, bytes)) return 1;
    }
    return 0;
  });
  EXPECT_EQ(Await(child), 0);
  faults_->children();
  Pass(2 * kSecond);
  EXPECT_EQ(StagingPages(), 0u);
  ExpectAllHeld();
  faults_->children()[0]->Settle();
  ExpectNothingOut();
}

// The pool has room for some of the pages only.
class SmallPool : public ReclaimerTest {
 protected:
  SmallPool() : ReclaimerTest({.pool_limit_bytes = 512 * 1024}) {}
};

TEST_F(SmallPool, WhatDoesNotFitGoesBackAndTheEvictionStops) {
  for (size_t page = 0; page < memory_->page_count(); ++page) Write(page, CompressiblePage(page));
  Reclaimer::EvictResult result = EvictAll();
  EXPECT_TRUE(result.pool_full);
  EXPECT_GT(result.evicted_pages, 0u);
  EXPECT_EQ(result.evicted_pages, process_->counters.stored_pages);
  EXPECT_EQ(result.evicted_pages + result.skipped_pages, memory_->page_count());
  EXPECT_EQ(process_->counters.staged_pages, 0u);
  EXPECT_EQ(StagingPages(), 0u);
  EXPECT_EQ(CountState(PageState::kStaged), 0u);
  ExpectAllHeld();
  ExpectNothingOut();
}

TEST_F(SmallPool, WhatAScanTookAndDoesNotFitGoesBack) {
  for (size_t page = 0; page < memory_->page_count(); ++page) Write(page, CompressiblePage(page));
  Pass(kPolicy.cold_age_ns + 3 * kPolicy.scan_interval_ns);
  EXPECT_GT(process_->counters.stored_pages, 0u);
  EXPECT_GT(process_->counters.returned_pages, 0u);
  EXPECT_GT(store_.store.stats().pool_full_rejects, 0u);
  ExpectAllHeld();
  ExpectNothingOut();
}

// What came back is kept in its stored form for a while.
class CleanPagesKept : public ReclaimerTest {
 protected:
  CleanPagesKept() : ReclaimerTest({.clean_pages_percent = 100}) {}

  PageStore::CleanCounters& clean() { return store_.store.clean; }
};

TEST_F(CleanPagesKept, UnchangedPagesGoOutAsTheyCameBack) {
  for (size_t page = 0; page < kPagesPerChunk; ++page) Write(page, CompressiblePage(page));
  EXPECT_EQ(EvictAll().evicted_pages, kPagesPerChunk);
  uint64_t puts = store_.pool->stats().objects;
  ExpectAllHeld();
  faults_->Settle();
  EXPECT_EQ(process_->counters.stored_pages, 0u);
  EXPECT_EQ(process_->counters.compressed_bytes, 0u);
  EXPECT_EQ(clean().pages, kPagesPerChunk);
  EXPECT_EQ(store_.pool->stats().objects, puts);
  PageEntry before = entry(0);
  EXPECT_EQ(EvictAll().evicted_pages, kPagesPerChunk);
  EXPECT_EQ(clean().reused, kPagesPerChunk);
  EXPECT_EQ(clean().pages, 0u);
  EXPECT_NE(entry(0), before);
  EXPECT_EQ(process_->counters.stored_pages, kPagesPerChunk);
  EXPECT_EQ(process_->counters.compressed_bytes, store_.pool->stats().live_bytes);
  ExpectAllHeld();
}

TEST_F(CleanPagesKept, ChangedPagesComeBackAsChanged) {
  for (size_t page = 0; page < kPagesPerChunk; ++page) Write(page, CompressiblePage(page));
  EvictAll();
  ExpectAllHeld();
  for (size_t page = 0; page < kPagesPerChunk; page += 2)
    Write(page, CompressiblePage(page + 9000));
  faults_->Settle();
  EXPECT_EQ(EvictAll().evicted_pages, kPagesPerChunk);
  EXPECT_EQ(clean().changed, kPagesPerChunk / 2);
  EXPECT_EQ(clean().reused, kPagesPerChunk / 2);
  ExpectAllHeld();
}

TEST_F(CleanPagesKept, WhatTheProgramDropsIsNotKept) {
  for (size_t page = 0; page < kPagesPerChunk; ++page) Write(page, CompressiblePage(page));
  EvictAll();
  ExpectAllHeld();
  ASSERT_EQ(madvise(memory_->data(0), kPagesPerChunk / 2 * kPageBytes, MADV_DONTNEED), 0);
  faults_->Settle();
  EXPECT_EQ(clean().pages, kPagesPerChunk / 2);
  ASSERT_EQ(munmap(memory_->data(0), kPagesPerChunk * kPageBytes), 0);
  faults_->Settle();
  EXPECT_EQ(clean().pages, 0u);
  expected_.clear();
  ExpectNothingOut();
}

TEST_F(CleanPagesKept, AForkedChildAndItsParentGoOutIndependently) {
  for (size_t page = 0; page < kPagesPerChunk; ++page) Write(page, CompressiblePage(page));
  EvictAll();
  pid_t child = ForkChild([&] {
    for (const auto& [page, bytes] : expected_) {
      if (!memory_->Holds(page, bytes)) return 1;
    }
    return 0;
  });
  ExpectAllHeld();
  EXPECT_EQ(Await(child), 0);
  faults_->Settle();
  EvictAll();
  ExpectAllHeld();
  EXPECT_GT(clean().reused, 0u) << "the parent's";
}

}  // namespace
}  // namespace zmem
