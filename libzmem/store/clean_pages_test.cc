#include "libzmem/store/clean_pages.h"

#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <thread>
#include <vector>

#include "libzmem/testing/stored_pages.h"

namespace zmem {
namespace {

constexpr Address kFirst = uint64_t{1} << 40;
constexpr size_t kPages = 4 * kPagesPerChunk;

Address address(size_t page) { return kFirst + page * kPageBytes; }

class CleanPagesTest : public testing::Test {
 protected:
  CleanPagesTest() : CleanPagesTest({.clean_pages_percent = 10}) {}
  explicit CleanPagesTest(const TestStore::Options& options) : store_(options) {}

  PageEntry Put(size_t page, uint64_t version = 0) {
    PageEntry entry;
    ZMEM_CHECK(store_.store.Put(CompressiblePage(page + version * kPages).bytes, store_.workspace,
                                &entry) == StoreResult::kStored);
    return entry;
  }
  bool Keep(size_t page, PageEntry entry) {
    return clean_.Keep(address(page), entry, CompressiblePage(page).bytes);
  }
  std::optional<PageEntry> Reuse(size_t page, uint64_t version = 0) {
    return clean_.Reuse(address(page), CompressiblePage(page + version * kPages).bytes);
  }
  void ExpectNothingKept() {
    EXPECT_EQ(store_.store.clean.pages.load(), 0u);
    EXPECT_EQ(store_.store.clean.object_bytes.load(), 0u);
    EXPECT_EQ(store_.objects(), 0u);
  }

