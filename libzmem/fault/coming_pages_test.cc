#include "libzmem/fault/coming_pages.h"

#include <gtest/gtest.h>

namespace zmem {
namespace {

AddressRange Pages(uint64_t first, uint64_t end) {
  return {first << kPageShift, end << kPageShift};
}
Address Page(uint64_t number) { return number << kPageShift; }

TEST(ComingPages, ComeInSlicesOfOneChunk) {
  ComingPages coming;
  coming.Add(Pages(500, 520));  // a chunk ends at 512
  EXPECT_EQ(coming.Take(8), Pages(500, 508));
  EXPECT_EQ(coming.Take(8), Pages(508, 512));
  EXPECT_EQ(coming.Take(8), Pages(512, 520));
  EXPECT_TRUE(coming.empty());
}

TEST(ComingPages, NothingIsNotComing) {
  ComingPages coming;
  coming.Add(Pages(7, 7));
  EXPECT_TRUE(coming.empty());
}

TEST(ComingPages, StreamsTakeTurns) {
  ComingPages coming;
  coming.Add(Pages(0, 16));
  coming.Add(Pages(100, 108));
  EXPECT_EQ(coming.Take(8), Pages(0, 8));
  EXPECT_EQ(coming.Take(8), Pages(100, 108));
  EXPECT_EQ(coming.Take(8), Pages(8, 16));
  EXPECT_TRUE(coming.empty());
}

TEST(ComingPages, MoreOfAStreamComesWithTheRest) {
  ComingPages coming;
  coming.Add(Pages(0, 16));
  coming.Add(Pages(100, 108));
  EXPECT_EQ(coming.Take(8), Pages(0, 8));
  coming.Add(Pages(16, 24));
  EXPECT_EQ(coming.Take(8), Pages(100, 108));
  EXPECT_EQ(coming.Take(32), Pages(8, 24));
  EXPECT_TRUE(coming.empty());
}

TEST(ComingPages, AFaultGoesOnBehindItself) {
  ComingPages coming;
  coming.Add(Pages(10, 20));
  EXPECT_FALSE(coming.OnFault(Page(9)));
  EXPECT_FALSE(coming.OnFault(Page(20)));
  EXPECT_TRUE(coming.OnFault(Page(14)));
  EXPECT_EQ(coming.Take(3), Pages(15, 18));
  EXPECT_TRUE(coming.OnFault(Page(19)));
  EXPECT_TRUE(coming.empty());
}

TEST(ComingPages, TheOldestIsForgottenIfThereAreTooManyStreams) {
  ComingPages coming;
  for (uint64_t stream = 0; stream < 5; ++stream) {
    coming.Add(Pages(stream * 1000, stream * 1000 + 4));
  }
  for (uint64_t stream = 1; stream < 5; ++stream) {
    EXPECT_EQ(coming.Take(4), Pages(stream * 1000, stream * 1000 + 4));
  }
  EXPECT_TRUE(coming.empty());
  coming.Add(Pages(1, 2));
  coming.Clear();
  EXPECT_TRUE(coming.empty());
}

}  // namespace
}  // namespace zmem
