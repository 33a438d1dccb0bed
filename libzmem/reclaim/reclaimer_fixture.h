// This process as a program that is reclaimed. Its memory is arranged so that a survey finds
// nothing eligible but what the test maps for it.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "libzmem/reclaim/reclaimer.h"
#include "libzmem/testing/managed.h"

namespace zmem {

inline constexpr int64_t kSecond = 1'000'000'000;
inline constexpr Policy kPolicy{.cold_age_ns = 30 * kSecond, .scan_interval_ns = 10 * kSecond};
inline const Reclaimer::Options kOptions{.probation_ns = kSecond};

class ReclaimerTest : public testing::Test {
 protected:
  static constexpr size_t kChunks = 6;
  static constexpr size_t kSlabs = 2;

  ReclaimerTest() : ReclaimerTest(TestStore::Options()) {}
  explicit ReclaimerTest(const TestStore::Options& options)
      : store_(options), process_(ProcessOfThisOne(store_)), agent_(*process_) {
    staging_ = BindStaging(*process_, kSlabs);
    memory_ = MapOnlyEligible(*process_, kChunks);
    process_->SetPolicy(kPolicy);
    process_->stat = OrDie(ProcessStat::Open(getpid()));
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

}  // namespace zmem
