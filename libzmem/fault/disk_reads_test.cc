// Pages that come back from the backing file, with this process as the program.
#include "libzmem/fault/disk_reads.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include <algorithm>
#include <csignal>
#include <functional>
#include <map>
#include <numeric>
#include <optional>
#include <random>
#include <thread>

#include "libzmem/fault/layout_events.h"
#include "libzmem/testing/managed.h"

namespace zmem {
namespace {

constexpr size_t kChunks = 2;
constexpr int kGotSigbus = 77;

// Fails the reads of the file that it is told to.
class FailReads : public sys::FailureInjector {
 public:
  explicit FailReads(int times) : left_(times) { sys::SetFailureInjector(this); }
  ~FailReads() override { sys::SetFailureInjector(nullptr); }
  int ErrnoFor(sys::Call call, uint64_t) override {
    return call == sys::Call::kRingRead && left_-- > 0 ? EIO : 0;
  }

 private:
  std::atomic<int64_t> left_;
};

class DiskReadsTest : public testing::Test {
 protected:
  DiskReadsTest()
      : memory_(kChunks),
        store_({.fat_bytes = kPageBytes / 2, .file_bytes = uint64_t{64} << 20}),
        process_(ProcessOfThisOne(store_)) {
    RegisterRange(*process_, memory_.range());
  }

  // Pages that are fat, in the file, and every third one in the pool.
  void StoreAll() {
    for (size_t page = 0; page < memory_.page_count(); ++page) {
      PageBytes bytes = page % 3 == 0 ? CompressiblePage(page) : IncompressiblePage(page);
      PageEntry entry = StorePage(store_, *process_, memory_.address(page), bytes);
      EXPECT_EQ(entry.state(), page % 3 == 0 ? PageState::kInPool : PageState::kOnDisk);
      expected_[page] = bytes;
      if (page % 64 == 0) {
        ASSERT_TRUE(store_.file->Flush());
      }
    }
    ASSERT_TRUE(store_.file->Flush());
  }
  void StoreOnDisk(size_t first, size_t count) {
    for (size_t page = first; page < first + count; ++page) {
      expected_[page] = IncompressiblePage(page);
      StorePage(store_, *process_, memory_.address(page), expected_[page]);
    }
    ASSERT_TRUE(store_.file->Flush());
  }
  void Serve() { faults_.emplace(process_, clock_); }
  void ExpectAllHeld() {
    std::vector<size_t> order;
    for (const auto& [page, bytes] : expected_) order.push_back(page);
    std::shuffle(order.begin(), order.end(), std::mt19937_64(TestSeed()));
    for (size_t page : order) EXPECT_TRUE(memory_.Holds(page, expected_[page])) << page;
  }
  static void AwaitAll(DiskReads& reads) {
    while (reads.in_flight() > 0) {
      pollfd readable{.fd = reads.fd(), .events = POLLIN};
      sys::Poll(&readable, 1, -1);
      EXPECT_EQ(reads.Complete(), FillResult::kDone);
    }
  }
  void ExpectNothingStored() {
    faults_->Settle();
    EXPECT_EQ(store_.objects(), 0u);
    EXPECT_EQ(process_->counters.stored_pages, 0u);
    EXPECT_EQ(process_->counters.disk_pages, 0u);
    EXPECT_EQ(process_->counters.disk_bytes, 0u);
  }
  // What a child sees of `page`, ended by SIGBUS or not.
  int TouchInChild(size_t page) {
    return Await(ForkChild([&] {
      signal(SIGBUS, [](int) { _exit(kGotSigbus); });
      return memory_.Holds(page, expected_.at(page)) ? 0 : 1;
    }));
  }

  MonotonicClock clock_;
  Mapping memory_;
  TestStore store_;
  std::shared_ptr<Process> process_;
  std::optional<FaultThread> faults_;
  std::map<size_t, PageBytes> expected_;
};

// Has something happen the next time but one that the fault thread asks for the time.
class ClockWithHook final : public Clock {
 public:
  int64_t now_ns() const override {
    if (calls_left_.fetch_sub(1) == 1) hook_();
    return clock_.now_ns();
  }
  void Arm(std::function<void()> hook) {
    hook_ = std::move(hook);
    calls_left_ = 2;
  }

