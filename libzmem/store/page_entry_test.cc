#include "libzmem/store/page_entry.h"

#include <gtest/gtest.h>

#include <random>

#include "libzmem/testing/memory.h"

namespace zmem {
namespace {

constexpr uint64_t kFlags[] = {PageEntry::kRestoring, PageEntry::kQuarantined, PageEntry::kShared,
                               PageEntry::kIncompressible};

// Flags come and go without touching anything else.
void ExpectFlagsApart(PageEntry entry) {
  for (uint64_t flag : kFlags) {
    PageEntry with = entry.With(flag);
    EXPECT_TRUE(with.Has(flag));
    EXPECT_EQ(with.state(), entry.state());
    EXPECT_EQ(with.Without(flag), entry);
    for (uint64_t other : kFlags) EXPECT_EQ(with.Has(other), other == flag);
  }
}

TEST(PageEntry, ZeroBitsAreAResidentPage) {
  EXPECT_EQ(PageEntry(0), PageEntry());
  EXPECT_EQ(PageEntry().state(), PageState::kResident);
  EXPECT_FALSE(PageEntry().stored());
  ExpectFlagsApart(PageEntry());
}

TEST(PageEntry, SlotsComeBackAtTheirExtremes) {
  for (uint32_t slot : {0u, 1u, 511u, 64u * 512u - 1, ~0u}) {
    EXPECT_EQ(PageEntry::Isolating(slot).state(), PageState::kIsolating);
    EXPECT_EQ(PageEntry::Isolating(slot).slot(), slot);
    EXPECT_EQ(PageEntry::Staged(slot).state(), PageState::kStaged);
    EXPECT_EQ(PageEntry::Staged(slot).slot(), slot);
    EXPECT_FALSE(PageEntry::Staged(slot).stored());
    ExpectFlagsApart(PageEntry::Staged(slot));
  }
}

TEST(PageEntry, PoolObjectsComeBackAtTheExtremesOfEveryField) {
  constexpr uint64_t kLastGranule = (uint64_t{1} << kZHandleBits) - 1;
  for (uint64_t granule : {uint64_t{0}, uint64_t{1}, kLastGranule}) {
    for (size_t bytes : {size_t{1}, size_t{2}, kPageBytes - 1, kPageBytes}) {
      for (CodecId codec : {CodecId::kRaw, CodecId::kSameWord, CodecId::kLz4, CodecId::kLzo,
                            CodecId::kZstd, CodecId{0x7f}}) {
        PageEntry entry = PageEntry::InPool({granule}, bytes, codec);
        EXPECT_EQ(entry.state(), PageState::kInPool);
        EXPECT_TRUE(entry.stored());
        EXPECT_EQ(entry.handle().granule, granule);
        EXPECT_EQ(entry.object_bytes(), bytes);
        EXPECT_EQ(entry.codec(), codec);
        ExpectFlagsApart(entry);
      }
    }
  }
}

TEST(PageEntry, DiskObjectsComeBackAtTheExtremesOfEveryField) {
  constexpr uint64_t kLastGranule = (uint64_t{1} << kDiskHandleBits) - 1;
  for (uint64_t granule : {uint64_t{0}, uint64_t{1}, kLastGranule}) {
    for (size_t bytes : {size_t{1}, size_t{2}, kPageBytes - 1, kPageBytes}) {
      for (CodecId codec : {CodecId::kRaw, CodecId::kLz4, CodecId::kZstd, CodecId{15}}) {
        DiskObject object{{granule}, bytes};
        PageEntry entry = PageEntry::OnDisk(object, codec);
        EXPECT_EQ(entry.state(), PageState::kOnDisk);
        EXPECT_TRUE(entry.stored());
        EXPECT_TRUE(entry.has_object());
        EXPECT_EQ(entry.disk_object(), object);
        EXPECT_EQ(entry.codec(), codec);
        ExpectFlagsApart(entry);
      }
    }
  }
}

TEST(PageEntry, ALostPageIsNeitherStoredNorResident) {
  EXPECT_EQ(PageEntry::Lost().state(), PageState::kLost);
  EXPECT_FALSE(PageEntry::Lost().stored());
  ExpectFlagsApart(PageEntry::Lost());
}

void ExpectWordComesBack(uint64_t word) {
  std::optional<uint64_t> packed = PackWord(word);
  ASSERT_TRUE(packed.has_value()) << std::hex << word;
  EXPECT_EQ(UnpackWord(*packed), word);
  PageEntry entry = PageEntry::SameFilled(*packed);
  EXPECT_EQ(entry.state(), PageState::kSameFilled);
  EXPECT_EQ(entry.word(), word) << "56 bits of payload hold it";
  EXPECT_TRUE(entry.stored());
  ExpectFlagsApart(entry);
}

TEST(PackWord, TakesTheLimitsOf54SignedBitsAndNoMore) {
  constexpr int64_t kMost = (int64_t{1} << 53) - 1;
  constexpr int64_t kLeast = -(int64_t{1} << 53);
  for (int64_t word : {int64_t{0}, int64_t{1}, int64_t{-1}, kMost, kLeast}) {
    ExpectWordComesBack(static_cast<uint64_t>(word));
  }
  EXPECT_FALSE(PackWord(static_cast<uint64_t>(kMost + 1)));
  EXPECT_FALSE(PackWord(static_cast<uint64_t>(kLeast - 1)));
}

TEST(PackWord, WhateverItTakesComesBack) {
  std::mt19937_64 random(TestSeed());
  int taken = 0;
  for (int i = 0; i < 100'000; ++i) {
    uint64_t word = random() >> (random() % 64);
    if (i % 2 == 1) word = ~word;
    if (i % 5 == 0) word = (word << 32) | (word & 0xffffffff);
    if (!PackWord(word)) continue;
    ++taken;
    ExpectWordComesBack(word);
  }
  EXPECT_GT(taken, 50'000);
}

TEST(PackWord, TakesEveryRepeated32BitValue) {
  std::mt19937_64 random(TestSeed());
  for (int i = 0; i < 10'000; ++i) {
    uint64_t low = random() & 0xffffffff;
    ExpectWordComesBack(low << 32 | low);
  }
}

// The states a page goes through, and none beside them.
TEST(TransitionAllowed, IsThisTable) {
  constexpr const char* kTable[kPageStates] = {
      //  to RISFPLD (resident, isolating, staged, same-filled, in pool, lost, on disk)
      "RI-FPLD",  // from resident
      "R-S----",  // from isolating
      "RISFPLD",  // from staged
      "R--F---",  // from same-filled
      "R---P-D",  // from in pool
      "R----L-",  // from lost
      "R-----D",  // from on disk
  };
  for (size_t from = 0; from < kPageStates; ++from) {
    for (size_t to = 0; to < kPageStates; ++to) {
      EXPECT_EQ(TransitionAllowed(static_cast<PageState>(from), static_cast<PageState>(to)),
                kTable[from][to] != '-')
          << from << " to " << to;
    }
  }
}

}  // namespace
}  // namespace zmem
