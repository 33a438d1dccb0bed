// How much the reclaimer takes: samples first, what the stall budget lets it, what a limit or the
// host wants.
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include <utility>

#include "libzmem/reclaim/reclaimer_fixture.h"
#include "libzmem/testing/fake_accessed_bits.h"

namespace zmem {
namespace {

constexpr size_t kSample = 16;

// A process that does nothing.
class Sleeper {
 public:
  Sleeper() {
    char name[] = "sleep";
    char forever[] = "infinity";
    char* arguments[] = {name, forever, nullptr};
    EXPECT_EQ(posix_spawnp(&pid_, name, nullptr, nullptr, arguments, environ), 0);
  }
  ~Sleeper() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  Sleeper(const Sleeper&) = delete;
  Sleeper& operator=(const Sleeper&) = delete;

  pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = 0;
};

class Policies : public ReclaimerTest {
 protected:
  void Set(const std::function<void(Policy&)>& change) {
    Policy policy = process_->policy();
    change(policy);
    process_->SetPolicy(policy);
  }
  // The reclaimer cannot tell any more that this program does nothing.
  void LookBusy() { process_->stat = ProcessStat(); }
  uint64_t resident_bytes() { return process_->stat.resident_bytes().value(); }
  uint64_t isolated() { return process_->counters.isolated_pages; }
};

TEST_F(Policies, OfABusyProgramASampleIsTakenBeforeTheRest) {
  LookBusy();
  WriteVaried(0, kPagesPerChunk);
  PassUntilStaged();
  EXPECT_EQ(process_->counters.staged_pages, kSample);
  Pass(kSecond + kSecond / 4);
  EXPECT_EQ(process_->counters.staged_pages, kPagesPerChunk);
  EXPECT_EQ(process_->counters.stored_pages, 0u);
  Pass(2 * kSecond);
  EXPECT_EQ(process_->counters.stored_pages, kPagesPerChunk);
  EXPECT_EQ(StagingPages(), 0u);
  ExpectAllHeld();
  ExpectNothingOut();
}

TEST_F(Policies, AChunkWhoseSampleIsWantedStays) {
  LookBusy();
  WriteVaried(0, kPagesPerChunk);
  PassUntilStaged();
  ASSERT_EQ(process_->counters.staged_pages, kSample);
  ExpectAllHeld();  // and so the sample
  faults_->Settle();
  EXPECT_EQ(process_->counters.probe_faults, kSample);
  EXPECT_GE(process_->counters.probe_cost_ns, kSample * ProcessCounters::kWakeUpNs);
  EXPECT_EQ(process_->counters.stall_ns, process_->counters.probe_cost_ns);
  Pass(2 * kPolicy.cold_age_ns - kSecond);
  EXPECT_EQ(isolated(), kSample);
  EXPECT_EQ(StagingPages(), 0u);
}

// Of a program whose touches can be seen.
class SeenTouches : public Policies {
 protected:
  SeenTouches() {
    Reclaimer::Options options = kOptions;
    options.accessed_bits = &bits_;
    reclaimer_.emplace(*process_, agent_, clock_, options);
  }
  // As if the program had just touched all pages of the chunk.
  void SetBits(size_t chunk) {
    bits_.bits[ChunkNumber(memory_->range().start) + chunk].AddRange(0, kPagesPerChunk);
  }
  size_t OutOf(size_t chunk) {
    size_t out = 0;
    size_t first = chunk * kPagesPerChunk;
    for (size_t page = first; page < first + kPagesPerChunk; ++page) out += entry(page).stored();
    return out;
  }

