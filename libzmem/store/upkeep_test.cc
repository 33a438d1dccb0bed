// Objects move while their pages are decoded, dropped and stored anew, as the fault thread and the
// reclaimer do.
#include "libzmem/store/upkeep.h"

#include <gtest/gtest.h>

#include <random>
#include <thread>
#include <vector>

#include "libzmem/testing/stored_pages.h"

namespace zmem {
namespace {

constexpr Address kFirst = uint64_t{1} << 40;  // nothing is mapped there, and nothing needs to be
constexpr size_t kPages = 16 * kPagesPerChunk;

class UpkeepTest : public testing::Test {
 protected:
  UpkeepTest() : UpkeepTest(TestStore::Options()) {}
  explicit UpkeepTest(const TestStore::Options& options, const Upkeep::Options& upkeep = {})
      : store_(options),
        process_(ProcessOfThisOne(store_)),
        upkeep_(store_.store, clock_, cpu_clock_, upkeep) {}

  static Address address(size_t page) { return kFirst + page * kPageBytes; }
  static PageBytes Content(size_t page, uint64_t version) {
    return CompressiblePage(page + version * kPages);
  }
  void Store(size_t page, uint64_t version, PageStore::Workspace& workspace) {
    PageEntry entry;
    PageBytes bytes = Content(page, version);
    ZMEM_CHECK(store_.store.Put(bytes.bytes, workspace, &entry) == StoreResult::kStored);
    Publish(*process_, address(page), entry);
    process_->table.Find(ChunkNumber(address(page)))->stored_ns = clock_.now_ns();
  }
  // As the fault thread does under the gate. True if the page was stored.
  bool Drop(size_t page) {
    GateLock lock(process_->gate);
    std::shared_ptr<Chunk> chunk = process_->OwnChunk(address(page));
    if (chunk->Load(page % kPagesPerChunk).state() == PageState::kResident) return false;
    process_->Retire(chunk->Replace(page % kPagesPerChunk, PageEntry()));
    return true;
  }
  void ExpectHeld(size_t page, uint64_t version, PageStore::Workspace& workspace) {
    GateLock lock(process_->gate);
    PageBytes bytes;
    ASSERT_TRUE(process_->Decode(EntryOf(*process_, address(page)), bytes.bytes, workspace));
    EXPECT_EQ(bytes, Content(page, version)) << page;
  }
  double density() const {
    Zpool::Stats stats = store_.pool->stats();
    return static_cast<double>(stats.live_bytes) / static_cast<double>(stats.held_bytes);
  }
  void Compact() {
    upkeep_.Run([this] { return std::vector{process_}; }, stop_);
  }

