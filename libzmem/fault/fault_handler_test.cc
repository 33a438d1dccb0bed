// Pages that are out, and pages never touched, come when they are wanted.
#include "libzmem/fault/fault_handler.h"

#include <poll.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

#include "libzmem/base/cpu_latency.h"
#include "libzmem/fault/fault_handler_fixture.h"

namespace zmem {
namespace {

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

TEST_F(FaultHandlerTest, AStreamGoesOnBeforeItsWindowEnds) {
  constexpr size_t kFault = 130;  // after 0, 1, 6, 15, 32 and 65: brings 128 pages
  constexpr size_t kReached = 200;
  constexpr size_t kWindow = 256;
  for (size_t page = 0; page < memory_.page_count(); ++page) Store(page, CompressiblePage(page));
  Serve();
  auto back = [this] {
    return Count(process_->counters.faults_total) + Count(process_->counters.readahead_pages);
  };
  for (size_t page = 0; page <= kFault; ++page) {
    EXPECT_TRUE(memory_.Holds(page, expected_[page])) << page;
    faults_->AwaitIdle();
  }
  ASSERT_EQ(back(), int64_t{kFault + 1 + 128});
  // As if the thread had come there before the page: it faults, but brings nothing back.
  ASSERT_EQ(madvise(memory_.data(kReached), kPageBytes, MADV_DONTNEED), 0);
  EXPECT_TRUE(memory_.Holds(kReached, PageBytes()));
  faults_->AwaitIdle();
  EXPECT_EQ(back(), int64_t{kReached + 1 + kWindow});
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

TEST_F(FaultHandlerTest, AStreamGoesOnBehindPagesThatAreThere) {
  constexpr size_t kApart = 5;
  StoreVaried(0, kPagesPerChunk);
  Serve();
  for (size_t page = 3; page < kPagesPerChunk; page += kApart) {
    EXPECT_TRUE(memory_.Holds(page, expected_[page]));
  }
  faults_->Settle();
  int64_t scattered = Count(process_->counters.faults_total);
  EXPECT_EQ(Count(process_->counters.readahead_pages), 0);
  ExpectAllHeld();
  faults_->Settle();
  int64_t faults = Count(process_->counters.faults_total);
  EXPECT_EQ(faults + Count(process_->counters.readahead_pages), int64_t{kPagesPerChunk});
  EXPECT_LT(faults - scattered, 20);
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

// By which every program is in a hurry, and every look for the next message long.
class SlowClock final : public Clock {
 public:
  int64_t now_ns() const override { return real_.now_ns() / 50; }

 private:
  MonotonicClock real_;
};

TEST_F(FaultHandlerTest, IdleCpusSleepAgainAlthoughOtherThingsKeepTheThreadAwake) {
  SlowClock clock;
  CpuLatency cpu_latency(clock, {.most_holders = 1, .device = "/dev/null"});
  StoreVaried(0, memory_.page_count());
  faults_.emplace(process_, clock, &cpu_latency);
  // Not in order, which would bring many at a time.
  for (size_t i = 0; i < 512; ++i) {
    size_t page = i * 7 % memory_.page_count();
    EXPECT_TRUE(memory_.Holds(page, expected_[page])) << page;
  }
  faults_->Settle();
  ASSERT_EQ(cpu_latency.stats().holds, 1u);
  int64_t until_ns = clock.now_ns() + 5 * FaultPace::kQuietNs;
  while (cpu_latency.stats().held_ns == 0 && clock.now_ns() < until_ns) {
    faults_->handler().Wake();
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_GT(cpu_latency.stats().held_ns, 0u);
  faults_.reset();
}

TEST_F(FaultHandlerTest, FirstTouchesAreNoPagesThatComeBack) {
  SlowClock clock;
  CpuLatency cpu_latency(clock, {.most_holders = 1, .device = "/dev/null"});
  Store(0, CompressiblePage(0));
  faults_.emplace(process_, clock, &cpu_latency);
  // From the back, since those in order get many at a time.
  for (size_t page = memory_.page_count(); page-- > 1;) {
    EXPECT_TRUE(memory_.Holds(page, PageBytes())) << page;
  }
  faults_.reset();
  EXPECT_EQ(cpu_latency.stats().holds, 0u);
  EXPECT_GT(process_->counters.zero_faults, 128u);
}

// An event that is read while the agent moves pages lets it take those of a mapping that nobody
// manages (process.h): also by a fault thread that looks out for the next message.
TEST_F(FaultHandlerTest, NoMessageIsReadWhileSomebodyElseHoldsTheGate) {
  constexpr int kRounds = 50;
  SlowClock clock;
  CpuLatency cpu_latency(clock, {.most_holders = 1, .device = "/dev/null"});
  StoreVaried(0, memory_.page_count());
  faults_.emplace(process_, clock, &cpu_latency);
  std::vector<size_t> order(memory_.page_count());
  std::iota(order.begin(), order.end(), size_t{0});
  std::shuffle(order.begin(), order.end(), std::mt19937_64(TestSeed()));
  std::atomic<size_t> touched = 0;
  std::atomic<size_t> allowed = 0;
  std::thread program([&] {
    for (size_t page : order) {
      while (touched >= allowed) std::this_thread::yield();
      EXPECT_TRUE(memory_.Holds(page, expected_[page])) << page;
      ++touched;
    }
  });
  auto touch = [&](size_t pages) {
    allowed = std::min(allowed + pages, order.size());
    while (touched < allowed) std::this_thread::yield();
  };
  while (cpu_latency.stats().holds == 0 && touched < order.size() / 2) touch(8);
  std::mt19937_64 random(TestSeed());
  for (int round = 0; round < kRounds; ++round) {
    touch(8);
    // Until the thread looks out, as a rule, and not for so long that it sleeps.
    int64_t until_ns = clock.now_ns() + static_cast<int64_t>(random() % 4000);
    while (clock.now_ns() < until_ns) {
    }
    GateLock lock(process_->gate);
    ++allowed;
    pollfd messages{process_->uffd.fd(), POLLIN, 0};
    int found = sys::Poll(&messages, 1, 10'000);
    EXPECT_EQ(found, 1) << "a message was read, round " << round;
    if (found != 1) break;
  }
  touch(order.size());
  program.join();
  faults_.reset();
  EXPECT_GT(cpu_latency.stats().holds, 0u);
}

}  // namespace
}  // namespace zmem
