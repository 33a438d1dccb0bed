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
  UpkeepTest() : process_(ProcessOfThisOne(store_)), upkeep_(store_.store, clock_, {}) {}

  static Address address(size_t page) { return kFirst + page * kPageBytes; }
  static PageBytes Content(size_t page, uint64_t version) {
    return CompressiblePage(page + version * kPages);
  }
  void Store(size_t page, uint64_t version, PageStore::Workspace& workspace) {
    PageEntry entry;
    PageBytes bytes = Content(page, version);
    ZMEM_CHECK(store_.store.Put(bytes.bytes, workspace, &entry) == StoreResult::kStored);
    Publish(*process_, address(page), entry);
  }
  // As the fault thread does under the gate. True if the page was stored.
  bool Drop(size_t page) {
    GateLock lock(process_->gate);
    std::shared_ptr<Chunk> chunk = process_->OwnChunk(address(page));
    PageEntry entry = chunk->Load(page % kPagesPerChunk);
    if (entry.state() == PageState::kResident) return false;
    while (!chunk->Transition(page % kPagesPerChunk, entry, PageEntry())) {
    }
    process_->Retire(entry);
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

TEST_F(UpkeepTest, PagesThatComeAndGoMeanwhileAreNeverWrong) {
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
  for (size_t page = 0; page < kPages; ++page) Drop(page);
  EXPECT_EQ(store_.objects(), 0u);
  EXPECT_EQ(process_->counters.compressed_bytes, 0u);
}

}  // namespace
}  // namespace zmem