  MonotonicClock clock_;
  ThreadCpuClock cpu_clock_;
  TestStore store_;
  std::shared_ptr<Process> process_;
  Upkeep upkeep_;
  std::atomic<bool> stop_{false};
};

TEST_F(UpkeepTest, SparseSpansAreEmptiedAndEveryPageStaysRight) {
  for (size_t page = 0; page < kPages; ++page) Store(page, 0, store_.workspace);
  for (size_t page = 0; page < kPages; ++page) {
    if (page % 4 != 0) Drop(page);
  }
  EXPECT_LT(density(), 0.5);
  Compact();
  EXPECT_GT(density(), 0.9);
  for (size_t page = 0; page < kPages; page += 4) ExpectHeld(page, 0, store_.workspace);
  Upkeep::Stats stats = upkeep_.stats();
  EXPECT_EQ(stats.compaction_rounds, 1u);
  EXPECT_GT(stats.compacted_objects, 0u);
  EXPECT_GT(stats.compacted_bytes, 0u);
  Compact();
  EXPECT_EQ(upkeep_.stats().compaction_rounds, 1u) << "nothing was to be gained";
  for (size_t page = 0; page < kPages; page += 4) Drop(page);
  EXPECT_EQ(store_.objects(), 0u);
  EXPECT_EQ(process_->counters.held_bytes, 0u);
}

TEST_F(UpkeepTest, WhatForkedRelativesShareStaysWhereItIs) {
  for (size_t page = 0; page < kPages; ++page) Store(page, 0, store_.workspace);
  for (size_t page = 0; page < kPages; ++page) {
    if (page % 4 != 0) Drop(page);
  }
  auto child = std::make_shared<Process>(store_.store, *store_.arena, ReadyUserfaultfd());
  child->table.ShareFrom(process_->table);
  std::vector<PageEntry> before;
  for (size_t page = 0; page < kPages; ++page) before.push_back(EntryOf(*process_, address(page)));
  Compact();
  for (size_t page = 0; page < kPages; ++page) {
    EXPECT_EQ(EntryOf(*process_, address(page)), before[page]);
  }
  child.reset();
  Compact();
  EXPECT_GT(density(), 0.9);
}

// Everything that upkeep does at once: also compresses harder what was stored a moment ago.
class EagerUpkeepTest : public UpkeepTest {
 protected:
  EagerUpkeepTest() : UpkeepTest({}, {.recompress_age_ns = 1, .recompress_cpu_percent = 100}) {}
};

TEST_F(EagerUpkeepTest, PagesThatComeAndGoMeanwhileAreNeverWrong) {
  std::vector<uint64_t> version(kPages, 0);
  for (size_t page = 0; page < kPages; ++page) Store(page, 0, store_.workspace);
  uint64_t seed = TestSeed();
  std::atomic<bool> done{false};
  std::thread program([&] {
    std::mt19937_64 random(seed);
    PageStore::Workspace workspace;
    for (int step = 0; step < 60'000; ++step) {
      size_t page = random() % kPages;
      bool stored = EntryOf(*process_, address(page)).stored();
      if (stored) ExpectHeld(page, version[page], workspace);
      // By turns many go and many come, so that there is something to gain.
      bool growing = step / 10'000 % 2 == 1;
      if (stored && (!growing || random() % 8 == 0)) {
        Drop(page);
      } else if (!stored && growing) {
        Store(page, ++version[page], workspace);
      }
    }
    done = true;
  });
  while (!done) Compact();
  program.join();
  for (size_t page = 0; page < kPages; ++page) {
    if (EntryOf(*process_, address(page)).stored()) {
      ExpectHeld(page, version[page], store_.workspace);
    }
  }
  EXPECT_GT(upkeep_.stats().compaction_rounds, 0u);
  EXPECT_GT(upkeep_.stats().recompressed_objects, 0u);
  for (size_t page = 0; page < kPages; ++page) Drop(page);
  EXPECT_EQ(store_.objects(), 0u);
  EXPECT_EQ(process_->counters.compressed_bytes, 0u);
}

class RecompressionTest : public UpkeepTest {
 protected:
  static constexpr int64_t kSecond = 1'000'000'000;

  // A CPU that takes a while for everything.
  class SlowCpu final : public Clock {
   public:
    int64_t now_ns() const override { return now_ns_ += 1'000'000; }

   private:
    mutable int64_t now_ns_ = 0;
  };

  RecompressionTest() {
    for (size_t page = 0; page < kPages; ++page) Store(page, 0, store_.workspace);
    SetStored(0);
  }
  void SetStored(int64_t ns) {
    for (uint64_t number : process_->table.Numbers()) process_->table.Find(number)->stored_ns = ns;
  }
  void Run(Upkeep& upkeep) {
    upkeep.Run([this] { return std::vector{process_}; }, stop_);
  }
  size_t Recompressed() {
    size_t count = 0;
    for (size_t page = 0; page < kPages; ++page) {
      count += EntryOf(*process_, address(page)).codec() == CodecId::kZstd;
    }
    return count;
  }

