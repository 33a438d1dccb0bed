// Whether a figure grows faster than what it depends on. Pure functions.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

namespace zmem {

struct GrowthPoint {
  double amount;  // of what there is, such as programs
  double figure;  // what was measured of so many
};

enum class GrowthKind {
  kFlat,    // it does not depend on the amount, as far as can be told
  kLinear,  // each further unit costs no more than those before
  kFaster,  // each further unit costs more
};

struct Growth {
  GrowthKind kind;
  // What a unit costs in the upper part of the range, over what one costs in the lower; 0 if flat.
  double steepening;
};

// Judges two or more points, amounts ascending and above 0. The lower part of the range ends where
// half of the greatest amount is passed. A growth of less than `noise` (above 0) is none.
inline Growth JudgeGrowth(const std::vector<GrowthPoint>& points, double noise) {
  // Units that cost half as much again are told from a busy machine's noise.
  constexpr double kTolerance = 1.5;
  GrowthPoint first = points.front();
  GrowthPoint last = points.back();
  if (last.figure - first.figure <= noise) return {GrowthKind::kFlat, 0};
  size_t middle = points.size() - 2;
  while (middle > 0 && points[middle].amount > last.amount / 2) --middle;
  // With nothing between the first and the last, what there is of the first is the lower part.
  if (middle == 0) first = {0, 0};
  double lower_amount = points[middle].amount - first.amount;
  double lower = std::max(points[middle].figure - first.figure, noise) / lower_amount;
  double upper = (last.figure - points[middle].figure) / (last.amount - points[middle].amount);
  double steepening = upper / lower;
  return {steepening > kTolerance ? GrowthKind::kFaster : GrowthKind::kLinear, steepening};
}

}  // namespace zmem
