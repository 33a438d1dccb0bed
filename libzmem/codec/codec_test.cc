// What every codec promises, asked of each one in this build. Seeds are fixed and printed with a
// failure; reads past a span are found by the address sanitizer, writes by guard bytes as well.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "libzmem/codec/compressor.h"
#include "libzmem/codec/same_filled.h"

namespace zmem {
namespace {

using Page = std::array<std::byte, kPageBytes>;
using Random = std::mt19937_64;

constexpr uint64_t kSeed = 20240607;

static_assert(static_cast<int>(CodecId::kRaw) == 0);
static_assert(static_cast<int>(CodecId::kSameWord) == 1);
static_assert(static_cast<int>(CodecId::kLz4) == 2);
static_assert(static_cast<int>(CodecId::kLzo) == 3);
static_assert(static_cast<int>(CodecId::kZstd) == 4);

Page RandomPage(Random& random) {
  Page page;
  for (std::byte& byte : page) byte = static_cast<std::byte>(random());
  return page;
}

Page TextPage(Random& random) {
  constexpr std::string_view kWords[] = {"page ",    "entry ",  "reclaim ", "the ",     "of ",
                                         "kernel, ", "fault; ", "pool ",    "memory\n", "0x7f"};
  std::string text;
  while (text.size() < kPageBytes) {
    text += kWords[random() % std::size(kWords)];
    if (random() % 8 == 0) text += std::to_string(random() % 100'000);
  }
  Page page;
  std::memcpy(page.data(), text.data(), kPageBytes);
  return page;
}

Page SparsePage(Random& random) {
  Page page{};
  for (int i = 0; i < 40; ++i) page[random() % kPageBytes] = static_cast<std::byte>(random());
  return page;
}

Page EqualPage(Random& random) {
  Page page;
  FillWithWord(random() % 256 * 0x0101010101010101, page);
  return page;
}

// A span of its own between guard bytes.
class Guarded {
 public:
  explicit Guarded(size_t bytes) : buffer_(bytes + 2 * kGuardBytes, kGuard), bytes_(bytes) {}

  std::span<std::byte> span() { return std::span(buffer_).subspan(kGuardBytes, bytes_); }
  std::span<std::byte, kPageBytes> page() { return span().first<kPageBytes>(); }
  bool intact() const {
    auto is_guard = [](std::byte byte) { return byte == kGuard; };
    return std::all_of(buffer_.begin(), buffer_.begin() + kGuardBytes, is_guard) &&
           std::all_of(buffer_.end() - kGuardBytes, buffer_.end(), is_guard);
  }

 private:
  static constexpr size_t kGuardBytes = 512;
  static constexpr std::byte kGuard{0xa5};
  std::vector<std::byte> buffer_;
  size_t bytes_;
};

class CodecTest : public testing::TestWithParam<std::string_view> {
 protected:
  // The compressed form in an allocation of just its length, so that asan sees a read past it.
  std::vector<std::byte> MustCompress(const Page& page) {
    Page out;
    auto bytes = codec_->Compress(page, out, *scratch_);
    EXPECT_TRUE(bytes.has_value());
    return std::vector<std::byte>(out.begin(), out.begin() + bytes.value_or(0));
  }

  const Compressor* codec_ = FindCompressor(GetParam());
  std::unique_ptr<Scratch> scratch_ = codec_->MakeScratch();
  Random random_{kSeed};
};

TEST_P(CodecTest, CompressiblePagesComeBackAsTheyWere) {
  for (auto make_page : {TextPage, SparsePage, EqualPage}) {
    for (int i = 0; i < 200; ++i) {
      Page page = make_page(random_);
      std::vector<std::byte> compressed = MustCompress(page);
      EXPECT_LT(compressed.size(), kPageBytes * 3 / 4);
      Page restored = RandomPage(random_);
      ASSERT_TRUE(codec_->Decompress(compressed, restored, *scratch_));
      ASSERT_EQ(restored, page);
    }
  }
}

TEST_P(CodecTest, ARandomPageDoesNotFitAPage) {
  Guarded out(kPageBytes);
  EXPECT_EQ(codec_->Compress(RandomPage(random_), out.span(), *scratch_), std::nullopt);
  EXPECT_TRUE(out.intact());
}

TEST_P(CodecTest, WhatDoesNotFitIsRefusedAndNothingIsWrittenBeyond) {
  for (auto make_page : {RandomPage, TextPage, SparsePage, EqualPage}) {
    Page page = make_page(random_);
    for (size_t out_bytes = 1; out_bytes < kPageBytes; out_bytes += 1 + out_bytes / 16) {
      Guarded out(out_bytes);
      auto bytes = codec_->Compress(page, out.span(), *scratch_);
      ASSERT_TRUE(out.intact()) << out_bytes;
      if (!bytes) continue;
      ASSERT_LE(*bytes, out_bytes);
      Page restored;
      ASSERT_TRUE(codec_->Decompress(out.span().first(*bytes), restored, *scratch_));
      ASSERT_EQ(restored, page);
    }
    Guarded one(1);
    EXPECT_EQ(codec_->Compress(page, one.span(), *scratch_), std::nullopt);
  }
}

TEST_P(CodecTest, TheNeededLengthAndAFewBytesAreEnough) {
  constexpr size_t kSlackBytes = 16;  // zstd wants up to 9 more than it will use
  for (int i = 0; i < 200; ++i) {
    Page page = i % 2 == 0 ? TextPage(random_) : SparsePage(random_);
    size_t needed = MustCompress(page).size();
    Guarded out(needed + kSlackBytes);
    ASSERT_EQ(codec_->Compress(page, out.span(), *scratch_), needed);
    ASSERT_TRUE(out.intact());
  }
}

TEST_P(CodecTest, APrefixOrALongerInputIsNotAPage) {
  std::vector<std::byte> compressed = MustCompress(TextPage(random_));
  Page restored;
  for (size_t bytes = 0; bytes < compressed.size(); ++bytes) {
    std::vector<std::byte> prefix(compressed.begin(), compressed.begin() + bytes);
    EXPECT_FALSE(codec_->Decompress(prefix, restored, *scratch_)) << bytes << " bytes";
  }
  std::vector<std::byte> twice = compressed;
  twice.insert(twice.end(), compressed.begin(), compressed.end());
  EXPECT_FALSE(codec_->Decompress(twice, restored, *scratch_));
  compressed.push_back(std::byte{0});
  EXPECT_FALSE(codec_->Decompress(compressed, restored, *scratch_));
}

// One way or another not what Compress wrote.
std::vector<std::byte> Corrupt(std::vector<std::byte> bytes, Random& random) {
  switch (random() % 4) {
    case 0:  // a few flipped bits
      for (size_t flips = 1 + random() % 8; flips > 0; --flips) {
        bytes[random() % bytes.size()] ^= static_cast<std::byte>(1u << random() % 8);
      }
      break;
    case 1:  // a shorter one with a wrong byte
      bytes.resize(1 + random() % bytes.size());
      bytes[random() % bytes.size()] = static_cast<std::byte>(random());
      break;
    case 2:  // an end of noise
      for (size_t at = random() % bytes.size(); at < bytes.size(); ++at) {
        bytes[at] = static_cast<std::byte>(random());
      }
      break;
    default: {  // a part moved elsewhere
      size_t from = random() % bytes.size();
      size_t to = random() % bytes.size();
      std::memmove(bytes.data() + to, bytes.data() + from, bytes.size() - std::max(from, to));
      break;
    }
  }
  bytes.shrink_to_fit();
  return bytes;
}

TEST_P(CodecTest, CorruptedInputStaysWithinTheSpans) {
  constexpr int kRounds = 10'000;
  std::vector<std::vector<std::byte>> samples;
  for (int i = 0; i < 100; ++i) {
    samples.push_back(MustCompress(i % 2 == 0 ? TextPage(random_) : SparsePage(random_)));
  }
  Guarded page(kPageBytes);
  for (int round = 0; round < kRounds; ++round) {
    const std::vector<std::byte>& good = samples[random_() % samples.size()];
    codec_->Decompress(Corrupt(good, random_), page.page(), *scratch_);
    ASSERT_TRUE(page.intact()) << "seed " << kSeed << ", round " << round;
    if (round % 100 != 0) continue;
    ASSERT_TRUE(codec_->Decompress(good, page.page(), *scratch_)) << "seed " << kSeed;
  }
}

TEST_P(CodecTest, ThreadsShareACodecEachWithItsOwnScratch) {
  std::vector<std::thread> threads;
  for (uint64_t thread = 0; thread < 4; ++thread) {
    threads.emplace_back([codec = codec_, thread] {
      auto scratch = codec->MakeScratch();
      Random random(kSeed + thread);
      for (int i = 0; i < 50; ++i) {
        Page page = TextPage(random);
        Page out;
        Page restored;
        auto bytes = codec->Compress(page, out, *scratch);
        ASSERT_TRUE(bytes.has_value());
        ASSERT_TRUE(codec->Decompress(std::span(out).first(*bytes), restored, *scratch));
        ASSERT_EQ(restored, page);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

INSTANTIATE_TEST_SUITE_P(All, CodecTest, testing::ValuesIn(CodecNames()),
                         [](const auto& info) { return std::string(info.param); });

TEST(Codecs, AreFoundByNameAndById) {
  std::vector<std::string_view> names = CodecNames();
  ASSERT_FALSE(names.empty());
  EXPECT_EQ(names.front(), "lz4");
  for (std::string_view name : names) {
    const Compressor* codec = FindCompressor(name);
    ASSERT_NE(codec, nullptr);
    EXPECT_EQ(codec->name(), name);
    EXPECT_EQ(FindCompressor(codec->id()), codec);
  }
}

TEST(Codecs, FormsWithoutACodecHaveNone) {
  EXPECT_EQ(FindCompressor(CodecId::kRaw), nullptr);
  EXPECT_EQ(FindCompressor(CodecId::kSameWord), nullptr);
  EXPECT_EQ(FindCompressor("raw"), nullptr);
  EXPECT_EQ(FindCompressor(""), nullptr);
}

}  // namespace
}  // namespace zmem
