// What bench/versus_kernel compares and what is promised of each: one row of its table for each
// figure. Immutable and thread-safe.
#pragma once

#include <span>

#include "absl/strings/string_view.h"

namespace zmem {

enum class Relation {
  kAtMost,   // the ratio zmem / peer should be no more than the target
  kAtLeast,  // no less
};

struct Row {
  int number;              // of the case
  absl::string_view name;  // unique: "case.figure"
  absl::string_view what;  // for people
  absl::string_view unit;  // of zmem's and the peer's figures
  absl::string_view peer;  // whose figure zmem's is divided by
  Relation relation;
  double target;  // of the ratio

  // "refault" of "refault.p50": what --only names.
  absl::string_view case_name() const { return name.substr(0, name.find('.')); }
  bool Met(double ratio) const {
    return relation == Relation::kAtMost ? ratio <= target : ratio >= target;
  }
};

// In the order of the table.
std::span<const Row> AllRows();

// The row of this name, which there must be.
const Row& RowOf(absl::string_view name);

}  // namespace zmem