  FakeClock time_;
};

TEST_F(RecompressionTest, WhatIsIdleTakesLessRoomAndStaysRight) {
  Upkeep upkeep(store_.store, time_, cpu_clock_,
                {.recompress_age_ns = 10 * kSecond, .recompress_cpu_percent = 100});
  time_.Advance(5 * kSecond);
  Run(upkeep);
  EXPECT_EQ(Recompressed(), 0u) << "nothing is old enough";
  uint64_t before = process_->counters.held_bytes;
  process_->table.Find(ChunkNumber(address(0)))->last_fault_ns = 10 * kSecond;
  for (int look = 0; look < 100 && Recompressed() < kPages - kPagesPerChunk; ++look) {
    time_.Advance(look == 0 ? 6 * kSecond : kSecond / 50);
    Run(upkeep);
  }
  EXPECT_EQ(Recompressed(), kPages - kPagesPerChunk) << "all but the chunk that was wanted";
  EXPECT_LT(process_->counters.held_bytes, before);
  Upkeep::Stats stats = upkeep.stats();
  EXPECT_EQ(stats.recompressed_objects, kPages - kPagesPerChunk);
  EXPECT_GT(stats.recompressed_bytes, 0u);
  EXPECT_GT(stats.recompress_cpu_ns, 0u);
  EXPECT_EQ(store_.pool->stats().live_bytes, process_->counters.compressed_bytes);
  for (size_t page = 0; page < kPages; ++page) ExpectHeld(page, 0, store_.workspace);
  for (size_t page = 0; page < kPages; ++page) Drop(page);
  EXPECT_EQ(store_.objects(), 0u);
  EXPECT_EQ(process_->counters.held_bytes, 0u);
}

TEST_F(RecompressionTest, ItTakesNoMoreCpuTimeThanItMay) {
  SlowCpu cpu;
  Upkeep upkeep(store_.store, time_, cpu, {.recompress_age_ns = 1, .recompress_cpu_percent = 1});
  uint64_t spent_before = 0;
  size_t done_before = 0;
  for (int look = 0; look < 3; ++look) {
    time_.Advance(kSecond / 2);  // pays 5 ms
    Run(upkeep);
    uint64_t spent = upkeep.stats().recompress_cpu_ns - spent_before;
    EXPECT_LE(spent, 8'000'000u);
    EXPECT_GT(Recompressed(), done_before) << "the next look goes on";
    spent_before = upkeep.stats().recompress_cpu_ns;
    done_before = Recompressed();
  }
  EXPECT_LT(done_before, kPages);
}

TEST_F(RecompressionTest, WhatDidNotGetSmallerIsNotTriedAgain) {
  Upkeep upkeep(store_.store, time_, cpu_clock_,
                {.recompress_age_ns = kSecond, .recompress_cpu_percent = 100});
  for (int look = 0; look < 100 && Recompressed() < kPages; ++look) {
    time_.Advance(2 * kSecond);
    Run(upkeep);
  }
  ASSERT_EQ(Recompressed(), kPages);
  uint64_t spent = upkeep.stats().recompress_cpu_ns;
  time_.Advance(kSecond);
  Run(upkeep);
  EXPECT_LT(upkeep.stats().recompress_cpu_ns - spent, 1'000'000u);
}

// The pool takes a quarter of what is stored; the rest goes to the file.
class UpkeepOfAFullPoolTest : public UpkeepTest {
 protected:
  explicit UpkeepOfAFullPoolTest(uint64_t pool_keep_divisor = 0)
      : UpkeepTest({.pool_limit_bytes = uint64_t{4} << 20,
                    .pool_keep_divisor = pool_keep_divisor,
                    .file_bytes = uint64_t{64} << 20,
                    .accept_threshold_percent = 50}) {}

