#include "libzmem/store/range_set.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "libzmem/testing/memory.h"

namespace zmem {
namespace {

constexpr AddressRange Pages(uint64_t first, uint64_t end) {
  return {first * kPageBytes, end * kPageBytes};
}

TEST(RangeSetTest, RangesThatTouchAreOne) {
  RangeSet set(8);
  for (AddressRange range : {Pages(1, 2), Pages(4, 6), Pages(2, 4)}) EXPECT_TRUE(set.Add(range));
  EXPECT_EQ(set.ranges(), std::vector<AddressRange>{Pages(1, 6)});
  EXPECT_EQ(set.bytes(), 5 * kPageBytes);
}

TEST(RangeSetTest, AHoleSplitsARange) {
  RangeSet set(8);
  set.Add(Pages(1, 9));
  EXPECT_TRUE(set.Remove(Pages(3, 5)));
  EXPECT_EQ(set.ranges(), (std::vector<AddressRange>{Pages(1, 3), Pages(5, 9)}));
  EXPECT_EQ(set.In(Pages(2, 6)), (std::vector<AddressRange>{Pages(2, 3), Pages(5, 6)}));
}

TEST(RangeSetTest, TooManyRangesAreRefusedAndChangeNothing) {
  RangeSet set(2);
  set.Add(Pages(1, 4));
  set.Add(Pages(10, 14));
  EXPECT_FALSE(set.Add(Pages(6, 7)));
  EXPECT_FALSE(set.Remove(Pages(2, 3)));
  EXPECT_EQ(set.bytes(), 7 * kPageBytes);
  EXPECT_TRUE(set.Add(Pages(4, 10)));  // makes one of two
  EXPECT_EQ(set.size(), 1u);
}

TEST(RangeSetTest, ACutThatWouldMakeTooManyTakesWhatLiesAbove) {
  RangeSet set(1);
  set.Add(Pages(1, 9));
  set.Cut(Pages(3, 5));
  EXPECT_EQ(set.ranges(), std::vector<AddressRange>{Pages(1, 3)});
}

TEST(RangeSetTest, TheLowestRangeIsTakenOutFirst) {
  RangeSet set(8);
  set.Add(Pages(5, 6));
  set.Add(Pages(1, 2));
  EXPECT_EQ(set.Pop(), Pages(1, 2));
  EXPECT_EQ(set.Pop(), Pages(5, 6));
  EXPECT_EQ(set.Pop(), std::nullopt);
  EXPECT_EQ(set.bytes(), 0u);
}

// Against one bit a page.
TEST(RangeSetTest, RandomOperationsDoWhatASetOfPagesWould) {
  constexpr uint64_t kPages = 40;
  std::mt19937_64 random(TestSeed());
  RangeSet set(5);
  std::vector<bool> model(kPages);
  for (int round = 0; round < 20'000; ++round) {
    uint64_t first = random() % kPages;
    uint64_t end = first + random() % (kPages - first + 1);
    bool add = random() % 2 == 0;
    bool done = add ? set.Add(Pages(first, end)) : set.Remove(Pages(first, end));
    for (uint64_t page = first; done && page < end; ++page) model[page] = add;
    std::vector<bool> held(kPages);
    uint64_t bytes = 0;
    for (AddressRange range : set.ranges()) {
      bytes += range.bytes();
      for (Address at = range.start; at < range.end; at += kPageBytes) held[at / kPageBytes] = true;
    }
    ASSERT_EQ(held, model) << "round " << round;
    ASSERT_EQ(set.bytes(), bytes);
    ASSERT_LE(set.size(), 5u);
  }
}

}  // namespace
}  // namespace zmem
