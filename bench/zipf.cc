#include "bench/zipf.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "libzmem/base/check.h"

namespace zmem {

// Ranks are counted from 1 in here, as in the paper.
ZipfRanks::ZipfRanks(uint64_t count, double exponent) : count_(count), exponent_(exponent) {
  ZMEM_CHECK(count >= 1);
  ZMEM_CHECK(exponent > 0 && exponent != 1);
  first_ = Integral(1.5) - 1;
  last_ = Integral(static_cast<double>(count) + 0.5);
  always_ = 2 - InverseIntegral(Integral(2.5) - std::pow(2, -exponent));
}

uint64_t ZipfRanks::operator()(std::mt19937_64& random) const {
  std::uniform_real_distribution<double> uniform(0, 1);
  while (true) {
    double value = last_ + uniform(random) * (first_ - last_);
    double x = InverseIntegral(value);
    uint64_t rank = std::clamp<uint64_t>(static_cast<uint64_t>(x + 0.5), 1, count_);
    auto whole = static_cast<double>(rank);
    if (whole - x <= always_ || value >= Integral(whole + 0.5) - std::pow(whole, -exponent_)) {
      return rank - 1;
    }
  }
}

double ZipfRanks::Integral(double x) const {
  return (std::pow(x, 1 - exponent_) - 1) / (1 - exponent_);
}

double ZipfRanks::InverseIntegral(double value) const {
  return std::pow(1 + value * (1 - exponent_), 1 / (1 - exponent_));
}

ZipfItems::ZipfItems(uint64_t count, double exponent, ZipfOrder order, uint64_t seed)
    : ranks_(count, exponent), item_of_rank_(count) {
  std::iota(item_of_rank_.begin(), item_of_rank_.end(), 0);
  if (order == ZipfOrder::kClustered) return;
  std::shuffle(item_of_rank_.begin(), item_of_rank_.end(), std::mt19937_64(seed));
}

}  // namespace zmem
