// Runs a program as it is and managed, and says whether that made a difference.
#pragma once

#include <functional>
#include <string>

#include "tests/real_programs/program.h"

namespace zmem {

enum class Verdict {
  kEqual,      // the same result twice, and every self-check passed
  kDifferent,  // both runs ended well with different results
  kFailed,     // a run failed, or nothing was taken out of it
  kSkipped,    // not installed
};
const char* VerdictName(Verdict verdict);

struct Comparison {
  std::string name;
  std::string what;
  double unmanaged_s = 0;
  double managed_s = 0;
  EvictionTotals totals;
  Verdict verdict = Verdict::kSkipped;
  std::string reason;  // of every verdict but kEqual
};

// Told of each of the two runs when its stage is set and when it ends.
struct RunObserver {
  std::function<void(const Stage& stage, bool managed)> started;
  std::function<void()> ended;
};

// Never throws: what is thrown becomes the reason of kFailed.
Comparison Compare(const Program& program, bool brief, const RunObserver& observer = {});

}  // namespace zmem
