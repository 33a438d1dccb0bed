#include "tests/page_pattern.h"

#include <gtest/gtest.h>
#include <lz4.h>

#include <vector>

namespace zmem {
namespace {

struct alignas(kPageBytes) TestPage {
  std::byte bytes[kPageBytes] = {};
};

TEST(PagePattern, VerifiesWhatItFilled) {
  for (PageContent content :
       {PageContent::kCompressible, PageContent::kRandom, PageContent::kThin}) {
    TestPage page;
    FillPage(page.bytes, 7, 3, content);
    EXPECT_TRUE(VerifyPage(page.bytes, 7, 3));
    EXPECT_FALSE(VerifyPage(page.bytes, 8, 3));
    EXPECT_FALSE(VerifyPage(page.bytes, 7, 2));
    EXPECT_TRUE(InspectPage(page.bytes).intact);
  }
}

TEST(PagePattern, FindsEveryFlippedBit) {
  TestPage page;
  FillPage(page.bytes, 7, 3);
  for (size_t bit = 0; bit < kPageBytes * 8; ++bit) {
    page.bytes[bit / 8] ^= std::byte{1} << (bit % 8);
    EXPECT_FALSE(VerifyPage(page.bytes, 7, 3)) << bit;
    page.bytes[bit / 8] ^= std::byte{1} << (bit % 8);
  }
  EXPECT_TRUE(VerifyPage(page.bytes, 7, 3));
}

TEST(PagePattern, FindsZeroPages) {
  TestPage page;
  EXPECT_FALSE(VerifyPage(page.bytes, 0, 0));
  EXPECT_TRUE(InspectPage(page.bytes).all_zero);
}

// Of many pages, to one with lz4.
double CompressionRatio(PageContent content) {
  std::vector<char> compressed(LZ4_compressBound(kPageBytes));
  double stored = 0;
  constexpr int kPages = 1000;
  for (int number = 0; number < kPages; ++number) {
    TestPage page;
    FillPage(page.bytes, static_cast<uint64_t>(number), 1, content);
    stored += LZ4_compress_default(reinterpret_cast<const char*>(page.bytes), compressed.data(),
                                   kPageBytes, static_cast<int>(compressed.size()));
  }
  return kPages * kPageBytes / stored;
}

TEST(PagePattern, CompressesAboutAsPromised) {
  EXPECT_NEAR(CompressionRatio(PageContent::kCompressible), 2.4, 0.2);
  EXPECT_LE(CompressionRatio(PageContent::kRandom), 1);
  EXPECT_NEAR(CompressionRatio(PageContent::kThin), 70, 10);
}

}  // namespace
}  // namespace zmem
