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
  for (PageContent content : {PageContent::kCompressible, PageContent::kRandom}) {
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

TEST(PagePattern, CompressesAboutAsPromised) {
  std::vector<char> compressed(LZ4_compressBound(kPageBytes));
  double stored = 0;
  constexpr int kPages = 1000;
  for (int number = 0; number < kPages; ++number) {
    TestPage page;
    FillPage(page.bytes, static_cast<uint64_t>(number), 1);
    stored += LZ4_compress_default(reinterpret_cast<const char*>(page.bytes), compressed.data(),
                                   kPageBytes, static_cast<int>(compressed.size()));
  }
  EXPECT_NEAR(kPages * kPageBytes / stored, 2.4, 0.2);
}

}  // namespace
}  // namespace zmem