  // Like the reclaimer, which waits for a busy file.
  void StoreWaiting(size_t page, uint64_t version) {
    PageEntry entry;
    PageBytes bytes = Content(page, version);
    StoreResult result;
    while ((result = store_.store.Put(bytes.bytes, store_.workspace, &entry)) ==
           StoreResult::kBusy) {
      ZMEM_CHECK(store_.file->Flush());
    }
    ZMEM_CHECK(result == StoreResult::kStored);
    Publish(*process_, address(page), entry);
    std::shared_ptr<Chunk> chunk = process_->table.Find(ChunkNumber(address(page)));
    chunk->stored_ns = static_cast<int64_t>(page + 1);
  }
  size_t Count(size_t first, size_t count, PageState state) {
    size_t found = 0;
    for (size_t page = first; page < first + count; ++page) {
      found += EntryOf(*process_, address(page)).state() == state;
    }
    return found;
  }
};

TEST_F(UpkeepOfAFullPoolTest, WhatWasStoredFirstIsWrittenBackUntilThePoolTakesPagesAgain) {
  for (size_t page = 0; page < kPages; ++page) StoreWaiting(page, 0);
  EXPECT_TRUE(store_.store.pool_full());
  EXPECT_GT(store_.store.stats().spilled_pages, 0u);
  size_t in_pool = Count(0, kPages, PageState::kInPool);
  // The first chunk was wanted again: it has a second chance.
  process_->table.Find(ChunkNumber(address(0)))->last_fault_ns = kPages + 1;
  // A busy file ends a round early.
  for (int rounds = 0; store_.pool->held_bytes() > store_.store.accept_bytes(); ++rounds) {
    ASSERT_LT(rounds, 1000);
    Compact();
    ASSERT_TRUE(store_.file->Flush());
  }
  EXPECT_LT(Count(0, kPages, PageState::kInPool), in_pool);
  EXPECT_EQ(Count(0, kPagesPerChunk, PageState::kOnDisk), 0u);
  EXPECT_EQ(Count(kPagesPerChunk, kPagesPerChunk, PageState::kInPool), 0u);
  for (size_t page = 0; page < kPages; ++page) ExpectHeld(page, 0, store_.workspace);
  EXPECT_GT(store_.store.stats().written_back_pages, 0u);
  for (size_t page = 0; page < kPages; ++page) Drop(page);
  EXPECT_EQ(store_.objects(), 0u);
  EXPECT_EQ(process_->counters.disk_pages, 0u);
  EXPECT_EQ(process_->counters.disk_bytes, 0u);
  StoreWaiting(0, 1);
  EXPECT_EQ(Count(0, 1, PageState::kInPool), 1u) << "the pool takes pages again";
  Drop(0);
}

// Whose spans are all kept when they are empty.
class UpkeepOfAKeepingPoolTest : public UpkeepOfAFullPoolTest {
 protected:
  UpkeepOfAKeepingPoolTest() : UpkeepOfAFullPoolTest(1) {}
};

TEST_F(UpkeepOfAKeepingPoolTest, WhatIsKeptIsNoReasonToWriteMoreBack) {
  for (size_t page = 0; page < kPages; ++page) StoreWaiting(page, 0);
  for (int rounds = 0; store_.pool->used_bytes() > store_.store.accept_bytes(); ++rounds) {
    ASSERT_LT(rounds, 1000);
    Compact();
    ASSERT_TRUE(store_.file->Flush());
  }
  // A chunk at a time; what else of it was in a span that is not empty yet.
  EXPECT_GT(store_.pool->stats().live_bytes, store_.store.accept_bytes() * 3 / 4);
  for (size_t page = 0; page < kPages; ++page) ExpectHeld(page, 0, store_.workspace);
  for (size_t page = 0; page < kPages; ++page) Drop(page);
}

TEST_F(UpkeepOfAFullPoolTest, SparseSegmentsAreEmptiedWhenTheFileRunsFull) {
  std::vector<uint64_t> version(kPages, 0);
  for (size_t page = 0; page < kPages; ++page) StoreWaiting(page, 0);
  std::mt19937_64 random(TestSeed());
  // Most of each segment's objects go, and others come, until every segment was used.
  for (int rounds = 0; store_.file->stats().cleaned_bytes == 0; ++rounds) {
    ASSERT_LT(rounds, 2000);
    for (int i = 0; i < 200; ++i) {
      size_t page = random() % kPages;
      Drop(page);
      StoreWaiting(page, ++version[page]);
    }
    Compact();
  }
  EXPECT_GT(upkeep_.stats().rewritten_objects, 0u);
  ASSERT_TRUE(store_.file->Flush());
  for (size_t page = 0; page < kPages; ++page) ExpectHeld(page, version[page], store_.workspace);
  for (size_t page = 0; page < kPages; ++page) Drop(page);
  EXPECT_EQ(store_.objects(), 0u);
}

}  // namespace
}  // namespace zmem