  FakeAccessedBits bits_;
};

TEST_F(SeenTouches, WhatIsOnlyReadStaysAndTheRestGoesWithoutASample) {
  constexpr size_t kHot = 100;
  LookBusy();
  WriteVaried(0, kPagesPerChunk);
  bits_.stuck.AddRange(0, kHot);  // touched again and again
  SetBits(0);
  PassUntilStaged();
  EXPECT_EQ(process_->counters.staged_pages, kPagesPerChunk - kHot);
  Pass(10 * kPolicy.cold_age_ns);
  EXPECT_EQ(process_->counters.stored_pages, kPagesPerChunk - kHot);
  for (size_t page = 0; page < kHot; ++page) EXPECT_FALSE(entry(page).stored()) << page;
  EXPECT_EQ(isolated(), kPagesPerChunk - kHot);
  ExpectAllHeld();
}

TEST_F(SeenTouches, VictimsThatAreTouchedBeforeTheyGoAreSpared) {
  Set([](Policy& policy) { policy.mode = ReclaimMode::kPressure; });
  WriteVaried(0, memory_->page_count());
  Pass(2 * kPolicy.scan_interval_ns);  // what is new is registered
  // All but one chunk, when the first is on its way.
  agent_.before_move = [this] {
    if (agent_.move_commands == 1) SetBits(3);
  };
  constexpr int64_t kWanted = 3 * kPagesPerChunk;
  process_->wanted_pages = kWanted;
  Tick();
  EXPECT_EQ(process_->counters.stored_pages, kWanted);
  // Unless it was the first itself.
  EXPECT_TRUE(OutOf(3) == 0 || process_->counters.spared_pages == 0);
  ExpectAllHeld();
}

TEST_F(SeenTouches, OfManyChunksInABatchThoseThatAreLeftGo) {
  constexpr size_t kPages = 8;
  Set([](Policy& policy) { policy.mode = ReclaimMode::kPressure; });
  for (size_t chunk = 0; chunk < kChunks; ++chunk) WriteVaried(chunk * kPagesPerChunk, kPages);
  for (size_t chunk = 0; chunk < kChunks; ++chunk) SetBits(chunk);
  Pass(2 * kPolicy.scan_interval_ns);
  for (size_t chunk = 0; chunk < kChunks; ++chunk) SetBits(chunk);
  bits_.on_seen_cleared = [this] {
    for (size_t chunk : {2, 3}) SetBits(chunk);
  };
  constexpr int64_t kWanted = (kChunks - 2) * kPages;
  process_->wanted_pages = kWanted;
  Tick();
  EXPECT_EQ(process_->counters.stored_pages, kWanted);
  for (size_t chunk = 0; chunk < kChunks; ++chunk) {
    EXPECT_EQ(OutOf(chunk), chunk == 2 || chunk == 3 ? 0 : kPages) << chunk;
  }
  ExpectAllHeld();
}

TEST_F(SeenTouches, WhereEverythingIsTouchedPagesGoAllTheSame) {
  Set([](Policy& policy) { policy.mode = ReclaimMode::kPressure; });
  WriteVaried(0, memory_->page_count());
  Pass(2 * kPolicy.scan_interval_ns);
  agent_.before_move = [this] {
    for (size_t chunk = 0; chunk < kChunks; ++chunk) SetBits(chunk);
  };
  constexpr int64_t kWanted = 4 * kPagesPerChunk;
  process_->wanted_pages = kWanted;
  Tick();
  EXPECT_GE(process_->counters.stored_pages, kWanted);
  EXPECT_GT(process_->counters.spared_pages, 0u);
  ExpectAllHeld();
}

TEST_F(Policies, AStallTargetOfZeroLetsNothingOut) {
  Set([](Policy& policy) { policy.stall_target_percent = 0; });
  WriteVaried(0, kPagesPerChunk);
  Pass(10 * kPolicy.cold_age_ns);
  EXPECT_EQ(isolated(), 0u);
  EXPECT_EQ(process_->counters.cold_pages, kPagesPerChunk);
  Set([](Policy& policy) { policy.stall_target_percent = 1; });
  PassUntilStaged();
}

TEST_F(Policies, StallsAboveTheTargetSlowItDown) {
  Pass(kSecond);
  uint64_t rate = process_->counters.rate_pages_per_s;
  process_->counters.stall_ns += kSecond / 2;
  Pass(kPolicy.scan_interval_ns);
  EXPECT_GT(process_->counters.stall_ppm, 10'000u);
  EXPECT_LT(process_->counters.rate_pages_per_s, rate);
  EXPECT_GT(process_->counters.rate_cuts, 0u);
}

TEST_F(Policies, ASleepingProgramIsScannedLessAndLessOften) {
  Sleeper sleeper;
  process_->stat = OrDie(ProcessStat::Open(sleeper.pid()));
  WriteVaried(0, kPagesPerChunk);
  Pass(10 * kPolicy.cold_age_ns);
  EXPECT_EQ(process_->counters.stored_pages, kPagesPerChunk);  // no later than of another
  auto scans_in = [this](int64_t ns) {
    Epoch before = process_->epoch;
    Pass(ns);
    return EpochsBetween(before, process_->epoch);
  };
  constexpr int kIntervals = 60;
  unsigned scans = scans_in(kIntervals * kPolicy.scan_interval_ns);
  EXPECT_GT(scans, 0u);
  EXPECT_LT(scans, kIntervals / 6u);
  Set([](Policy& policy) { policy.cold_age_ns *= 2; });
  EXPECT_EQ(scans_in(kPolicy.scan_interval_ns), 1u);
  LookBusy();
  EXPECT_EQ(scans_in(5 * kPolicy.scan_interval_ns), 5u);
  ExpectAllHeld();
}

TEST_F(Policies, PagesThatStayedInGoOutBeforeThoseThatCameBack) {
  WriteVaried(0, 2 * kPagesPerChunk);
  EvictAll();
  for (size_t page = 0; page < kPagesPerChunk; ++page) memory_->Holds(page, expected_[page]);
  Pass(3 * kPolicy.scan_interval_ns);
  for (size_t page = kPagesPerChunk; page < 2 * kPagesPerChunk; ++page) {
    memory_->Holds(page, expected_[page]);
  }
  faults_->Settle();
  Set([](Policy& policy) { policy.mode = ReclaimMode::kPressure; });
  process_->wanted_pages = kPagesPerChunk;
  Tick();
  EXPECT_EQ(process_->wanted_pages, 0);
  EXPECT_EQ(process_->counters.stored_pages, kPagesPerChunk);
  for (size_t page = 0; page < kPagesPerChunk; ++page) {
    ASSERT_TRUE(entry(page).stored()) << page;
    ASSERT_FALSE(entry(kPagesPerChunk + page).stored()) << page;
  }
  ExpectAllHeld();
}

TEST_F(Policies, WhatAStreamHasPassedGoesBeforeWhatIsOld) {
  constexpr size_t kPassed = 128;
  WriteVaried(0, 2 * kPagesPerChunk);
  EvictAll();
  ExpectAllHeld();
  Pass(3 * kPolicy.scan_interval_ns);
  Set([](Policy& policy) { policy.mode = ReclaimMode::kPressure; });
  size_t first = kPagesPerChunk - kPassed / 2;  // in two chunks
  process_->passed.Add(memory_->pages(first, kPassed), clock_.now_ns());
  process_->wanted_pages = kPassed;
  Tick();
  EXPECT_EQ(process_->counters.stored_pages, kPassed);
  for (size_t page = first; page < first + kPassed; ++page) {
    ASSERT_TRUE(entry(page).stored()) << page;
  }
  ExpectAllHeld();
}

TEST_F(Policies, UnderPressureNothingGoesOutUnlessItIsWanted) {
  Set([](Policy& policy) { policy.mode = ReclaimMode::kPressure; });
  WriteVaried(0, memory_->page_count());
  Pass(10 * kPolicy.cold_age_ns);
  EXPECT_EQ(isolated(), 0u);
  EXPECT_EQ(process_->counters.cold_pages, memory_->page_count()) << "but it is known what could";
  process_->wanted_pages = int64_t{1} << 30;
  Tick();
  EXPECT_EQ(process_->counters.stored_pages, memory_->page_count());
  EXPECT_EQ(process_->wanted_pages, 0) << "what cannot be had is not asked for again";
  ExpectAllHeld();
}

TEST_F(Policies, WithLimitsOnlyNothingGoesOutWithoutOne) {
  Set([](Policy& policy) { policy.mode = ReclaimMode::kLimitOnly; });
  WriteVaried(0, kPagesPerChunk);
  Pass(10 * kPolicy.cold_age_ns);
  EXPECT_EQ(isolated(), 0u);
}

TEST_F(Policies, HavingFoundEnoughRoomIsNoReasonToWait) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer's own memory grows beside the program's, in this process";
#endif
  for (size_t page = 0; page < memory_->page_count(); ++page) Write(page, FilledPage(page));
  Set([this](Policy& policy) { policy.limit_bytes = 2 * resident_bytes(); });
  ASSERT_TRUE(reclaimer_->MakeRoom().ok());
  EXPECT_EQ(isolated(), 0u);
  Set([this](Policy& policy) { policy.limit_bytes = resident_bytes() - (1 << 20); });
  ASSERT_TRUE(reclaimer_->MakeRoom().ok());
  EXPECT_GE(process_->counters.stored_pages, (1u << 20) / kPageBytes);
  EXPECT_FALSE(process_->nothing_to_take);
}

// The fault thread fills pages in while the reclaimer reads how much room there is.
class FillDuringRead : public sys::FailureInjector {
 public:
  explicit FillDuringRead(Process& process) : process_(process) { sys::SetFailureInjector(this); }
  ~FillDuringRead() override { sys::SetFailureInjector(nullptr); }

