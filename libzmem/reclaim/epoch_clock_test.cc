#include "libzmem/reclaim/epoch_clock.h"

#include <gtest/gtest.h>

namespace zmem {
namespace {

TEST(EpochClock, TellsTheAgeOfAnEpoch) {
  EpochClock epochs(100);
  Epoch first = epochs.now();
  epochs.Advance(200);
  EXPECT_EQ(epochs.AgeNs(first, 250), 150);
  EXPECT_EQ(epochs.AgeNs(epochs.now(), 250), 50);
  EXPECT_EQ(epochs.AgeNs(0, 250), EpochClock::kAncientNs);
  EXPECT_EQ(epochs.start_ns(), 200);
}

TEST(EpochClock, TellsTheEpochOfATime) {
  EpochClock epochs(100);
  Epoch first = epochs.now();
  epochs.Advance(200);
  EXPECT_EQ(epochs.At(300), epochs.now());
  EXPECT_EQ(epochs.At(200), epochs.now());
  EXPECT_EQ(epochs.At(199), first);
  EXPECT_EQ(epochs.At(99), 0) << "before it all began";
}

TEST(EpochClock, AgesAreExpiredBeforeTheyLookYoung) {
  EpochClock epochs(1);
  Epoch page = epochs.now();
  int64_t now_ns = 1;
  for (int i = 0; i < 10 * kLastEpoch; ++i) {
    epochs.Advance(++now_ns);
    unsigned age = EpochsBetween(page, epochs.now());
    if (page != 0) {
      ASSERT_EQ(age, static_cast<unsigned>(i + 1)) << "it looks as old as it is";
    }
    if (epochs.IsExpiryDue() && age > EpochClock::kExpiryEpochs) page = 0;
  }
  EXPECT_EQ(page, 0);
  EXPECT_EQ(epochs.At(now_ns - EpochClock::kExpiryEpochs - 1), 0);
}

}  // namespace
}  // namespace zmem
