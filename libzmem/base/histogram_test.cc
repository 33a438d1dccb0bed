#include "libzmem/base/histogram.h"

#include <gtest/gtest.h>

#include <random>

namespace zmem {
namespace {

TEST(LatencyHistogram, AnEmptyOneReportsZero) {
  LatencyHistogram histogram;
  EXPECT_EQ(histogram.count(), 0u);
  EXPECT_EQ(histogram.Percentile(50), 0u);
  EXPECT_EQ(histogram.max_ns(), 0u);
}

TEST(LatencyHistogram, PercentilesAreWithinABucketOfTheTruth) {
  LatencyHistogram histogram;
  for (uint64_t ns = 1; ns <= 100'000; ++ns) histogram.Record(ns);
  EXPECT_EQ(histogram.count(), 100'000u);
  for (double percent : {1.0, 50.0, 90.0, 99.0, 99.9}) {
    double truth = percent * 1000;
    EXPECT_GE(histogram.Percentile(percent), truth) << percent;
    EXPECT_LE(histogram.Percentile(percent), truth * 1.0626) << percent;
  }
  EXPECT_EQ(histogram.Percentile(100), 100'000u);
}

TEST(LatencyHistogram, HoldsTheLargestValues) {
  LatencyHistogram histogram;
  histogram.Record(~uint64_t{0});
  histogram.Record(0);
  EXPECT_EQ(histogram.max_ns(), ~uint64_t{0});
  EXPECT_EQ(histogram.Percentile(100), ~uint64_t{0});
  EXPECT_EQ(histogram.Percentile(1), 0u);
}

TEST(LatencyHistogram, MergeAddsCountsAndKeepsTheLargerMaximum) {
  LatencyHistogram a;
  LatencyHistogram b;
  a.Record(10);
  b.Record(1000);
  b.Record(1000);
  a.Merge(b);
  EXPECT_EQ(a.count(), 3u);
  EXPECT_EQ(a.max_ns(), 1000u);
  EXPECT_GE(a.Percentile(50), 1000u);
}

}  // namespace
}  // namespace zmem
