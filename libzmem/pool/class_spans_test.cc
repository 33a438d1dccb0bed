// What cannot be seen from outside the pool: the orders of a race, replayed.
#include "libzmem/pool/class_spans.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "libzmem/base/mutex.h"
#include "libzmem/pool/size_class.h"
#include "libzmem/pool/span_table.h"
#include "libzmem/pool/zpool.h"

namespace zmem {
namespace {

constexpr uint32_t kSlots = 2;
constexpr size_t kObjectBytes = kPageBytes / 2;  // two to a span of one page

class ClassSpansTest : public testing::Test {
 protected:
  // One object in each of two spans.
  void SetUp() override {
    MutexLock lock(spans_.mutex);
    for (uint32_t slot = 0; slot < kSlots; ++slot) {
      ASSERT_EQ(table_->Take(), slot);
      spans_.AddSpanLocked(slot);
      objects_.push_back(spans_.TakePlaceLocked(slot, kObjectBytes));
    }
  }

  std::unique_ptr<SpanTable> table_ = *SpanTable::Create(kSlots);
  std::vector<uint64_t> region_ = std::vector<uint64_t>(kSlots * kSpanSlotBytes / 8);
  ClassSpans spans_{static_cast<uint8_t>(SizeClassOf(kObjectBytes)), *table_,
                    reinterpret_cast<std::byte*>(region_.data())};
  std::vector<uint64_t> objects_;  // granules
};

// Its holder frees the object while somebody copies it: the copy reads memory that must still be
// the span's, as reading a page that the kernel has back would take it anew.
TEST_F(ClassSpansTest, AVictimFreedWhileItIsCopiedIsEmptyOnceTheCopyIsMade) {
  MutexLock lock(spans_.mutex);
  ASSERT_EQ(spans_.ChooseVictimsLocked(kFullnessGroups / 2, kSlots), 1u);
  uint32_t victim = table_->At(0).state() == SpanState::kVictim ? 0 : 1;
  spans_.PinVictimLocked(victim);
  EXPECT_FALSE(spans_.ReturnPlaceLocked(objects_[victim], kObjectBytes));
  EXPECT_EQ(table_->At(victim).state(), SpanState::kVictim);
  EXPECT_TRUE(spans_.UnpinVictimLocked(victim));
  EXPECT_EQ(table_->At(victim).state(), SpanState::kEmptyVictim);
  EXPECT_EQ(spans_.RestoreVictimsLocked(kSlots), 0u);
}

TEST_F(ClassSpansTest, AVictimCopiedByTwoAtOnceIsOrdinaryAgainAfterwards) {
  MutexLock lock(spans_.mutex);
  ASSERT_EQ(spans_.ChooseVictimsLocked(kFullnessGroups / 2, kSlots), 1u);
  uint32_t victim = table_->At(0).state() == SpanState::kVictim ? 0 : 1;
  spans_.PinVictimLocked(victim);
  spans_.PinVictimLocked(victim);  // more than the span has places
  EXPECT_FALSE(spans_.UnpinVictimLocked(victim));
  EXPECT_FALSE(spans_.UnpinVictimLocked(victim));
  EXPECT_EQ(spans_.RestoreVictimsLocked(kSlots), 1u);
  EXPECT_EQ(table_->At(victim).state(), SpanState::kPartial);
  EXPECT_EQ(spans_.StatsLocked().reclaimable_bytes, kPageBytes);
}

TEST_F(ClassSpansTest, ASlotEmptiedAfterItsRoundNeedsNoRest) {
  MutexLock lock(spans_.mutex);
  table_->StartRound();
  ASSERT_EQ(spans_.ChooseVictimsLocked(kFullnessGroups / 2, kSlots), 1u);
  uint32_t victim = table_->At(0).state() == SpanState::kVictim ? 0 : 1;
  ASSERT_TRUE(spans_.ReturnPlaceLocked(objects_[victim], kObjectBytes));
  table_->EndRound();  // before the thread that emptied it has given its memory back
  table_->Return(victim);
  EXPECT_EQ(table_->Take(), victim);
}

}  // namespace
}  // namespace zmem
