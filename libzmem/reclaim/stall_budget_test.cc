#include "libzmem/reclaim/stall_budget.h"

#include <gtest/gtest.h>

namespace zmem {
namespace {

using Decision = StallBudget::Decision;
constexpr double kTarget = 1;
constexpr int64_t kWindowNs = StallBudget::kWindowNs;

// A program of which each page that goes out is wanted back, for `cost_ns`, in the window after.
class StallBudgetTest : public testing::Test {
 protected:
  // One window in which everything goes out that may. Returns the pages.
  size_t Window(uint64_t cost_ns) {
    constexpr int kSteps = 10;
    size_t pages = 0;
    for (int i = 0; i < kSteps; ++i) {
      now_ns_ += kWindowNs / kSteps;
      while (budget_.Allows(now_ns_)) {
        budget_.Spend(kBatch);
        pages += kBatch;
      }
    }
    stall_ns_ += last_pages_ * cost_ns;
    last_pages_ = pages;
    decision_ = budget_.Update(stall_ns_, kTarget, now_ns_);
    return pages;
  }
  static double PagesPerSecond(size_t pages_of_window) {
    return static_cast<double>(pages_of_window) * 1e9 / static_cast<double>(kWindowNs);
  }

  static constexpr size_t kBatch = 16;
  int64_t now_ns_ = 1'000'000'000;
  StallBudget budget_{now_ns_};
  uint64_t stall_ns_ = 0;
  size_t last_pages_ = 0;
  Decision decision_ = Decision::kNone;
};

TEST_F(StallBudgetTest, BeginsWithItsFirstRate) {
  EXPECT_NEAR(PagesPerSecond(Window(0)), StallBudget::kFirstRate, 10 * kBatch);
}

TEST_F(StallBudgetTest, DoublesWhileNobodyWaits) {
  double before = budget_.pages_per_second();
  Window(0);
  EXPECT_EQ(decision_, Decision::kRaised);
  EXPECT_EQ(budget_.pages_per_second(), 2 * before);
  for (int i = 0; i < 1000; ++i) Window(0);
  EXPECT_EQ(budget_.pages_per_second(), StallBudget::kMostRate);
}

TEST_F(StallBudgetTest, RisesStepByStepWhileSomebodyWaits) {
  double before = budget_.pages_per_second();
  double step = before * StallBudget::kRaisePart;
  for (int i = 1; i < 4; ++i) {
    stall_ns_ += kWindowNs / 1000;
    Window(0);
    EXPECT_EQ(budget_.pages_per_second(), before + i * step);
  }
}

TEST_F(StallBudgetTest, DoesNotRiseIfNobodyWantsMore) {
  now_ns_ += kWindowNs;
  EXPECT_EQ(budget_.Update(0, kTarget, now_ns_), Decision::kNone);
  EXPECT_EQ(budget_.pages_per_second(), StallBudget::kFirstRate);
}

TEST_F(StallBudgetTest, HalvesAndPausesAboveTheTarget) {
  constexpr uint64_t kTwoPercent = kWindowNs / 50;
  now_ns_ += kWindowNs;
  EXPECT_EQ(budget_.Update(kTwoPercent, kTarget, now_ns_), Decision::kCut);
  EXPECT_EQ(budget_.pages_per_second(), StallBudget::kFirstRate / 2);
  EXPECT_NEAR(budget_.actual_percent(), 2, 1e-9);
  EXPECT_FALSE(budget_.Allows(now_ns_ + kWindowNs / 2)) << "a pause";
  for (int i = 0; i < 100; ++i) {
    now_ns_ += kWindowNs;
    budget_.Update(kTwoPercent * static_cast<uint64_t>(i + 2), kTarget, now_ns_);
  }
  EXPECT_EQ(budget_.pages_per_second(), StallBudget::kLeastRate);
  EXPECT_FALSE(budget_.Allows(now_ns_));
}

// The promise: whatever a page costs, within five seconds of a change the target is kept again.
TEST_F(StallBudgetTest, KeepsTheTargetWithinFiveSecondsOfAChange) {
  constexpr int kFiveSeconds = 5'000'000'000 / kWindowNs;
  for (uint64_t cost_ns : {10'000, 100'000, 20'000, 1'000'000}) {
    for (int i = 0; i < kFiveSeconds; ++i) Window(cost_ns);
    uint64_t before_ns = stall_ns_;
    size_t pages = 0;
    constexpr int kMinute = 240;
    for (int i = 0; i < kMinute; ++i) pages += Window(cost_ns);
    double percent = 100.0 * static_cast<double>(stall_ns_ - before_ns) /
                     static_cast<double>(kMinute * kWindowNs);
    EXPECT_LE(percent, kTarget) << cost_ns << " ns a page";
    EXPECT_GE(percent, kTarget / 4) << "what may be used is used: " << cost_ns << " ns a page";
  }
}

TEST_F(StallBudgetTest, ATargetOfZeroLetsNothingOut) {
  now_ns_ += kWindowNs;
  budget_.Update(0, 0, now_ns_);
  EXPECT_FALSE(budget_.Allows(now_ns_ + kWindowNs));
}

}  // namespace
}  // namespace zmem
