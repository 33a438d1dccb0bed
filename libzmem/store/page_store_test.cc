#include "libzmem/store/page_store.h"

#include <gtest/gtest.h>

#include <optional>
#include <thread>

#include "libzmem/testing/stored_pages.h"

namespace zmem {
namespace {

// A word too large for an entry.
constexpr uint64_t kLargeWord = 0x3ff1000000000001;

struct PageStoreTest : testing::Test {
  PageEntry Put(const PageBytes& page) {
    PageEntry entry;
    EXPECT_EQ(all_.store.Put(page.bytes, all_.workspace, &entry), StoreResult::kStored);
    return entry;
  }
  void ExpectComesBack(PageEntry entry, const PageBytes& page) {
    PageBytes got;
    ASSERT_TRUE(all_.store.Get(entry, got.bytes, all_.workspace));
    EXPECT_EQ(got, page);
  }
  TestStore all_;
};

TEST_F(PageStoreTest, ACompressiblePageTakesLessAndComesBack) {
  PageBytes page = CompressiblePage(1);
  PageEntry entry = Put(page);
  EXPECT_EQ(entry.state(), PageState::kInPool);
  EXPECT_EQ(entry.codec(), CodecId::kLz4);
  EXPECT_LT(entry.object_bytes(), kPageBytes / 2);
  EXPECT_EQ(all_.objects(), 1u);
  ExpectComesBack(entry, page);
  all_.store.Release(entry);
  EXPECT_EQ(all_.objects(), 0u);
}

TEST_F(PageStoreTest, ASameFilledPageTakesNothing) {
  for (uint64_t word : {uint64_t{0}, ~uint64_t{0}, uint64_t{0x0101010101010101}, uint64_t{42}}) {
    PageEntry entry = Put(FilledPage(word));
    EXPECT_EQ(entry.state(), PageState::kSameFilled);
    ExpectComesBack(entry, FilledPage(word));
    all_.store.Release(entry);
  }
  EXPECT_EQ(all_.objects(), 0u);
}

TEST_F(PageStoreTest, AWordTooLargeForAnEntryTakesEightBytesOfThePool) {
  PageEntry entry = Put(FilledPage(kLargeWord));
  EXPECT_EQ(entry.state(), PageState::kInPool);
  EXPECT_EQ(entry.codec(), CodecId::kSameWord);
  EXPECT_EQ(entry.object_bytes(), 8u);
  ExpectComesBack(entry, FilledPage(kLargeWord));
  all_.store.Release(entry);
  EXPECT_EQ(all_.objects(), 0u);
}

TEST_F(PageStoreTest, SameFilledPagesAreCompressedWhenThatIsSwitchedOff) {
  PageStore store(*all_.pool,
                  {.compressor = FindCompressor("lz4"), .same_filled_pages_enabled = false});
  PageEntry entry;
  ASSERT_EQ(store.Put(FilledPage(0).bytes, all_.workspace, &entry), StoreResult::kStored);
  EXPECT_EQ(entry.codec(), CodecId::kLz4);
  ExpectComesBack(entry, FilledPage(0));
}

TEST_F(PageStoreTest, AnIncompressiblePageIsRefusedAndCounted) {
  PageEntry entry;
  EXPECT_EQ(all_.store.Put(IncompressiblePage(1).bytes, all_.workspace, &entry),
            StoreResult::kIncompressible);
  EXPECT_EQ(all_.store.stats().incompressible_rejects, 1u);
  EXPECT_EQ(all_.store.stats().pool_full_rejects, 0u);
  EXPECT_EQ(all_.objects(), 0u);
}

TEST_F(PageStoreTest, AnObjectAsLargeAsAllowedIsTakenAndOneByteMoreIsNot) {
  PageBytes page = CompressiblePage(3);
  size_t bytes = Put(page).object_bytes();
  PageEntry entry;
  PageStore exact(*all_.pool, {.compressor = FindCompressor("lz4"), .fat_bytes = bytes});
  EXPECT_EQ(exact.Put(page.bytes, all_.workspace, &entry), StoreResult::kStored);
  PageStore smaller(*all_.pool, {.compressor = FindCompressor("lz4"), .fat_bytes = bytes - 1});
  EXPECT_EQ(smaller.Put(page.bytes, all_.workspace, &entry), StoreResult::kIncompressible);
}

TEST_F(PageStoreTest, AFullPoolRefusesButTakesRawPagesThatHaveNoOtherPlace) {
  TestStore full({.pool_limit_bytes = 64 * 1024});
  std::vector<PageEntry> stored;
  StoreResult result = StoreResult::kStored;
  PageEntry entry;
  for (uint64_t key = 0; result == StoreResult::kStored; ++key) {
    ASSERT_LT(key, 1000u);
    result = full.store.Put(CompressiblePage(key).bytes, full.workspace, &entry);
    if (result == StoreResult::kStored) stored.push_back(entry);
  }
  EXPECT_EQ(result, StoreResult::kPoolFull);
  EXPECT_EQ(full.store.stats().pool_full_rejects, 1u);
  EXPECT_EQ(full.objects(), stored.size());
  PageBytes raw = IncompressiblePage(5);
  PageEntry kept = full.store.PutRaw(raw.bytes);
  EXPECT_EQ(kept.codec(), CodecId::kRaw);
  PageBytes got;
  ASSERT_TRUE(full.store.Get(kept, got.bytes, full.workspace));
  EXPECT_EQ(got, raw);
  // Same-filled pages need no room; words too large for an entry do.
  EXPECT_EQ(full.store.Put(FilledPage(0).bytes, full.workspace, &entry), StoreResult::kStored);
  for (PageEntry object : stored) full.store.Release(object);
  full.store.Release(kept);
  EXPECT_EQ(full.objects(), 0u);
  EXPECT_EQ(full.store.Put(CompressiblePage(0).bytes, full.workspace, &entry),
            StoreResult::kStored);
}

class EveryCodec : public testing::TestWithParam<std::string_view> {};

TEST_P(EveryCodec, TellsADamagedObjectFromAWholeOne) {
  TestStore all({.codec = GetParam()});
  PageBytes page = CompressiblePage(9);
  PageEntry entry;
  ASSERT_EQ(all.store.Put(page.bytes, all.workspace, &entry), StoreResult::kStored);
  PageBytes got;
  ASSERT_TRUE(all.store.Get(entry, got.bytes, all.workspace));
  EXPECT_EQ(got, page);
  all.Damage(entry);
  EXPECT_FALSE(all.store.Get(entry, got.bytes, all.workspace));
}

INSTANTIATE_TEST_SUITE_P(Codecs, EveryCodec, testing::ValuesIn(CodecNames()),
                         [](const auto& info) { return std::string(info.param); });

TEST_F(PageStoreTest, EveryPageMayHaveACodecOfItsOwn) {
  std::vector<std::pair<PageEntry, PageBytes>> stored;
  for (std::string_view name : CodecNames()) {
    const Compressor* compressor = FindCompressor(name);
    PageBytes page = CompressiblePage(stored.size());
    PageEntry entry;
    ASSERT_EQ(all_.store.Put(page.bytes, all_.workspace, &entry, compressor), StoreResult::kStored);
    EXPECT_EQ(entry.codec(), compressor->id());
    stored.emplace_back(entry, page);
  }
  for (const auto& [entry, page] : stored) ExpectComesBack(entry, page);
}

TEST_F(PageStoreTest, WhatIsIncompressibleDependsOnTheCodec) {
  // Random letters: nothing repeats, so only an entropy coder makes them smaller.
  PageBytes page = IncompressiblePage(1);
  for (std::byte& byte : page.bytes) byte = std::byte{'a'} | (byte & std::byte{15});
  const Compressor* zstd = FindCompressor("zstd");
  EXPECT_FALSE(all_.store.IsCompressible(page.bytes, all_.workspace));
  EXPECT_TRUE(all_.store.IsCompressible(page.bytes, all_.workspace, zstd));
  PageEntry entry;
  EXPECT_EQ(all_.store.Put(page.bytes, all_.workspace, &entry), StoreResult::kIncompressible);
  ASSERT_EQ(all_.store.Put(page.bytes, all_.workspace, &entry, zstd), StoreResult::kStored);
  ExpectComesBack(entry, page);
}

TEST_F(PageStoreTest, EntriesThatMakeNoSenseAreDamagedObjects) {
  PageBytes page;
  PageEntry object = Put(CompressiblePage(1));
  PageEntry short_raw = PageEntry::InPool(object.handle(), 8, CodecId::kRaw);
  PageEntry long_word = PageEntry::InPool(object.handle(), 16, CodecId::kSameWord);
  PageEntry no_codec = PageEntry::InPool(object.handle(), 16, CodecId{0x7f});
  for (PageEntry entry : {short_raw, long_word, no_codec}) {
    EXPECT_FALSE(all_.store.Get(entry, page.bytes, all_.workspace));
  }
}

TEST_F(PageStoreTest, AnObjectGoesExactlyWithItsLastHolder) {
  PageBytes page = CompressiblePage(1);
  PageEntry entry = Put(page);
  PageEntry shared = all_.store.AddReference(entry);
  EXPECT_TRUE(shared.Has(PageEntry::kShared));
  EXPECT_EQ(shared.Without(PageEntry::kShared), entry);
  EXPECT_EQ(all_.store.AddReference(shared), shared);  // three holders
  EXPECT_GT(all_.store.metadata_bytes(), 0u);
  all_.store.Release(shared);
  all_.store.Release(shared);
  EXPECT_EQ(all_.objects(), 1u);
  ExpectComesBack(shared, page);
  all_.store.Release(shared);
  EXPECT_EQ(all_.objects(), 0u);
}

TEST_F(PageStoreTest, AnObjectInTheSamePlaceStartsWithOneHolder) {
  PageEntry first = Put(CompressiblePage(1));
  PageEntry shared = all_.store.AddReference(first);
  all_.store.Release(shared);
  all_.store.Release(shared);
  PageEntry second = Put(CompressiblePage(1));
  ASSERT_EQ(second.handle(), first.handle());
  all_.store.Release(second);
  EXPECT_EQ(all_.objects(), 0u);
}

TEST_F(PageStoreTest, SameFilledPagesNeedNoReferences) {
  PageEntry entry = Put(FilledPage(0));
  EXPECT_EQ(all_.store.AddReference(entry), entry);
  all_.store.Release(entry);
  all_.store.Release(entry);
  ExpectComesBack(entry, FilledPage(0));
}

TEST_F(PageStoreTest, ThreadsThatShareAndReleaseLeaveNothingBehind) {
  constexpr int kRounds = 2000;
  PageEntry shared = all_.store.AddReference(Put(CompressiblePage(1)));
  std::vector<std::thread> threads;
  for (int id = 0; id < 2; ++id) {
    threads.emplace_back([&] {
      for (int round = 0; round < kRounds; ++round) {
        all_.store.Release(all_.store.AddReference(shared));
      }
      all_.store.Release(shared);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(all_.objects(), 0u);
}

}  // namespace
}  // namespace zmem
