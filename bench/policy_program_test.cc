#include "bench/policy_program.h"

#include <gtest/gtest.h>

#include <cstring>
#include <set>
#include <vector>

namespace zmem {
namespace {

constexpr PageTrace::Options kSmall = {.pages = 100, .touches = 3000};

std::vector<uint32_t> Take(PageTrace& trace, uint64_t count) {
  std::vector<uint32_t> pages;
  for (; count > 0; --count) pages.push_back(trace.Next());
  return pages;
}

// How many of `pages` are among the popular ones.
int Popular(const std::vector<uint32_t>& pages, const std::vector<bool>& popular) {
  int count = 0;
  for (uint32_t page : pages) count += popular[page];
  return count;
}

TEST(PageTraceTest, TheSameOptionsGiveTheSameTrace) {
  PageTrace one(kSmall);
  PageTrace same(kSmall);
  PageTrace other({.pages = 100, .touches = 3000, .seed = 2});
  std::vector<uint32_t> pages = Take(one, 1000);
  EXPECT_EQ(Take(same, 1000), pages);
  EXPECT_NE(Take(other, 1000), pages);
}

TEST(PageTraceTest, StretchesDoAsTheySay) {
  PageTrace trace(kSmall);
  std::vector<bool> popular = trace.MostPopular(Touches::kSteady, 50);
  std::vector<bool> changed = trace.MostPopular(Touches::kChanged, 50);
  EXPECT_NE(popular, changed);
  std::set<Touches> seen;
  for (const Stretch& stretch : trace.stretches()) {
    seen.insert(stretch.touches);
    std::vector<uint32_t> pages = Take(trace, stretch.count);
    if (stretch.touches == Touches::kScan) {
      ASSERT_EQ(pages.size(), 100u);
      for (uint32_t page = 0; page < 100; ++page) EXPECT_EQ(pages[page], page);
      continue;
    }
    // The more popular half of 100 gets 0.865 of what is touched, any other half less.
    const std::vector<bool>& theirs = stretch.touches == Touches::kChanged ? changed : popular;
    EXPECT_NEAR(Popular(pages, theirs) / static_cast<double>(pages.size()), 0.865, 0.05);
  }
  EXPECT_EQ(seen.size(), 5u);
}

TEST(StampedPagesTest, AreRightFromTheStartAndAfterWrites) {
  StampedPages pages(4);
  pages.Fill();
  EXPECT_EQ(pages.Verify(), "");
  for (int write = 0; write < 21; ++write) {
    pages.Write(2);
    for (uint64_t turn = 0; turn < 200; ++turn) {
      ASSERT_TRUE(pages.Right(2, turn)) << "write " << write << ", turn " << turn;
    }
  }
  EXPECT_EQ(pages.Verify(), "");
}

// Whether any of the turns that look at a whole page sees that it is wrong.
bool SeenWrong(const StampedPages& pages, uint32_t page) {
  for (uint64_t turn = 0; turn < 8 * 15; ++turn) {
    if (!pages.Right(page, turn)) return true;
  }
  return false;
}

TEST(StampedPagesTest, AnotherPageAnOldOneAndZerosAreWrong) {
  StampedPages pages(4);
  pages.Fill();
  std::byte* page = pages.data() + 2 * kPageBytes;
  std::vector<std::byte> old(page, page + kPageBytes);
  std::memcpy(page, pages.data() + kPageBytes, kPageBytes);
  EXPECT_FALSE(pages.Right(2, 0));  // every turn sees it
  std::memset(page, 0, kPageBytes);
  EXPECT_FALSE(pages.Right(2, 0));
  std::memcpy(page, old.data(), kPageBytes);
  EXPECT_FALSE(SeenWrong(pages, 2));
  pages.Write(2);
  std::memcpy(page, old.data(), kPageBytes);
  EXPECT_TRUE(SeenWrong(pages, 2));
  EXPECT_NE(pages.Verify(), "");
}

TEST(StampedPagesTest, ADamagedWordIsWrong) {
  StampedPages pages(1);
  pages.Fill();
  for (size_t word : {0, 1, 2, 4, 60, 64, 65, 66, 508}) {
    auto* at = reinterpret_cast<uint64_t*>(pages.data()) + word;
    *at ^= 1 << 7;
    EXPECT_TRUE(SeenWrong(pages, 0)) << "word " << word;
    *at ^= 1 << 7;
  }
  EXPECT_EQ(pages.Verify(), "");
}

}  // namespace
}  // namespace zmem
