#include "bench/growth.h"

#include <gtest/gtest.h>

#include <functional>

namespace zmem {
namespace {

std::vector<GrowthPoint> Points(const std::function<double(double)>& figure,
                                const std::vector<double>& amounts = {1, 4, 16, 64, 256}) {
  std::vector<GrowthPoint> points;
  for (double amount : amounts) points.push_back({amount, figure(amount)});
  return points;
}

TEST(Growth, WhatStaysWithinTheNoiseIsFlat) {
  EXPECT_EQ(JudgeGrowth(Points([](double n) { return 5 + n / 1000; }), 1).kind, GrowthKind::kFlat);
  EXPECT_EQ(JudgeGrowth(Points([](double n) { return 5 - n; }), 1).kind, GrowthKind::kFlat);
}

TEST(Growth, ALineIsLinearWhateverItBeginsWith) {
  for (double base : {0.0, 10.0, 10'000.0}) {
    Growth growth = JudgeGrowth(Points([base](double n) { return base + 3 * n; }), 0.1);
    EXPECT_EQ(growth.kind, GrowthKind::kLinear) << base;
    EXPECT_NEAR(growth.steepening, 1, 0.01) << base;
  }
}

TEST(Growth, WhatFlattensIsLinear) {
  Growth growth = JudgeGrowth(Points([](double n) { return n < 64 ? n : 64 + n / 10; }), 0.1);
  EXPECT_EQ(growth.kind, GrowthKind::kLinear);
  EXPECT_LT(growth.steepening, 0.5);
}

TEST(Growth, ASquareIsFasterEvenBehindAConstant) {
  Growth growth = JudgeGrowth(Points([](double n) { return 10'000 + n * n; }), 0.1);
  EXPECT_EQ(growth.kind, GrowthKind::kFaster);
  EXPECT_NEAR(growth.steepening, 320.0 / 65, 0.01);
}

TEST(Growth, WhatSetsInLateIsFaster) {
  EXPECT_EQ(JudgeGrowth(Points([](double n) { return n < 256 ? 1 : 500; }), 1).kind,
            GrowthKind::kFaster);
}

TEST(Growth, OfTwoPointsTheFirstIsTheMeasure) {
  EXPECT_EQ(JudgeGrowth(Points([](double n) { return 2 * n; }, {1, 8}), 0.1).kind,
            GrowthKind::kLinear);
  EXPECT_EQ(JudgeGrowth(Points([](double n) { return 2 * n * n; }, {1, 8}), 0.1).kind,
            GrowthKind::kFaster);
}

}  // namespace
}  // namespace zmem