  TestStore store_;
  CleanPages clean_{store_.store};
};

TEST_F(CleanPagesTest, AnUnchangedPageGetsItsEntryBack) {
  PageEntry entry = Put(7);
  ASSERT_TRUE(Keep(7, entry));
  EXPECT_EQ(store_.store.clean.pages.load(), 1u);
  EXPECT_EQ(store_.store.clean.object_bytes.load(), entry.object_bytes());
  EXPECT_EQ(Reuse(7), entry);
  EXPECT_EQ(store_.store.clean.reused.load(), 1u);
  EXPECT_FALSE(Reuse(7)) << "it has only one owner";
  store_.store.Release(entry);
  ExpectNothingKept();
}

TEST_F(CleanPagesTest, TheBooksOfAChunkGoWithItsLastForm) {
  uint64_t before = store_.store.clean.metadata_bytes.load();
  ASSERT_TRUE(Keep(7, Put(7)));
  ASSERT_TRUE(Keep(8, Put(8)));
  uint64_t of_one_chunk = store_.store.clean.metadata_bytes.load() - before;
  EXPECT_GT(of_one_chunk, 0u);
  store_.store.Release(*Reuse(7));
  EXPECT_EQ(store_.store.clean.metadata_bytes.load(), before + of_one_chunk);
  EXPECT_FALSE(Reuse(8, 1));
  EXPECT_EQ(store_.store.clean.metadata_bytes.load(), before);
  ExpectNothingKept();
}

TEST_F(CleanPagesTest, AChangedPageGetsNothingAndItsFormIsGivenUp) {
  ASSERT_TRUE(Keep(7, Put(7)));
  EXPECT_FALSE(Reuse(7, 1));
  EXPECT_EQ(store_.store.clean.changed.load(), 1u);
  ExpectNothingKept();
}

TEST_F(CleanPagesTest, OneChangedByteIsAChange) {
  ASSERT_TRUE(Keep(7, Put(7)));
  PageBytes page = CompressiblePage(7);
  page.bytes[kPageBytes - 1] ^= std::byte{1};
  EXPECT_FALSE(clean_.Reuse(address(7), page.bytes));
}

TEST_F(CleanPagesTest, AnotherPageWithTheSameBytesGetsNothing) {
  ASSERT_TRUE(Keep(7, Put(7)));
  EXPECT_FALSE(clean_.Reuse(address(7 + kPagesPerChunk), CompressiblePage(7).bytes));
}

TEST_F(CleanPagesTest, WhatTakesNoRoomOrTooMuchIsNotKept) {
  EXPECT_FALSE(Keep(1, PageEntry::SameFilled(*PackWord(3))));
  PageEntry raw = store_.store.PutRaw(CompressiblePage(2).bytes);
  EXPECT_FALSE(Keep(2, raw));
  store_.store.Release(raw);
}

TEST_F(CleanPagesTest, ANewFormTakesTheOldOnesPlace) {
  ASSERT_TRUE(Keep(7, Put(7, 1)));
  ASSERT_TRUE(Keep(7, Put(7)));
  EXPECT_EQ(store_.objects(), 1u);
  EXPECT_TRUE(Reuse(7));
}

TEST_F(CleanPagesTest, DroppedRangesAreGivenUp) {
  for (size_t page = 0; page < kPages; ++page) ASSERT_TRUE(Keep(page, Put(page)));
  clean_.Drop({address(10), address(kPagesPerChunk + 10)});
  EXPECT_EQ(store_.objects(), kPages - kPagesPerChunk);
  EXPECT_TRUE(Reuse(9));
  EXPECT_FALSE(Reuse(10));
  EXPECT_FALSE(Reuse(kPagesPerChunk + 9));
  EXPECT_TRUE(Reuse(kPagesPerChunk + 10));
  clean_.Drop({0, uint64_t{1} << 47});  // more chunks than there are forms of
  EXPECT_EQ(store_.objects(), 2u) << "those that were reused";
  EXPECT_EQ(store_.store.clean.pages.load(), 0u);
}

TEST_F(CleanPagesTest, WhatIsUnwantedIsGivenUp) {
  PageEntry wanted = Put(1);
  ASSERT_TRUE(Keep(1, wanted));
  ASSERT_TRUE(Keep(2, Put(2)));
  clean_.DropIf([wanted](PageEntry entry) { return entry != wanted; });
  EXPECT_EQ(store_.objects(), 1u);
  EXPECT_EQ(Reuse(1), wanted);
}

TEST_F(CleanPagesTest, WhatIsOldIsGivenUp) {
  ASSERT_TRUE(Keep(0, Put(0)));
  clean_.Age();
  ASSERT_TRUE(Keep(kPagesPerChunk, Put(kPagesPerChunk)));
  EXPECT_EQ(store_.objects(), 2u) << "kept since the last call but one";
  clean_.Age();
  EXPECT_EQ(store_.objects(), 1u);
  EXPECT_TRUE(Reuse(kPagesPerChunk));
}

TEST_F(CleanPagesTest, NothingIsKeptWhileDisabled) {
  ASSERT_TRUE(Keep(1, Put(1)));
  clean_.set_enabled(false);
  ExpectNothingKept();
  PageEntry entry = Put(2);
  EXPECT_FALSE(Keep(2, entry));
  clean_.set_enabled(true);
  EXPECT_TRUE(Keep(2, entry));
}

TEST_F(CleanPagesTest, AProgramThatChangesAllItsPagesGetsFewKept) {
  size_t kept = 0;
  constexpr size_t kRounds = 2000;
  for (size_t round = 0; round < kRounds; ++round) {
    PageEntry entry = Put(1);
    if (Keep(1, entry)) {
      ++kept;
      EXPECT_FALSE(Reuse(1, 1));
    } else {
      store_.store.Release(entry);
    }
  }
  EXPECT_LT(kept, kRounds / 8);
  EXPECT_GT(kept, kRounds / 32) << "it may change its ways";
  for (size_t round = 0; round < kRounds; ++round) {
    PageEntry entry = Put(1);
    if (Keep(1, entry)) Reuse(1);
    store_.store.Release(entry);
  }
  PageEntry entry = Put(1);
  EXPECT_TRUE(Keep(1, entry)) << "and then is believed";
  ASSERT_TRUE(Reuse(1));
  store_.store.Release(entry);
  ExpectNothingKept();
}

// What the pool has no room for otherwise takes the place of spare objects.
class FullPoolTest : public CleanPagesTest {
 protected:
  FullPoolTest()
      : CleanPagesTest({.pool_limit_bytes = uint64_t{4} << 20, .clean_pages_percent = 100}) {}
};

TEST_F(FullPoolTest, SpareObjectsAreTheFirstToGo) {
  std::vector<PageEntry> entries;
  PageEntry entry;
  auto put = [&] {
    return store_.store.Put(CompressiblePage(entries.size()).bytes, store_.workspace, &entry) ==
           StoreResult::kStored;
  };
  uint64_t nearly_full = store_.pool->limit_bytes() / 10 * 9;
  while (store_.pool->held_bytes() < nearly_full && put()) entries.push_back(entry);
  ASSERT_GT(entries.size(), 100u);
  for (size_t page = 0; page < entries.size(); ++page) {
    ASSERT_TRUE(clean_.Keep(address(page), entries[page], CompressiblePage(page).bytes));
  }
  EXPECT_EQ(store_.objects(), entries.size());
  size_t before = entries.size();
  entries.clear();
  while (put()) entries.push_back(entry);
  EXPECT_GE(entries.size(), before);
  EXPECT_EQ(store_.store.clean.pages.load(), 0u);
  EXPECT_FALSE(clean_.Keep(address(0), entries[0], CompressiblePage(0).bytes)) << "it is full";
  for (PageEntry each : entries) store_.store.Release(each);
  ExpectNothingKept();
}

TEST_F(CleanPagesTest, WhereThereIsNoRoomAStreamsFormsReplaceTheOldest) {
  // Chunks that come and go leave places behind among those to be given up.
  for (size_t round = 0; round < 1000; ++round) {
    size_t chunk_page = round % 3 * kPagesPerChunk;
    ASSERT_TRUE(Keep(chunk_page, Put(chunk_page)));
    store_.store.Release(*Reuse(chunk_page));
  }
  ExpectNothingKept();
  size_t page = 0;
  while (true) {
    PageEntry entry = Put(page);
    if (!Keep(page, entry)) {
      store_.store.Release(entry);
      break;
    }
    ++page;
  }
  ASSERT_GT(page, 2 * kPagesPerChunk);
  uint64_t full_bytes = store_.store.clean.object_bytes;
  for (size_t more = 0; more < kPagesPerChunk; ++more, ++page) {
    ASSERT_TRUE(clean_.Keep(address(page), Put(page), CompressiblePage(page).bytes,
                            CleanPages::Return::kInStream));
  }
  EXPECT_LE(store_.store.clean.object_bytes, full_bytes + kPageBytes);
  EXPECT_FALSE(Reuse(0));
  for (size_t last = page - kPagesPerChunk; last < page; ++last) {
    std::optional<PageEntry> entry = Reuse(last);
    ASSERT_TRUE(entry) << last;
    store_.store.Release(*entry);
  }
  clean_.set_enabled(false);
  ExpectNothingKept();
}

class DiskTest : public CleanPagesTest {
 protected:
  DiskTest()
      : CleanPagesTest(
            {.pool_limit_bytes = 0, .file_bytes = uint64_t{8} << 20, .clean_pages_percent = 10}) {}
};

TEST_F(DiskTest, APageOnDiskIsKnownByItsHash) {
  PageEntry entry = Put(3);
  ASSERT_EQ(entry.state(), PageState::kOnDisk);
  ASSERT_TRUE(Keep(3, entry));
  EXPECT_EQ(store_.store.clean.object_bytes.load(), 0u) << "it takes no memory";
  EXPECT_EQ(Reuse(3), entry);
  ASSERT_TRUE(Keep(3, entry));
  EXPECT_FALSE(Reuse(3, 1));
  ExpectNothingKept();
}

// As the fault thread, the reclaimer, the housekeeper and a put that needs room do it at once.
TEST_F(CleanPagesTest, ThreadsMayDoAllOfItAtOnce) {
  std::atomic<bool> stop{false};
  uint64_t seed = std::random_device{}();
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
  auto worker = [&](uint64_t number) {
    PageStore::Workspace workspace;
    std::mt19937_64 random(seed + number);
    while (!stop.load(std::memory_order_relaxed)) {
      size_t page = random() % 64 * 30;
      PageBytes bytes = CompressiblePage(page);
      if (std::optional<PageEntry> entry = clean_.Reuse(address(page), bytes.bytes)) {
        PageBytes found;
        ASSERT_TRUE(store_.store.Get(*entry, found.bytes, workspace));
        ASSERT_EQ(found, bytes);
        store_.store.Release(*entry);
      }
      PageEntry entry;
      ASSERT_EQ(store_.store.Put(bytes.bytes, workspace, &entry), StoreResult::kStored);
      if (!clean_.Keep(address(page), entry, bytes.bytes)) store_.store.Release(entry);
    }
  };
  std::vector<std::thread> threads;
  for (uint64_t number = 0; number < 2; ++number) threads.emplace_back(worker, number);
  std::mt19937_64 random(seed + 2);
  for (int round = 0; round < 3000; ++round) {
    switch (random() % 5) {
      case 0:
        clean_.Age();
        break;
      case 1:
        clean_.Drop({address(0), address(random() % kPages + 1)});
        break;
      case 2:
        clean_.DropIf([](PageEntry entry) { return entry.object_bytes() % 2 == 0; });
        break;
      case 3:
        store_.store.GiveUpSpare();
        break;
      default:
        clean_.set_enabled(random() % 2 == 0);
    }
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  clean_.set_enabled(false);
  ExpectNothingKept();
}

}  // namespace
}  // namespace zmem
