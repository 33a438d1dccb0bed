#include "tests/documents.h"

#include <gtest/gtest.h>
#include <lz4.h>

#include <set>
#include <vector>

#include "libzmem/base/page.h"

namespace zmem {
namespace {

TEST(Documents, AreTheSameEveryTimeAndDifferFromEachOther) {
  std::set<std::string> documents;
  std::set<std::string> keys;
  for (uint64_t index = 0; index < 2000; ++index) {
    EXPECT_EQ(Document(index), Document(index));
    documents.insert(Document(index));
    keys.insert(DocumentKey(index));
  }
  EXPECT_EQ(documents.size(), 2000u);
  EXPECT_EQ(keys.size(), 2000u);
}

// What the demo can save follows from this; a change of the documents that made them easier to
// compress than real data would be seen here.
TEST(Documents, CompressAboutAsRealDataDoes) {
  std::string all;
  uint64_t pictures = 0;
  constexpr uint64_t kCount = 10'000;
  for (uint64_t index = 0; index < kCount; ++index) {
    std::string document = Document(index);
    if (DocumentKey(index).starts_with("picture")) pictures += document.size();
    all += document;
  }
  std::vector<char> compressed(LZ4_compressBound(kPageBytes));
  double stored = 0;
  for (size_t at = 0; at + kPageBytes <= all.size(); at += kPageBytes) {
    stored += LZ4_compress_default(all.data() + at, compressed.data(), kPageBytes,
                                   static_cast<int>(compressed.size()));
  }
  double ratio = static_cast<double>(all.size()) / stored;
  double share = static_cast<double>(pictures) / static_cast<double>(all.size());
  std::printf("%.0f bytes a document, %.1f %% pictures, lz4 %.2f\n",
              static_cast<double>(all.size()) / kCount, share * 100, ratio);
  EXPECT_NEAR(ratio, 2.4, 0.3);
  EXPECT_NEAR(share, 0.06, 0.02);
}

}  // namespace
}  // namespace zmem
