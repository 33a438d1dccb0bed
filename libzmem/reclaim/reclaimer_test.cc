// The reclaim flow from the survey to the pool, with this process as the program. Its memory is
// arranged so that a survey finds nothing eligible but what the test maps for it.
#include "libzmem/reclaim/reclaimer.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <functional>
#include <map>
#include <optional>
#include <random>
#include <sstream>
#include <thread>

#include "libzmem/base/kernel_abi.h"
#include "libzmem/testing/managed.h"

namespace zmem {
namespace {

constexpr int64_t kSecond = 1'000'000'000;
constexpr Reclaimer::Options kOptions{
    .cold_age_ns = 30 * kSecond, .scan_interval_ns = 10 * kSecond, .probation_ns = kSecond};

class ReclaimerTest : public testing::Test {
 protected:
  static constexpr size_t kChunks = 4;
  static constexpr size_t kSlabs = 2;

  ReclaimerTest() : ReclaimerTest(TestStore::Options()) {}
  explicit ReclaimerTest(const TestStore::Options& options)
      : store_(options), process_(ProcessOfThisOne(store_)), agent_(*process_) {
    staging_ = BindStaging(*process_, kSlabs);
    memory_ = MapOnlyEligible(*process_, kChunks);
    reclaimer_.emplace(*process_, agent_, clock_, kOptions);
    faults_.emplace(process_, clock_);
  }

  void Write(size_t page, const PageBytes& bytes) {
    memory_->Write(page, bytes);
    expected_[page] = bytes;
  }
  void WriteVaried(size_t first, size_t count) {
    for (size_t page = first; page < first + count; ++page) {
      Write(page, page % 3 == 0 ? FilledPage(page) : CompressiblePage(page));
    }
  }
  Reclaimer::EvictResult EvictAll() {
    std::atomic<bool> cancel{false};
    return OrDie(reclaimer_->EvictAll(cancel, nullptr));
  }
  void ExpectAllHeld() {
    for (const auto& [page, bytes] : expected_) {
      EXPECT_TRUE(memory_->Holds(page, bytes)) << "page " << page;
    }
  }
  void ExpectNothingOut() {
    faults_->Settle();
    EXPECT_EQ(store_.objects(), 0u);
    EXPECT_EQ(process_->counters.stored_pages, 0u);
    EXPECT_EQ(process_->counters.staged_pages, 0u);
    EXPECT_EQ(process_->counters.compressed_bytes, 0u);
  }
  PageEntry entry(size_t page) { return EntryOf(*process_, memory_->address(page)); }
  size_t CountState(PageState state) {
    size_t count = 0;
    for (const auto& [page, bytes] : expected_) count += entry(page).state() == state;
    return count;
  }
  size_t StagingPages() {
    std::vector<wire::PageSet> sets(kSlabs);
    EXPECT_EQ(process_->pagemap.ScanPresent(staging_->range(), ChunkNumber(staging_->range().start),
                                            sets),
              0);
    size_t count = 0;
    for (const wire::PageSet& set : sets) count += set.count();
    return count;
  }
  void Tick() { ASSERT_TRUE(reclaimer_->Tick().ok()); }
  // Lets time pass as the daemon does: tick by tick.
  void Pass(int64_t ns) {
    int64_t end = clock_.now_ns() + ns;
    while (clock_.now_ns() < end) {
      int64_t next = std::clamp(reclaimer_->next_tick_ns(), clock_.now_ns() + 1, end);
      clock_.Advance(next - clock_.now_ns());
      Tick();
    }
  }
  // Long enough for quiet memory to be found cold, registered and put on probation.
  void PassUntilStaged() {
    for (int i = 0; i < 100 && process_->counters.staged_pages == 0; ++i) Pass(kSecond);
    ASSERT_GT(process_->counters.staged_pages, 0u);
  }

