#include "bench/zipf.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <vector>

namespace zmem {
namespace {

constexpr uint64_t kSeed = 7;

std::vector<double> ExactShares(uint64_t count, double exponent) {
  std::vector<double> shares(count);
  double sum = 0;
  for (uint64_t rank = 0; rank < count; ++rank) {
    shares[rank] = std::pow(static_cast<double>(rank + 1), -exponent);
    sum += shares[rank];
  }
  for (double& share : shares) share /= sum;
  return shares;
}

// Pearson's statistic of `draws` ranks against the exact shares.
double ChiSquare(uint64_t count, double exponent, uint64_t draws) {
  ZipfRanks ranks(count, exponent);
  std::mt19937_64 random(kSeed);
  std::vector<uint64_t> seen(count);
  for (uint64_t draw = 0; draw < draws; ++draw) ++seen.at(ranks(random));
  std::vector<double> shares = ExactShares(count, exponent);
  double sum = 0;
  for (uint64_t rank = 0; rank < count; ++rank) {
    double expected = shares[rank] * static_cast<double>(draws);
    double more = static_cast<double>(seen[rank]) - expected;
    sum += more * more / expected;
  }
  return sum;
}

// Of so many degrees of freedom, with 4.75 standard deviations to spare (Wilson and Hilferty).
double ChiSquareBound(uint64_t freedom) {
  auto f = static_cast<double>(freedom);
  return f * std::pow(1 - 2 / (9 * f) + 4.75 * std::sqrt(2 / (9 * f)), 3);
}

TEST(ZipfRanksTest, AreDrawnInProportionToThePower) {
  for (uint64_t count : {2u, 3u, 10u, 1000u}) {
    for (double exponent : {0.5, 0.99, 1.3}) {
      EXPECT_LT(ChiSquare(count, exponent, 400'000), ChiSquareBound(count - 1))
          << count << " ranks, exponent " << exponent;
    }
  }
}

TEST(ZipfRanksTest, OnlyOneRankIsAlwaysThatOne) {
  ZipfRanks ranks(1, 0.99);
  std::mt19937_64 random(kSeed);
  for (int draw = 0; draw < 100; ++draw) EXPECT_EQ(ranks(random), 0u);
}

TEST(ZipfRanksTest, TheFirstHalfOfManyGetsItsShare) {
  constexpr uint64_t kCount = 1 << 19;
  constexpr int kDraws = 200'000;
  std::vector<double> shares = ExactShares(kCount, 0.99);
  double expected = 0;
  for (uint64_t rank = 0; rank < kCount / 2; ++rank) expected += shares[rank];
  ZipfRanks ranks(kCount, 0.99);
  std::mt19937_64 random(kSeed);
  int first_half = 0;
  for (int draw = 0; draw < kDraws; ++draw) first_half += ranks(random) < kCount / 2;
  EXPECT_NEAR(first_half / static_cast<double>(kDraws), expected, 0.003);
}

TEST(ZipfItemsTest, EveryItemHasOneRank) {
  constexpr uint64_t kCount = 1000;
  ZipfItems items(kCount, 0.99, ZipfOrder::kScrambled, kSeed);
  std::set<uint32_t> seen;
  for (uint64_t rank = 0; rank < kCount; ++rank) seen.insert(items.ItemOfRank(rank));
  EXPECT_EQ(seen.size(), kCount);
  EXPECT_EQ(*seen.rbegin(), kCount - 1);
}

TEST(ZipfItemsTest, ClusteredItemsAreTheirRanksAndScrambledOnesDependOnTheSeed) {
  ZipfItems clustered(1000, 0.99, ZipfOrder::kClustered, kSeed);
  ZipfItems scrambled(1000, 0.99, ZipfOrder::kScrambled, kSeed);
  ZipfItems same(1000, 0.99, ZipfOrder::kScrambled, kSeed);
  ZipfItems other(1000, 0.99, ZipfOrder::kScrambled, kSeed + 1);
  int moved = 0;
  int differing = 0;
  for (uint64_t rank = 0; rank < 1000; ++rank) {
    EXPECT_EQ(clustered.ItemOfRank(rank), rank);
    EXPECT_EQ(same.ItemOfRank(rank), scrambled.ItemOfRank(rank));
    moved += scrambled.ItemOfRank(rank) != rank;
    differing += scrambled.ItemOfRank(rank) != other.ItemOfRank(rank);
  }
  EXPECT_GT(moved, 900);
  EXPECT_GT(differing, 900);
}

TEST(ZipfItemsTest, ThePopularItemIsTheOneOfTheFirstRank) {
  ZipfItems items(100, 0.99, ZipfOrder::kScrambled, kSeed);
  std::mt19937_64 random(kSeed);
  std::vector<int> seen(100);
  for (int draw = 0; draw < 20'000; ++draw) ++seen.at(items(random));
  EXPECT_EQ(std::max_element(seen.begin(), seen.end()) - seen.begin(), items.ItemOfRank(0));
}

}  // namespace
}  // namespace zmem
