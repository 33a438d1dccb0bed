// The fault flow against the kernel: this process is the program, its own memory is managed, and a
// FaultHandler runs in a thread beside those that touch.
#include "libzmem/fault/fault_handler.h"

#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <numeric>
#include <optional>
#include <random>
#include <thread>
#include <vector>

#include "libzmem/base/kernel_abi.h"
#include "libzmem/testing/managed.h"

namespace zmem {
namespace {

constexpr size_t kChunks = 4;

// Exit codes of forked children.
constexpr int kAsExpected = 0;
constexpr int kWrongBytes = 1;
constexpr int kGotSigbus = 77;

int64_t Count(const std::atomic<uint64_t>& counter) { return static_cast<int64_t>(counter.load()); }

class FaultHandlerTest : public testing::Test {
 protected:
  FaultHandlerTest() : memory_(kChunks), process_(ProcessOfThisOne(store_)) {
    RegisterRange(*process_, memory_.range());
  }

  // Makes `bytes` what zmem holds for the page, and remembers it.
  PageEntry Store(size_t page, const PageBytes& bytes) {
    expected_[page] = bytes;
    return StorePage(store_, *process_, memory_.address(page), bytes);
  }
  // Compressible, same-filled and otherwise special pages by turns.
  void StoreVaried(size_t first, size_t count) {
    for (size_t page = first; page < first + count; ++page) {
      switch (page % 4) {
        case 0:
          Store(page, FilledPage(page));
          break;
        case 1:
          Store(page, FilledPage(0x3ff1000000000001 + page));  // a word for the pool
          break;
        default:
          Store(page, CompressiblePage(page));
      }
    }
  }
  // As mremap to a fixed place.
  void* Move(size_t first, size_t count, size_t new_count, std::byte* target) {
    memory_.Forget(first, count);
    return mremap(memory_.data(first), count * kPageBytes, new_count * kPageBytes,
                  MREMAP_MAYMOVE | MREMAP_FIXED, target);
  }
  void Serve() { faults_.emplace(process_, clock_); }
  // Touches every page that was stored.
  void ExpectAllHeld() {
    for (const auto& [page, bytes] : expected_) {
      EXPECT_TRUE(memory_.Holds(page, bytes)) << "page " << page;
    }
  }
  void ExpectNothingStored() {
    EXPECT_EQ(store_.objects(), 0u);
    EXPECT_EQ(Count(process_->counters.stored_pages), 0);
    EXPECT_EQ(Count(process_->counters.same_filled_pages), 0);
    EXPECT_EQ(Count(process_->counters.compressed_bytes), 0);
    EXPECT_EQ(Count(process_->counters.held_bytes), 0);
  }