  SharedFakeClock clock_;
  std::unique_ptr<Mapping> memory_;
  std::unique_ptr<Mapping> staging_;
  TestStore store_;
  std::shared_ptr<Process> process_;
  SelfAgent agent_;
  std::optional<Reclaimer> reclaimer_;
  std::optional<FaultThread> faults_;
  std::map<size_t, PageBytes> expected_;
};

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
  Pass(2 * kOptions.scan_interval_ns);
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

TEST_F(ReclaimerTest, AProgramThatIsGoneIsUnavailable) {
  process_->gone = true;
  WriteVaried(0, 8);
  std::atomic<bool> cancel{false};
  EXPECT_TRUE(absl::IsUnavailable(reclaimer_->EvictAll(cancel, nullptr).status()));
  ExpectAllHeld();
}

TEST_F(ReclaimerTest, QuietMemoryIsTakenOnProbationThenStoredAndComesBack) {
  WriteVaried(0, kPagesPerChunk);
  Pass(kOptions.cold_age_ns);
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
  Pass(kOptions.cold_age_ns + 6 * kOptions.scan_interval_ns);
  EXPECT_EQ(process_->counters.stored_pages, memory_->page_count());
  ExpectAllHeld();
  ExpectNothingOut();
}

TEST_F(ReclaimerTest, MemoryWhosePopulationChangesIsNotCold) {
  WriteVaried(0, 16);
  for (size_t page = 16; page < 22; ++page) {
    Pass(kOptions.cold_age_ns / 2);
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
  Pass(2 * kOptions.cold_age_ns - kSecond);
  EXPECT_EQ(process_->counters.isolated_pages, isolated);
  Pass(3 * kOptions.scan_interval_ns);
  EXPECT_GT(process_->counters.isolated_pages, isolated);
  ExpectAllHeld();
}

TEST_F(ReclaimerTest, PagesMarkedIncompressibleAreNotTakenByTheScan) {
  for (size_t page = 0; page < 32; ++page) Write(page, IncompressiblePage(page));
  EXPECT_EQ(EvictAll().evicted_pages, 0u);
  uint64_t isolated = process_->counters.isolated_pages;
  Pass(2 * kOptions.cold_age_ns);
  EXPECT_EQ(process_->counters.isolated_pages, isolated);
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
  Pass(kOptions.cold_age_ns + 3 * kOptions.scan_interval_ns);
  EXPECT_GT(process_->counters.stored_pages, 0u);
  EXPECT_GT(process_->counters.returned_pages, 0u);
  EXPECT_GT(store_.store.stats().pool_full_rejects, 0u);
  ExpectAllHeld();
  ExpectNothingOut();
}

// Makes one call fail: the one with the number that it is armed for. Threads of the flow are inside
// it at any time, so it is armed anew instead of being made anew.
class FailOnce : public sys::FailureInjector {
 public:
  explicit FailOnce(int error) : error_(error) { sys::SetFailureInjector(this); }
  ~FailOnce() override { sys::SetFailureInjector(nullptr); }
  void Arm(uint64_t number) { calls_left_ = static_cast<int64_t>(number); }
  int ErrnoFor(sys::Call, uint64_t detail) override {
    // The one call that the kernel has no way to fail, given a range that makes sense; who sleeps
    // after it would sleep for ever.
    if (detail == UFFDIO_WAKE) return 0;
    return calls_left_-- == 0 ? error_ : 0;
  }
  bool failed() const { return calls_left_ < 0; }

 private:
  const int error_;
  std::atomic<int64_t> calls_left_{-1};
};

// Whichever system call fails, a page stays or comes back.
class BadLuck : public ReclaimerTest, public testing::WithParamInterface<int> {
 protected:
  ~BadLuck() override { faults_.reset(); }  // which may be inside fail_
  // Everything that happens to pages in their lives.
  void Live(uint64_t version) {
    for (size_t page = 0; page < 40; ++page) {
      Write(page, page % 3 == 0 ? FilledPage(version) : CompressiblePage(version * 100 + page));
    }
    std::atomic<bool> cancel{false};
    reclaimer_->EvictAll(cancel, nullptr).IgnoreError();
    for (size_t page = 0; page < 40; page += 7) ExpectHeld(page);
    PassWhatever(2 * kSecond);
    ASSERT_EQ(madvise(memory_->data(20), 4 * kPageBytes, MADV_DONTNEED), 0);
    for (size_t page = 20; page < 24; ++page) expected_[page] = FilledPage(0);
    reclaimer_->EvictAll(cancel, nullptr).IgnoreError();
  }
  void PassWhatever(int64_t ns) {
    clock_.Advance(ns);
    reclaimer_->Tick().IgnoreError();  // an error ends the session, which is then drained
  }
  void ExpectHeld(size_t page) {
    EXPECT_TRUE(memory_->Holds(page, expected_[page])) << "page " << page;
  }

  FailOnce fail_{GetParam()};
};

TEST_P(BadLuck, LosesNothing) {
  constexpr uint64_t kMostCalls = 2000;
  uint64_t number = 0;
  for (bool failed = true; failed && number < kMostCalls && !HasFailure(); ++number) {
    fail_.Arm(number);
    Live(number);
    failed = fail_.failed();
  }
  EXPECT_GT(number, 50u);  // there are calls to fail
  EXPECT_LT(number, kMostCalls);
  ExpectAllHeld();
  EXPECT_FALSE(faults_->gone());
  EXPECT_EQ(process_->counters.poisoned_pages, 0u);
}

INSTANTIATE_TEST_SUITE_P(, BadLuck, testing::Values(ENOMEM, EIO, EAGAIN, EINTR),
                         [](const auto& info) { return std::to_string(info.param); });

// A program that does whatever programs do, against a reclaimer that takes everything out all the
// time: what it reads must always be what it wrote.
class Torture : public ReclaimerTest {
 protected:
  // One step of the program on its own part of the memory.
  void Step(std::mt19937_64& random, size_t first, size_t count,
            std::map<size_t, PageBytes>& model) {
    size_t page = first + random() % count;
    size_t pages = std::min<size_t>(1 + random() % 24, first + count - page);
    uint64_t choice = random() % 16;
    for (size_t i = page; i < page + pages; ++i) Note(i, choice);
    switch (choice) {
      case 0:
        ASSERT_EQ(madvise(memory_->data(page), pages * kPageBytes, MADV_DONTNEED), 0);
        for (size_t i = page; i < page + pages; ++i) model[i] = FilledPage(0);
        return;
      case 1:
        MapAfresh(page, pages, model);
        return;
      case 2:
      case 3:
      case 4:
      case 5:
        for (size_t i = page; i < page + pages; ++i) {
          model[i] = random() % 4 == 0 ? FilledPage(random() % 3) : CompressiblePage(random());
          memory_->Write(i, model[i]);
        }
        return;
      case 6: {
        size_t target = first + random() % (count - pages);
        for (size_t i = target; i < target + pages; ++i) Note(i, 16);
        void* moved =
            mremap(memory_->data(page), pages * kPageBytes, pages * kPageBytes,
                   MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, memory_->data(target));
        if (moved != memory_->data(target)) {
          // They overlap, or the source is several mappings: then the kernel may have got half-way.
          for (size_t place : {page, target}) MapAfresh(place, pages, model);
          return;
        }
        for (size_t i = 0; i < pages; ++i) {
          model[target + i] = model[page + i];
          model[page + i] = FilledPage(0);
        }
        return;
      }
      case 7:
        ASSERT_EQ(mprotect(memory_->data(page), pages * kPageBytes, PROT_READ), 0);
        for (size_t i = page; i < page + pages; ++i) {
          ASSERT_TRUE(memory_->Holds(i, model[i])) << Describe(i);
        }
        ASSERT_EQ(mprotect(memory_->data(page), pages * kPageBytes, PROT_READ | PROT_WRITE), 0);
        return;
      case 8:
        if (random() % 8 == 0) {
          ForkAndCheck(first, count, model);
          return;
        }
        [[fallthrough]];
      default:
        for (size_t i = page; i < page + pages; ++i) {
          ASSERT_TRUE(memory_->Holds(i, model[i])) << Describe(i);
        }
    }
  }

  // What was done to each page, newest last: a letter for each choice of Step.
  void Note(size_t page, uint64_t choice) {
    std::string& history = history_[page];
    history.push_back(static_cast<char>('a' + choice));
    if (history.size() > 12) history.erase(0, 1);
  }
  std::string Describe(size_t page) {
    const auto* words = reinterpret_cast<const uint64_t*>(memory_->data(page));
    std::ostringstream text;
    text << "page " << page << " begins with " << std::hex << words[0] << " " << words[1]
         << ", lately " << history_[page] << ", entry " << entry(page).bits();
    AddressMap map = OrDie(AddressMap::Read(getpid(), {}));
    bool registered =
        std::any_of(map.registered().begin(), map.registered().end(),
                    [&](AddressRange range) { return range.Contains(memory_->address(page)); });
    wire::PageSet known = process_->table.Registered(ChunkNumber(memory_->address(page)));
    text << (registered ? ", registered" : ", not registered")
         << (known.Has(page % kPagesPerChunk) ? ", known to be" : "");
    return text.str();
  }
  std::array<std::string, kChunks * kPagesPerChunk> history_;

  void MapAfresh(size_t page, size_t pages, std::map<size_t, PageBytes>& model) {
    void* fresh = mmap(memory_->data(page), pages * kPageBytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    ASSERT_EQ(fresh, memory_->data(page));
    for (size_t i = page; i < page + pages; ++i) model[i] = FilledPage(0);
  }

  void ForkAndCheck(size_t first, size_t count, const std::map<size_t, PageBytes>& model) {
    pid_t child = ForkChild([&] {
      for (size_t i = first; i < first + count; i += 7) {
        if (!memory_->Holds(i, model.at(i))) return 1;
      }
      return 0;
    });
    ASSERT_EQ(Await(child), 0) << "a child read something else";
  }
};

TEST_F(Torture, WhatAProgramReadsIsWhatItWrote) {
  constexpr int kSteps = 3000;
  // What sanitizers make slow ends earlier, but not before a page had to be brought back.
  const int64_t end_ns = MonotonicClock().now_ns() + 5 * kSecond;
  const int64_t give_up_ns = end_ns + 60 * kSecond;
  auto goes_on = [&](int step) {
    int64_t now_ns = MonotonicClock().now_ns();
    if (step < kSteps && now_ns < end_ns) return true;
    return process_->counters.faults_total == 0 && now_ns < give_up_ns;
  };
  uint64_t seed = TestSeed();
  std::atomic<int> running{2};
  std::vector<std::thread> program;
  for (uint64_t id = 0; id < 2; ++id) {
    program.emplace_back([&, id] {
      std::mt19937_64 random(seed + id);
      size_t count = memory_->page_count() / 2;
      size_t first = id * count;
      std::map<size_t, PageBytes> model;
      for (size_t page = first; page < first + count; ++page) model[page] = FilledPage(0);
      for (int step = 0; goes_on(step) && !HasFatalFailure(); ++step) {
        Step(random, first, count, model);
      }
      for (const auto& [page, bytes] : model) {
        EXPECT_TRUE(memory_->Holds(page, bytes)) << "page " << page << " at the end";
      }
      --running;
    });
  }
  std::atomic<bool> cancel{false};
  absl::Status status;
  while (running > 0 && status.ok()) {
    status = reclaimer_->EvictAll(cancel, nullptr).status();
    clock_.Advance(kSecond);
    if (status.ok()) status = reclaimer_->Tick();
  }
  EXPECT_TRUE(status.ok()) << status;
  for (std::thread& thread : program) thread.join();
  EXPECT_GT(process_->counters.faults_total, 0u);
  EXPECT_EQ(process_->counters.poisoned_pages, 0u);
  faults_->Drain();
  faults_->Settle();
  EXPECT_EQ(process_->counters.staged_pages, 0u);
}

}  // namespace
}  // namespace zmem