  static constexpr size_t kPages = 1 << 20;

  int ErrnoFor(sys::Call /*call*/, uint64_t /*detail*/) override {
    if (!std::exchange(has_filled_, true)) process_.TakeRoom(kPages);
    return 0;
  }

 private:
  Process& process_;
  bool has_filled_ = false;
};

TEST_F(Policies, WhatIsFilledInWhileTheRoomIsReadIsTakenOffIt) {
  constexpr int64_t kLimitPages = int64_t{1} << 30;
  Set([](Policy& policy) { policy.limit_bytes = uint64_t{kLimitPages} * kPageBytes; });
  int64_t before = process_->RefreshRoom();
  FillDuringRead filler(*process_);
  constexpr auto kFilled = static_cast<int64_t>(FillDuringRead::kPages);
  EXPECT_LT(process_->RefreshRoom(), before - kFilled / 2);
  EXPECT_LT(process_->room_pages, before - kFilled / 2);
}

TEST_F(Policies, AResidentLimitIsHeldWhateverTheStallTarget) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer's own memory grows beside the program's, in this process";
#endif
  constexpr uint64_t kExcess = 1 << 20;
  Set([](Policy& policy) { policy.mode = ReclaimMode::kLimitOnly; });
  // Nothing that the pool would have to hold, which lies in this process too.
  for (size_t page = 0; page < memory_->page_count(); ++page) Write(page, FilledPage(page));
  uint64_t limit = resident_bytes() - kExcess;
  Set([limit](Policy& policy) {
    policy.limit_bytes = limit;
    policy.stall_target_percent = 0;
  });
  Pass(kSecond);
  EXPECT_LE(resident_bytes(), limit);
  EXPECT_GE(process_->counters.stored_pages, kExcess / kPageBytes);
  EXPECT_LT(process_->counters.stored_pages, memory_->page_count()) << "not more than needed";
  EXPECT_GE(process_->counters.max_overshoot_bytes, kExcess / 2);
  // What comes back pushes others out.
  for (int round = 0; round < 3; ++round) {
    for (const auto& [page, bytes] : expected_) {
      ASSERT_TRUE(memory_->Holds(page, bytes)) << page;
      if (page % 64 == 0) Pass(kSecond);
    }
    EXPECT_LE(resident_bytes(), limit);
  }
}

}  // namespace
}  // namespace zmem