  MonotonicClock clock_;
  Mapping memory_;
  TestStore store_;
  std::shared_ptr<Process> process_;
  std::optional<FaultThread> faults_;
  std::map<size_t, PageBytes> expected_;
};

TEST_F(FaultHandlerTest, StoredPagesComeBackAsTheyWere) {
  StoreVaried(0, memory_.page_count());
  Serve();
  std::vector<size_t> order(memory_.page_count());
  std::iota(order.begin(), order.end(), size_t{0});
  std::shuffle(order.begin(), order.end(), std::mt19937_64(TestSeed()));
  for (size_t page : order) ASSERT_TRUE(memory_.Holds(page, expected_[page])) << page;
  faults_->Settle();
  ExpectNothingStored();
  EXPECT_EQ(Count(process_->counters.faults_total) + Count(process_->counters.readahead_pages),
            static_cast<int64_t>(memory_.page_count()));
}

TEST_F(FaultHandlerTest, RawPagesComeBackAsTheyWere) {
  for (size_t page = 0; page < 8; ++page) {
    expected_[page] = IncompressiblePage(page);
    Publish(*process_, memory_.address(page), store_.store.PutRaw(expected_[page].bytes));
  }
  Serve();
  ExpectAllHeld();
  faults_->Settle();
  ExpectNothingStored();
}

// A huge page on probation waits to be moved back whole; when nobody does, its pages come back one
// by one.
TEST_F(FaultHandlerTest, AHugePageOnProbationIsAwaitedAndThenTakenApart) {
  std::unique_ptr<Mapping> staging = BindStaging(*process_, 1);
  PageBytes bytes = CompressiblePage(5);
  size_t filled = 0;
  ASSERT_EQ(process_->uffd.Copy(process_->slot_address(5), bytes.bytes.data(), 1, &filled),
            FillResult::kDone);
  Publish(*process_, memory_.address(5), PageEntry::Isolating(5));
  PageEntry isolating = PageEntry::Isolating(5);
  ASSERT_TRUE(process_->table.Find(ChunkNumber(memory_.address(5)))
                  ->Transition(5, isolating, PageEntry::Staged(5)));
  process_->counters.staged_pages = 1;
  process_->huge_slabs[0].whole = true;
  Serve();
  EXPECT_TRUE(memory_.Holds(5, bytes));
  EXPECT_TRUE(faults_->huge_page_wanted());
  EXPECT_GT(process_->huge_slabs[0].wanted_ns.load(), 0);
}

TEST_F(FaultHandlerTest, WritingToAStoredPageKeepsItsOtherBytes) {
  Store(3, CompressiblePage(3));
  Serve();
  *memory_.data(3) = std::byte{42};
  expected_[3].bytes[0] = std::byte{42};
  ExpectAllHeld();
}

TEST_F(FaultHandlerTest, SequentialFaultsReadAhead) {
  StoreVaried(0, kPagesPerChunk);
  Serve();
  ExpectAllHeld();
  faults_->Settle();
  int64_t faults = Count(process_->counters.faults_total);
  EXPECT_EQ(faults + Count(process_->counters.readahead_pages), int64_t{kPagesPerChunk});
  // 1, 1 + 4, 1 + 8, 1 + 16, ... 1 + 64 pages a fault.
  EXPECT_LT(faults, 20);
}

TEST_F(FaultHandlerTest, ScatteredFaultsReadNothingAhead) {
  StoreVaried(0, kPagesPerChunk);
  Serve();
  for (size_t page = 7; page < kPagesPerChunk; page += 61) {
    EXPECT_TRUE(memory_.Holds(page, expected_[page]));
  }
  faults_->Settle();
  EXPECT_EQ(Count(process_->counters.readahead_pages), 0);
}

TEST_F(FaultHandlerTest, WhereRoomIsScarceAStreamHasToProveItself) {
  constexpr int64_t kScarce = 4000;
  process_->room_pages = kScarce;
  StoreVaried(0, 2 * kPagesPerChunk);
  Serve();
  // Two pages that follow each other, as an object across their boundary has it.
  for (size_t page = 0; page < kPagesPerChunk; page += 32) {
    EXPECT_TRUE(memory_.Holds(page, expected_[page]));
    EXPECT_TRUE(memory_.Holds(page + 1, expected_[page + 1]));
  }
  faults_->Settle();
  EXPECT_EQ(Count(process_->counters.readahead_pages), 0);
  for (size_t page = kPagesPerChunk; page < kPagesPerChunk + 128; ++page) {
    EXPECT_TRUE(memory_.Holds(page, expected_[page]));
  }
  faults_->Settle();
  EXPECT_GT(Count(process_->counters.readahead_pages), 64);
  ExpectAllHeld();
}

TEST_F(FaultHandlerTest, ReadaheadStopsAtAGuard) {
  constexpr int kGuardInstall = 102;  // MADV_GUARD_INSTALL, Linux 6.13
  if (madvise(memory_.data(10), kPageBytes, kGuardInstall) != 0) {
    GTEST_SKIP() << "this kernel has no MADV_GUARD_INSTALL";
  }
  StoreVaried(0, 64);
  Serve();
  for (size_t page = 0; page < 10; ++page) ASSERT_TRUE(memory_.Holds(page, expected_[page]));
  for (size_t page = 11; page < 64; ++page) ASSERT_TRUE(memory_.Holds(page, expected_[page]));
  std::array<bool, 1> absent;
  ASSERT_EQ(process_->pagemap.FindAbsent(memory_.address(10), absent), 0);
  EXPECT_FALSE(absent[0]) << "the guard is still there";
  pid_t child = ForkChild([&] {
    signal(SIGSEGV, [](int) { _exit(kGotSigbus); });
    return memory_.Holds(10, expected_[10]) ? kWrongBytes : kAsExpected;
  });
  EXPECT_EQ(Await(child), kGotSigbus);
}

TEST_F(FaultHandlerTest, PagesNeverTakenReadAsZerosInOneRun) {
  RegisterRange(*process_, memory_.range());
  Serve();
  for (size_t page = 0; page < kPagesPerChunk; ++page) {
    ASSERT_TRUE(memory_.Holds(page, FilledPage(0))) << page;
  }
  faults_->Settle();
  EXPECT_EQ(Count(process_->counters.zero_faults), 1);
  memory_.Write(7, CompressiblePage(7));
  EXPECT_TRUE(memory_.Holds(7, CompressiblePage(7)));
}

TEST_F(FaultHandlerTest, WhoWritesPageAfterPageGetsPagesAhead) {
  RegisterRange(*process_, memory_.range());
  Serve();
  for (size_t page = 0; page < memory_.page_count(); ++page) {
    memory_.Write(page, CompressiblePage(page));
    expected_[page] = CompressiblePage(page);
  }
  ExpectAllHeld();
  faults_->Settle();
  // One for the first chunk, then windows that double up to their limit.
  EXPECT_LE(Count(process_->counters.zero_faults), 32);
}

TEST_F(FaultHandlerTest, DiscardedPagesAreFilledInRunsAgain) {
  StoreVaried(0, kPagesPerChunk);
  Serve();
  ASSERT_EQ(madvise(memory_.data(0), kChunkBytes, MADV_DONTNEED), 0);
  for (size_t page = 0; page < kPagesPerChunk; ++page) {
    memory_.Write(page, CompressiblePage(page + 7));
    expected_[page] = CompressiblePage(page + 7);
  }
  ExpectAllHeld();
  faults_->Settle();
  EXPECT_LE(Count(process_->counters.zero_faults), 32);
}

TEST_F(FaultHandlerTest, PagesAheadDoNotUndoGuards) {  // FACTS 11
  constexpr int kMadvGuardInstall = 102;               // Linux 6.13
  RegisterRange(*process_, memory_.range());
  if (madvise(memory_.data(600), kPageBytes, kMadvGuardInstall) != 0) GTEST_SKIP() << "no guards";
  Serve();
  for (size_t page = 0; page < 600; ++page) memory_.Write(page, CompressiblePage(page));
  std::array<bool, 1> absent;
  ASSERT_EQ(process_->pagemap.FindAbsent(memory_.address(600), absent), 0);
  EXPECT_FALSE(absent[0]) << "the guard is still there";
  pid_t child = ForkChild([&] {
    signal(SIGSEGV, [](int) { _exit(kGotSigbus); });
    return memory_.Holds(600, FilledPage(0)) ? kWrongBytes : kAsExpected;
  });
  EXPECT_EQ(Await(child), kGotSigbus);
}

TEST_F(FaultHandlerTest, FirstTouchesBesideStoredPagesDisturbNothing) {
  for (size_t page = 1; page < kPagesPerChunk; page += 3) Store(page, CompressiblePage(page));
  Serve();
  for (size_t page = 0; page < kPagesPerChunk; page += 3) {
    memory_.Write(page, CompressiblePage(1000 + page));
    expected_[page] = CompressiblePage(1000 + page);
  }
  ExpectAllHeld();
}

TEST_F(FaultHandlerTest, ManyThreadsGetEveryPageRight) {
  StoreVaried(0, memory_.page_count());
  Serve();
  uint64_t seed = TestSeed();
  std::atomic<size_t> wrong{0};
  std::vector<std::thread> threads;
  for (uint64_t id = 0; id < 4; ++id) {
    threads.emplace_back([&, id] {
      std::mt19937_64 random(seed + id);
      for (int i = 0; i < 2000; ++i) {
        size_t page = random() % memory_.page_count();
        if (!memory_.Holds(page, expected_.at(page))) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0u);
}

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
  EXPECT_EQ(store_.arena->held_bytes(), kPageBytes) << "of the chunk that went by halves";
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

TEST_F(FaultHandlerTest, ADrainPutsEveryPageBack) {
  StoreVaried(0, memory_.page_count());
  Serve();
  EXPECT_FALSE(faults_->handler().drained());
  faults_->Drain();
  ExpectNothingStored();
  // Without anybody who answers: the pages are there.
  faults_->handler().Stop();
  faults_->Join();
  ExpectAllHeld();
}

TEST_F(FaultHandlerTest, ADrainLeavesTheProgramsOwnPagesAndGuardsAlone) {
  StoreVaried(0, 64);
  // As if the kernel had put pages there by itself.
  ASSERT_EQ(process_->uffd.Unregister(memory_.range()), 0);
  memory_.Write(5, CompressiblePage(1005));
  expected_[5] = CompressiblePage(1005);
  ASSERT_EQ(process_->uffd.Register(memory_.range()), 0);
  Serve();
  faults_->Drain();
  ExpectNothingStored();
  ExpectAllHeld();
}

TEST_F(FaultHandlerTest, ADrainBringsBackPagesOnBothSidesOfAMappingsEnd) {
  StoreVaried(0, 128);
  // The kernel keeps what differs in protection as mappings of their own.
  ASSERT_EQ(mprotect(memory_.data(20), kPageBytes, PROT_READ), 0);
  ASSERT_EQ(mprotect(memory_.data(77), 20 * kPageBytes, PROT_READ), 0);
  Serve();
  faults_->Drain();
  ExpectNothingStored();
  ExpectAllHeld();
  EXPECT_EQ(Count(process_->counters.zero_faults), 0);
}

TEST_F(FaultHandlerTest, ADrainOfNothingIsDoneAtOnce) {
  process_->RemoveChunk(ChunkNumber(memory_.address(0)));
  Serve();
  faults_->Drain();
  EXPECT_TRUE(faults_->handler().drained());
}

// Runs `body` in the fault thread when it waits for the second time after a drain was asked for:
// the first wait ends with the request.
class InFaultThread : public sys::FailureInjector {
 public:
  explicit InFaultThread(std::function<void()> body) : body_(std::move(body)) {}
  int ErrnoFor(sys::Call call, uint64_t) override {
    if (call == sys::Call::kPoll && std::this_thread::get_id() != test_ && ++polls_ == 2) body_();
    return 0;
  }

 private:
  const std::thread::id test_ = std::this_thread::get_id();
  int polls_ = 0;
  const std::function<void()> body_;
};

class Injected {
 public:
  explicit Injected(sys::FailureInjector& injector) { sys::SetFailureInjector(&injector); }
  ~Injected() { sys::SetFailureInjector(nullptr); }
};

TEST_F(FaultHandlerTest, APageThatMovesWhileADrainLooksForPagesIsNotForgotten) {
  StoreVaried(0, 64);
  Mapping elsewhere(1);
  std::thread mover;
  // The fault thread begins a pass in its first round after the request; the event comes before
  // its second.
  InFaultThread replay([&] {
    mover = std::thread([&] { Move(0, 64, 64, elsewhere.data(0)); });
    AwaitMessage(process_->uffd);
  });
  Injected injected(replay);
  Serve();
  faults_->Drain();
  faults_->Settle();
  EXPECT_EQ(Count(process_->counters.stored_pages), 0) << "drained, and pages are still out";
  mover.join();
}

TEST_F(FaultHandlerTest, ADamagedPageRaisesSigbusAndIsNeverWrong) {
  PageEntry entry = Store(0, CompressiblePage(0));
  Store(1, CompressiblePage(1));
  store_.Damage(entry);
  Serve();
  pid_t child = ForkChild([&] {
    signal(SIGBUS, [](int) { _exit(kGotSigbus); });
    if (!memory_.Holds(1, expected_.at(1))) return kWrongBytes;
    return memory_.Holds(0, expected_.at(0)) ? kAsExpected : kWrongBytes;
  });
  EXPECT_EQ(Await(child), kGotSigbus);
  ASSERT_EQ(faults_->children().size(), 1u);
  Process& child_process = faults_->children()[0]->process();
  faults_->children()[0]->Settle();
  EXPECT_EQ(Count(child_process.counters.poisoned_pages), 1);
  EXPECT_EQ(Count(process_->counters.poisoned_pages), 0);
  EXPECT_TRUE(memory_.Holds(1, expected_[1]));
}

TEST_F(FaultHandlerTest, ADrainGoesOnBehindADamagedPage) {
  StoreVaried(0, 64);
  store_.Damage(EntryOf(*process_, memory_.address(10)));  // CompressiblePage
  Serve();
  faults_->Drain();
  ExpectNothingStored();
  EXPECT_EQ(Count(process_->counters.poisoned_pages), 1);
  expected_.erase(10);
  ExpectAllHeld();
}

// Fails the first `times` calls of an ioctl.
class FailIoctl : public sys::FailureInjector {
 public:
  FailIoctl(uint64_t request, int error, int times)
      : request_(request), error_(error), left_(times) {}
  int ErrnoFor(sys::Call call, uint64_t detail) override {
    if (call != sys::Call::kIoctl || detail != request_) return 0;
    ++calls_;
    return left_.fetch_sub(1) > 0 ? error_ : 0;
  }
  bool spent() const { return left_ <= 0; }
  int calls() const { return calls_; }

 private:
  const uint64_t request_;
  const int error_;
  std::atomic<int> left_;
  std::atomic<int> calls_{0};
};

class FailedFills : public FaultHandlerTest, public testing::WithParamInterface<int> {};

TEST_P(FailedFills, ComeLateButRight) {
  StoreVaried(0, 8);
  FailIoctl fail(UFFDIO_COPY, GetParam(), 40);  // more than the rounds tried without a pause
  Injected injected(fail);
  Serve();
  ExpectAllHeld();
  EXPECT_TRUE(fail.spent());
  faults_->Settle();
  ExpectNothingStored();
}

TEST_P(FailedFills, OfFirstTouchesComeLateButRight) {
  FailIoctl fail(UFFDIO_ZEROPAGE, GetParam(), 40);
  Injected injected(fail);
  Serve();
  EXPECT_TRUE(memory_.Holds(0, FilledPage(0)));
  EXPECT_TRUE(fail.spent());
}

TEST_P(FailedFills, DoNotStopADrain) {
  StoreVaried(0, 200);
  FailIoctl fail(UFFDIO_COPY, GetParam(), 40);
  Injected injected(fail);
  Serve();
  faults_->Drain();
  ExpectNothingStored();
  ExpectAllHeld();
}

INSTANTIATE_TEST_SUITE_P(Errors, FailedFills, testing::Values(EAGAIN, ENOMEM, EIO),
                         [](const auto& info) {
                           return info.param == EAGAIN   ? "EAGAIN"
                                  : info.param == ENOMEM ? "ENOMEM"
                                                         : "EIO";
                         });

TEST_F(FaultHandlerTest, MoreWaitingThreadsThanItRemembersAreAllAnswered) {
  constexpr size_t kThreads = 160;  // kMaxPending is 128
  StoreVaried(0, kThreads);
  FailIoctl fail(UFFDIO_COPY, EAGAIN, 2000);
  Injected injected(fail);
  Serve();
  std::atomic<size_t> right{0};
  std::vector<std::thread> threads;
  for (size_t page = 0; page < kThreads; ++page) {
    threads.emplace_back([&, page] { right += memory_.Holds(page, expected_.at(page)); });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(right, kThreads);
}

TEST_F(FaultHandlerTest, ADescriptorThatTheProgramMadeBlockingIsServed) {
  StoreVaried(0, 16);
  ASSERT_EQ(fcntl(process_->uffd.fd(), F_SETFL, 0), 0);
  Serve();
  ExpectAllHeld();
}

TEST_F(FaultHandlerTest, TheTokenPageShowsTheTokenWheneverItIsAbsent) {
  process_->token_page = memory_.address(0);
  Serve();
  wire::Token shown;
  std::memcpy(&shown, memory_.data(0), sizeof shown);
  EXPECT_EQ(shown, process_->token);
  ASSERT_EQ(madvise(memory_.data(0), kPageBytes, MADV_DONTNEED), 0);
  std::memcpy(&shown, memory_.data(0), sizeof shown);
  EXPECT_EQ(shown, process_->token);
}

TEST_F(FaultHandlerTest, AFaultIsTimedAndItsChunkNotedAsUsed) {
  Store(0, CompressiblePage(0));
  Serve();
  ExpectAllHeld();
  faults_->Settle();
  EXPECT_EQ(process_->fault_latency.count(), 1u);
  EXPECT_GT(process_->table.Find(ChunkNumber(memory_.address(0)))->last_fault_ns.load(), 0);
}

TEST_F(FaultHandlerTest, StopEndsTheThreadWithFaultsStillWaiting) {
  Store(0, CompressiblePage(0));
  FailIoctl fail(UFFDIO_COPY, EAGAIN, 1 << 30);
  std::thread toucher;
  {
    Injected injected(fail);
    Serve();
    toucher = std::thread([&] { EXPECT_TRUE(memory_.Holds(0, CompressiblePage(0))); });
    while (fail.calls() == 0) std::this_thread::yield();
    faults_->handler().Stop();
    faults_->Join();
  }
  // Somebody else takes over; what the first one had read is asked for again.
  faults_.reset();
  process_->uffd.Wake(memory_.range());
  Serve();
  toucher.join();
}

// A child that maps memory, sends its userfaultfd, and ends when told.
class Subject {
 public:
  Subject() {
    int ends[2];
    ZMEM_CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
    UniqueFd theirs(ends[1]);
    channel_.emplace(UniqueFd(ends[0]));
    pid_ = ForkChild([&] {
      wire::Channel channel(std::move(theirs));
      UniqueFd fd = NewUserfaultfd();
      if (!channel.Send(wire::Userfaultfd{}, fd.get()).ok()) return 1;
      wire::Detach detach;
      channel.Receive(detach, -1).IgnoreError();
      return 0;
    });
    wire::Userfaultfd message;
    ZMEM_CHECK(channel_->Receive(message, -1, &uffd_).ok());
  }
  UniqueFd TakeUserfaultfd() { return std::move(uffd_); }
  int End() {
    ZMEM_CHECK(channel_->Send(wire::Detach{}).ok());
    return Await(pid_);
  }

 private:
  std::optional<wire::Channel> channel_;
  UniqueFd uffd_;
  pid_t pid_;
};

TEST(FaultHandler, NoticesTheEndOfTheAddressSpaceAndTellsOfIt) {
  MonotonicClock clock;
  Mapping memory(1);
  TestStore store;
  Subject subject;  // forked: has the mapping too, at the same addresses
  auto process = std::make_shared<Process>(
      store.store, *store.arena, OrDie(Userfaultfd::Handshake(subject.TakeUserfaultfd())));
  RegisterRange(*process, memory.range());
  StorePage(store, *process, memory.address(0), CompressiblePage(0));
  EXPECT_EQ(subject.End(), 0);
  FaultThread faults(process, clock);
  faults.Drain();
  faults.Join();
  EXPECT_TRUE(faults.gone());
  EXPECT_TRUE(process->gone);
}

}  // namespace
}  // namespace zmem
