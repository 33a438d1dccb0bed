// Popularity after Zipf's law: the item of rank r is wanted in proportion to (r + 1) ^ -exponent.
// A ZipfRanks draws ranks, a ZipfItems items, whose ranks are scattered over their numbers or not.
// Deterministic for a seed. Immutable but for the random source handed in; not thread-safe with it.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

namespace zmem {

// Exact, in constant time and without a table, by rejection-inversion.
// Source: W. Hörmann, G. Derflinger, Rejection-inversion to generate variates from monotone
// discrete distributions, ACM TOMACS 6(3), 1996. (absl::zipf_distribution takes no exponent
// below 1.)
class ZipfRanks {
 public:
  // Of ranks 0..count-1. count: 1 or more; exponent: above 0, and not 1.
  ZipfRanks(uint64_t count, double exponent);

  uint64_t operator()(std::mt19937_64& random) const;

 private:
  // The integral of x ^ -exponent_, and its inverse.
  double Integral(double x) const;
  double InverseIntegral(double value) const;

  const uint64_t count_;
  const double exponent_;
  double first_ = 0;  // where the ranks' stretches of the integral begin and end
  double last_ = 0;
  double always_ = 0;  // this near below a whole number nothing has to be rejected
};

enum class ZipfOrder {
  kScrambled,  // ranks are dealt out by a random permutation, so that what is popular lies anywhere
  kClustered,  // the item's number is its rank
};

// YCSB's "scrambled zipfian" hashes ranks to items, some of which then share one; here every item
// has exactly one rank, so that which are the most popular is known.
class ZipfItems {
 public:
  // Of items 0..count-1; count: 1 to 2^32.
  ZipfItems(uint64_t count, double exponent, ZipfOrder order, uint64_t seed);

  uint32_t operator()(std::mt19937_64& random) const { return item_of_rank_[ranks_(random)]; }
  uint32_t ItemOfRank(uint64_t rank) const { return item_of_rank_[rank]; }

 private:
  const ZipfRanks ranks_;
  std::vector<uint32_t> item_of_rank_;
};

}  // namespace zmem
