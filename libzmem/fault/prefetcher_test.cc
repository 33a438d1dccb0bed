// What a program will need comes back before it is touched, with this process as the program.
#include "libzmem/fault/prefetcher.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <map>
#include <memory>
#include <optional>

#include "libzmem/testing/managed.h"

namespace zmem {
namespace {

using wire::QueryKind;

constexpr size_t kChunks = 4;
constexpr int kMadvGuardInstall = 102;  // Linux 6.13

class PrefetcherTest : public testing::Test {
 protected:
  PrefetcherTest()
      : memory_(kChunks),
        store_({.fat_bytes = kPageBytes / 2, .file_bytes = uint64_t{64} << 20}),
        process_(ProcessOfThisOne(store_)) {
    RegisterRange(*process_, memory_.range());
  }

  // Pages in the pool, with one of `on_disk` in the file if that is not 0.
  void StoreAll(size_t on_disk = 0) {
    for (size_t page = 0; page < memory_.page_count(); ++page) {
      bool fat = on_disk != 0 && page % on_disk == 0;
      expected_[page] = fat ? IncompressiblePage(page) : CompressiblePage(page);
      StorePage(store_, *process_, memory_.address(page), expected_[page]);
      if (fat && page % 64 == 0) {
        ASSERT_TRUE(store_.file->Flush());
      }
    }
    ASSERT_TRUE(store_.file->Flush());
  }
  void Want(size_t first, size_t count) {
    ASSERT_EQ(process_->advice.Take(QueryKind::kWillNeed, memory_.pages(first, count)), 0);
    faults_->handler().Wake();
  }
  size_t Present(size_t first, size_t count) {
    std::vector<wire::PageSet> sets(kChunks);
    EXPECT_EQ(process_->pagemap.ScanPresent(memory_.pages(first, count),
                                            ChunkNumber(memory_.range().start), sets),
              0);
    size_t present = 0;
    for (const wire::PageSet& set : sets) present += set.count();
    return present;
  }
  void ExpectAllHeld() {
    for (const auto& [page, bytes] : expected_) {
      ASSERT_TRUE(memory_.Holds(page, bytes)) << "page " << page;
    }
  }
  uint64_t faults() const { return process_->counters.faults_total; }

  MonotonicClock clock_;
  Mapping memory_;
  TestStore store_;
  std::shared_ptr<Process> process_;
  std::optional<FaultThread> faults_;
  std::map<size_t, PageBytes> expected_;
};

TEST_F(PrefetcherTest, WhatIsWantedComesBackWithoutAFaultAndNothingElseDoes) {
  StoreAll();
  faults_.emplace(process_, clock_);
  constexpr size_t kFirst = kPagesPerChunk - 100;
  constexpr size_t kCount = kPagesPerChunk + 300;
  Want(kFirst, kCount);
  faults_->AwaitIdle();
  EXPECT_EQ(Present(kFirst, kCount), kCount);
  EXPECT_EQ(Present(0, memory_.page_count()), kCount);
  EXPECT_EQ(faults(), 0u);
  for (size_t page = kFirst; page < kFirst + kCount; ++page) {
    ASSERT_TRUE(memory_.Holds(page, expected_[page]));
  }
  EXPECT_EQ(faults(), 0u);
  ExpectAllHeld();
}

TEST_F(PrefetcherTest, PagesOnDiskComeBackToo) {
  StoreAll(3);
  faults_.emplace(process_, clock_);
  Want(0, memory_.page_count());
  faults_->AwaitIdle();
  EXPECT_EQ(Present(0, memory_.page_count()), memory_.page_count());
  EXPECT_EQ(faults(), 0u);
  ExpectAllHeld();
}

TEST_F(PrefetcherTest, WhatDoesNotFitIsPassedOver) {
  StoreAll();
  faults_.emplace(process_, clock_);
  Policy policy;
  policy.limit_bytes = kPageBytes;  // this process has more
  process_->SetPolicy(policy);
  Want(0, memory_.page_count());
  faults_->AwaitIdle();
  EXPECT_EQ(Present(0, memory_.page_count()), 0u);
  process_->SetPolicy({});
  Want(0, memory_.page_count());
  faults_->AwaitIdle();
  EXPECT_EQ(Present(0, memory_.page_count()), memory_.page_count());
}

// The crew's threads bring back parts of a run: behind one that cannot be had altogether, too.
TEST_F(PrefetcherTest, ADamagedPageIsAllThatDoesNotComeBack) {
  StoreAll();
  constexpr size_t kDamaged = 10;  // inside a part
  store_.Damage(EntryOf(*process_, memory_.address(kDamaged)));
  faults_.emplace(process_, clock_);
  Want(0, memory_.page_count());
  faults_->AwaitIdle();
  EXPECT_EQ(process_->counters.stored_pages, 0u);
  EXPECT_EQ(process_->counters.poisoned_pages, 1u);
  expected_.erase(kDamaged);
  ExpectAllHeld();
  EXPECT_EQ(faults(), 0u);
}

// FACTS 11: filling a guard that nobody waits for would take it down.
TEST_F(PrefetcherTest, AGuardStays) {
  StoreAll();
  faults_.emplace(process_, clock_);
  if (madvise(memory_.data(5), kPageBytes, kMadvGuardInstall) != 0) GTEST_SKIP() << "no guards";
  Want(0, 10);
  faults_->AwaitIdle();
  EXPECT_EQ(Present(0, 10), 9u);
}

TEST_F(PrefetcherTest, WhatIsUnmappedIsForgottenAndMovedMemoryStaysKept) {
  StoreAll();
  faults_.emplace(process_, clock_);
  ASSERT_EQ(process_->advice.Take(QueryKind::kKeep, memory_.pages(0, kPagesPerChunk)), 0);
  faults_->handler().Wake();
  faults_->AwaitIdle();
  EXPECT_EQ(Present(0, kPagesPerChunk), kPagesPerChunk);
  memory_.Unmap(0, 64);
  faults_->Settle();
  EXPECT_EQ(process_->advice.kept_bytes(), (kPagesPerChunk - 64) * kPageBytes);
  Mapping target(1);
  RegisterRange(*process_, target.range());
  memory_.Forget(64, 64);
  ASSERT_EQ(mremap(memory_.data(64), 64 * kPageBytes, 64 * kPageBytes,
                   MREMAP_MAYMOVE | MREMAP_FIXED, target.data(0)),
            target.data(0));
  faults_->AwaitIdle();
  EXPECT_TRUE(process_->advice.Keeps(target.pages(0, 64)));
  EXPECT_FALSE(process_->advice.Keeps(memory_.pages(0, 128)));
  EXPECT_EQ(process_->advice.kept_bytes(), (kPagesPerChunk - 64) * kPageBytes);
  faults_.reset();
  process_.reset();
}

}  // namespace
}  // namespace zmem
