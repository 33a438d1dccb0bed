#include "libzmem/codec/same_filled.h"

#include <gtest/gtest.h>

#include <array>

namespace zmem {
namespace {

using Page = std::array<std::byte, kPageBytes>;

TEST(SameFilled, EveryWordComesBackFromThePageItFills) {
  for (uint64_t word : {uint64_t{0}, ~uint64_t{0}, uint64_t{1}, uint64_t{0x0123456789abcdef}}) {
    Page page;
    FillWithWord(word, page);
    EXPECT_EQ(SameFilledWord(page), word);
  }
}

TEST(SameFilled, OneOtherByteAnywhereIsSeen) {
  Page page;
  FillWithWord(0x0101010101010101, page);
  for (size_t at = 0; at < kPageBytes; ++at) {
    page[at] ^= std::byte{0x80};
    EXPECT_FALSE(SameFilledWord(page)) << "byte " << at;
    page[at] ^= std::byte{0x80};
  }
  EXPECT_TRUE(SameFilledWord(page));
}

TEST(SameFilled, APatternLongerThanAWordIsNotOne) {
  Page page{};
  for (size_t at = 0; at < kPageBytes; at += 16) page[at] = std::byte{1};
  EXPECT_FALSE(SameFilledWord(page));
}

}  // namespace
}  // namespace zmem
