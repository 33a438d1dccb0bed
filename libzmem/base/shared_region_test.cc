#include "libzmem/base/shared_region.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include "libzmem/base/page.h"

namespace zmem {
namespace {

TEST(SharedRegion, ReservesWithoutTakingMemoryAndReadsZeros) {
  auto region = SharedRegion::Create("zmem-test", uint64_t{1} << 36);
  ASSERT_TRUE(region.ok()) << region.status();
  EXPECT_EQ(region->reserved_bytes(), uint64_t{1} << 36);
  EXPECT_EQ(region->data()[0], std::byte{0});
  EXPECT_EQ(region->data()[(uint64_t{1} << 36) - 1], std::byte{0});
}

TEST(SharedRegion, DiscardGivesThePagesBackAndLeavesTheRest) {
  auto region = SharedRegion::Create("zmem-test", 4 * kPageBytes);
  ASSERT_TRUE(region.ok()) << region.status();
  for (size_t page = 0; page < 4; ++page) region->data()[page * kPageBytes] = std::byte{7};
  ASSERT_EQ(region->Discard(kPageBytes, 2 * kPageBytes), 0);
  unsigned char resident[4];
  ASSERT_EQ(mincore(region->data(), 4 * kPageBytes, resident), 0);
  EXPECT_EQ(resident[0] & 1, 1);
  EXPECT_EQ(resident[1] & 1, 0);
  EXPECT_EQ(resident[2] & 1, 0);
  EXPECT_EQ(resident[3] & 1, 1);
  EXPECT_EQ(region->data()[kPageBytes], std::byte{0});
  EXPECT_EQ(region->data()[3 * kPageBytes], std::byte{7});
}

TEST(SharedRegion, MovesLeaveOneOwner) {
  auto region = SharedRegion::Create("zmem-test", kPageBytes);
  ASSERT_TRUE(region.ok()) << region.status();
  SharedRegion other = *std::move(region);
  other.data()[0] = std::byte{1};
  SharedRegion third;
  third = std::move(other);
  EXPECT_EQ(third.data()[0], std::byte{1});
}

}  // namespace
}  // namespace zmem