 private:
  MonotonicClock clock_;
  std::function<void()> hook_;
  mutable std::atomic<int> calls_left_{0};
};

// Replayed: a page on probation is wanted, and between the look at its entry and the claim the
// reclaimer publishes it in the file. Its thread slept for ever.
TEST_F(DiskReadsTest, APageThatIsPublishedOnDiskWhileItsFaultIsAnsweredComesBack) {
  std::unique_ptr<Mapping> staging = BindStaging(*process_, 1);
  PageBytes bytes = IncompressiblePage(5);
  PageEntry on_disk;
  ASSERT_EQ(store_.store.Put(bytes.bytes, store_.workspace, &on_disk), StoreResult::kStored);
  ASSERT_TRUE(store_.file->Flush());
  PageEntry isolating = PageEntry::Isolating(5);
  PageEntry staged = PageEntry::Staged(5);
  Publish(*process_, memory_.address(5), isolating);
  std::shared_ptr<Chunk> chunk = process_->table.Find(ChunkNumber(memory_.address(5)));
  ASSERT_TRUE(chunk->Transition(5, isolating, staged));
  process_->counters.staged_pages = 1;
  // Has waited to come back as a part of a huge page, so that the time is looked at.
  process_->huge_slabs[0].whole = true;
  process_->huge_slabs[0].wanted_ns = 1;
  ClockWithHook clock;
  faults_.emplace(process_, clock);
  clock.Arm([&] {
    process_->counters.AddStored(on_disk);
    EXPECT_TRUE(chunk->Transition(5, staged, on_disk));
    process_->counters.staged_pages = 0;
  });
  EXPECT_TRUE(memory_.Holds(5, bytes));
  // The fault thread hears of the staging area's end, and looks at the clock, which ends here.
  staging.reset();
  faults_.reset();
  EXPECT_EQ(process_->counters.disk_faults, 1u);
}

TEST_F(DiskReadsTest, PagesComeBackAsTheyWere) {
  StoreAll();
  Serve();
  ExpectAllHeld();
  ExpectNothingStored();
  EXPECT_GT(process_->counters.disk_faults, 0u);
  EXPECT_EQ(process_->fault_latency.count(), process_->counters.faults_total);
}

TEST_F(DiskReadsTest, PagesNotYetWrittenComeBackAsTheyWere) {
  for (size_t page = 0; page < 16; ++page) {
    expected_[page] = IncompressiblePage(page);
    StorePage(store_, *process_, memory_.address(page), expected_[page]);
  }
  EXPECT_EQ(store_.file->stats().bytes_written, 0u);
  Serve();
  ExpectAllHeld();
  ExpectNothingStored();
}

TEST_F(DiskReadsTest, NeighboursThatWereStoredTogetherComeWithOneRead) {
  StoreOnDisk(0, 8);
  Serve();
  EXPECT_TRUE(memory_.Holds(0, expected_[0]));
  faults_->Settle();
  EXPECT_EQ(process_->counters.disk_faults, 1u);
  EXPECT_EQ(process_->counters.readahead_pages, 7u);
  ExpectAllHeld();
  ExpectNothingStored();
  EXPECT_EQ(process_->counters.disk_faults, 1u);
}

TEST_F(DiskReadsTest, ReadsGrowForWhoTouchesPageAfterPage) {
  constexpr size_t kPages = 120;  // in one segment
  StoreOnDisk(0, kPages);
  Serve();
  for (size_t page = 0; page < kPages; ++page) EXPECT_TRUE(memory_.Holds(page, expected_[page]));
  faults_->Settle();
  // 8 pages with the first, then 8, 9, and as many as a read may cover: 15, and the rest.
  EXPECT_EQ(process_->counters.disk_faults, 3 + (kPages - 25 + 14) / 15);
  EXPECT_EQ(process_->counters.readahead_pages, kPages - process_->counters.disk_faults);
}

TEST_F(DiskReadsTest, AGuardPutThereDuringTheReadStays) {  // FACTS 11
  constexpr int kGuardInstall = 102;                       // MADV_GUARD_INSTALL, Linux 6.13
  StoreOnDisk(0, 8);
  PageRestorer restorer(*process_);
  DiskReads reads(*process_, restorer, clock_);
  ASSERT_TRUE(reads.Begin(memory_.address(0), 7, DiskReads::Reason::kFault));
  if (madvise(memory_.data(3), kPageBytes, kGuardInstall) != 0) GTEST_SKIP() << "no guards";
  AwaitAll(reads);
  EXPECT_EQ(process_->counters.readahead_pages, 2u);
  bool absent = true;
  ASSERT_EQ(process_->pagemap.FindAbsent(memory_.address(3), std::span(&absent, 1)), 0);
  EXPECT_FALSE(absent) << "the guard is still there";
  expected_.erase(3);
  Serve();
  ExpectAllHeld();
}

// Replayed: a program that forks or moves its memory more often than the disk answers.
TEST_F(DiskReadsTest, AForkDuringTheReadDoesNotBeginItAgain) {
  StoreOnDisk(0, 8);
  PageRestorer restorer(*process_);
  DiskReads reads(*process_, restorer, clock_);
  ASSERT_EQ(reads.Begin(memory_.address(0), 7, DiskReads::Reason::kFault), 7u);
  reads.ReleaseClaims();
  Process child(store_.store, *store_.arena, ReadyUserfaultfd());
  child.table.ShareFrom(process_->table);
  child.counters.CopyLevels(process_->counters);
  EXPECT_EQ(reads.Begin(memory_.address(0), 7, DiskReads::Reason::kFault), 0u) << "on its way";
  EXPECT_EQ(reads.Begin(memory_.address(5), 0, DiskReads::Reason::kFault), 0u);
  EXPECT_EQ(reads.in_flight(), 1u);
  // The parent drops one of them, and it is another page on disk by now.
  PageEntry other;
  ASSERT_EQ(store_.store.Put(IncompressiblePage(1000).bytes, store_.workspace, &other),
            StoreResult::kStored);
  process_->Retire(process_->OwnChunk(memory_.address(3))->Replace(3, PageEntry()));
  Publish(*process_, memory_.address(3), other);
  expected_[3] = IncompressiblePage(1000);
  AwaitAll(reads);
  EXPECT_EQ(process_->counters.disk_faults, 1u);
  EXPECT_EQ(process_->counters.disk_pages, 5u) << "the fourth, and those behind it";
  EXPECT_EQ(EntryOf(child, memory_.address(0)).state(), PageState::kOnDisk) << "it has its own";
  Serve();
  ExpectAllHeld();
}

// Replayed: what a mapping took along is still to be read when the mapping is gone. Neither the
// program nor a child, forked in between, may get it where something else lies by then.
TEST_F(DiskReadsTest, WhatAMovedMappingTookAlongEndsWithIt) {
  StoreOnDisk(0, 8);
  PageRestorer restorer(*process_);
  DiskReads reads(*process_, restorer, clock_);
  LayoutEvents events(*process_, restorer, reads);
  Address nowhere = memory_.range().end + 64 * kChunkBytes;
  events.OnRemap(memory_.address(0), nowhere, 8 * kPageBytes);
  EXPECT_EQ(process_->arrivals.size(), 1u);
  std::shared_ptr<Process> child = events.OnFork(UniqueFd(eventfd(0, EFD_CLOEXEC)));
  EXPECT_EQ(child->arrivals.size(), 1u) << "nothing is registered meanwhile";
  // The order in which threads did these is not known yet; but nothing is mapped there.
  EXPECT_FALSE(process_->arrivals[0].settled);
  events.OnUnmap({nowhere, nowhere + 2 * kPageBytes});
  EXPECT_EQ(process_->counters.disk_pages, 6u);
  events.SettleArrivals(1);
  EXPECT_TRUE(process_->arrivals[0].settled);
  Address somewhere = memory_.address(0);
  process_->arrivals.push_back(
      {.range = {somewhere, somewhere + kPageBytes}, .start = memory_.range().start});
  Publish(*process_, somewhere, PageEntry::SameFilled(1));
  events.OnUnmap({somewhere, somewhere + kPageBytes});
  EXPECT_EQ(process_->counters.stored_pages, 7u) << "spared: it may have been moved there since";
  process_->arrivals.back().settled = true;
  events.OnUnmap({somewhere, somewhere + kPageBytes});
  EXPECT_EQ(process_->counters.stored_pages, 6u);
  process_->arrivals.pop_back();
  int64_t start_ns = clock_.now_ns();
  while (!process_->arrivals.empty()) {
    events.SettleArrivals(64);
    AwaitAll(reads);
  }
  EXPECT_LT(clock_.now_ns() - start_ns, 1'000'000'000) << "without patience";
  EXPECT_EQ(EntryOf(*process_, nowhere), PageEntry());
  EXPECT_EQ(process_->counters.stored_pages, 0u);
}

TEST_F(DiskReadsTest, ADrainBringsAllBack) {
  StoreAll();
  Serve();
  faults_->Drain();
  ExpectNothingStored();
  ExpectAllHeld();
  EXPECT_EQ(process_->counters.faults_total, 0u);
}

TEST_F(DiskReadsTest, ADrainGivesUpWhatHasNoMapping) {
  StoreOnDisk(0, 8);
  PageEntry lost;
  ASSERT_EQ(store_.store.Put(IncompressiblePage(1000).bytes, store_.workspace, &lost),
            StoreResult::kStored);
  Publish(*process_, memory_.range().end + 64 * kChunkBytes, lost);
  Serve();
  faults_->Drain();
  ExpectNothingStored();
  ExpectAllHeld();
}

TEST_F(DiskReadsTest, APageThatTheProgramDropsReadsAsZeros) {
  StoreOnDisk(0, 64);
  Serve();
  ASSERT_EQ(madvise(memory_.data(0), 32 * kPageBytes, MADV_DONTNEED), 0);
  for (size_t page = 0; page < 32; ++page) expected_[page] = FilledPage(0);
  ExpectAllHeld();
  ExpectNothingStored();
}

TEST_F(DiskReadsTest, AMovedMappingTakesItsPagesAlong) {
  StoreOnDisk(0, 64);
  Mapping elsewhere(1);
  Serve();
  memory_.Forget(0, 64);
  ASSERT_NE(mremap(memory_.data(0), 64 * kPageBytes, 64 * kPageBytes, MREMAP_MAYMOVE | MREMAP_FIXED,
                   elsewhere.data(0)),
            MAP_FAILED);
  for (size_t page = 0; page < 64; ++page) EXPECT_TRUE(elsewhere.Holds(page, expected_[page]));
  while (process_->counters.stored_pages > 0) std::this_thread::yield();
  ExpectNothingStored();
}

// Forks in the middle of reads: parent and child both find every page.
TEST_F(DiskReadsTest, AForkWhilePagesAreReadLosesNone) {
  StoreAll();
  Serve();
  std::atomic<bool> done{false};
  // Detached, so that in a child, which has no such thread, tsan does not miss its end.
  std::thread([&] {
    for (const auto& [page, bytes] : expected_) EXPECT_TRUE(memory_.Holds(page, bytes)) << page;
    done = true;
  }).detach();
  for (int forks = 0; forks < 20 || !done; ++forks) {
    pid_t child = ForkChild([&] {
      std::mt19937_64 random(static_cast<uint64_t>(forks));
      for (int touches = 0; touches < 30; ++touches) {
        size_t page = random() % memory_.page_count();
        if (!memory_.Holds(page, expected_.at(page))) return 1;
      }
      return 0;
    });
    EXPECT_EQ(Await(child), 0) << forks;
  }
  ExpectAllHeld();
  faults_->children();
}

TEST_F(DiskReadsTest, ADiskThatFailsForAMomentIsOnlyLate) {
  StoreOnDisk(0, 4);
  FailReads fail(2);
  Serve();
  ExpectAllHeld();
  ExpectNothingStored();
  EXPECT_EQ(process_->counters.poisoned_pages, 0u);
  faults_.reset();  // it may be inside `fail`
}

TEST_F(DiskReadsTest, APageThatTheDiskDoesNotGiveRaisesSigbus) {
  StoreOnDisk(0, 1);
  FailReads fail(1 << 20);
  Serve();
  EXPECT_EQ(TouchInChild(0), kGotSigbus);
  EXPECT_EQ(process_->counters.poisoned_pages, 0u) << "the parent's is still to be had";
  faults_.reset();
}

// Threads touch, drop, and fork beside a drain of what is stored again and again.
TEST_F(DiskReadsTest, NothingIsEverWrongUnderAStorm) {
  uint64_t seed = TestSeed();
  StoreAll();
  Serve();
  std::vector<std::thread> threads;
  for (size_t id = 0; id < 3; ++id) {
    threads.emplace_back([&, id] {
      std::mt19937_64 random(seed + id);
      size_t pages = memory_.page_count() / 3;
      std::map<size_t, PageBytes> own;
      for (size_t page = id * pages; page < (id + 1) * pages; ++page) own[page] = expected_[page];
      for (int step = 0; step < 400; ++step) {
        size_t page = id * pages + random() % pages;
        if (random() % 8 == 0) {
          size_t count = std::min<size_t>(random() % 8 + 1, (id + 1) * pages - page);
          ASSERT_EQ(madvise(memory_.data(page), count * kPageBytes, MADV_DONTNEED), 0);
          for (size_t i = page; i < page + count; ++i) own[i] = FilledPage(0);
        } else {
          ASSERT_TRUE(memory_.Holds(page, own[page])) << page;
        }
      }
      for (const auto& [page, bytes] : own) ASSERT_TRUE(memory_.Holds(page, bytes)) << page;
    });
  }
  for (std::thread& thread : threads) thread.join();
  faults_->Drain();
  ExpectNothingStored();
}

}  // namespace
}  // namespace zmem
