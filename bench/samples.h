// Percentiles of a set of measured values. Pure functions.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace zmem {

// The `percent`-th percentile by nearest rank (0 < percent <= 100); 0 of nothing.
inline int64_t Percentile(const std::vector<int64_t>& sorted, double percent) {
  if (sorted.empty()) return 0;
  // A rank that is whole but for the rounding of `percent` is whole.
  constexpr double kRounding = 1e-9;
  double rank_at_least = percent / 100 * static_cast<double>(sorted.size()) - kRounding;
  auto rank = static_cast<size_t>(std::ceil(rank_at_least));
  return sorted[std::clamp<size_t>(rank, 1, sorted.size()) - 1];
}

// The middle value, the mean of the two middle ones of an even number; 0 of nothing.
inline double Median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

}  // namespace zmem
