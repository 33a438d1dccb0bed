#include "tests/real_programs/comparison.h"

#include <algorithm>
#include <chrono>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace zmem {
namespace {

constexpr size_t kDifferingLines = 20;

// The lines that only one of two results has.
std::string Difference(const std::string& unmanaged, const std::string& managed) {
  std::multiset<std::string> only_unmanaged = absl::StrSplit(unmanaged, '\n');
  std::multiset<std::string> only_managed;
  for (const std::string& line : std::vector<std::string>(absl::StrSplit(managed, '\n'))) {
    auto same = only_unmanaged.find(line);
    if (same == only_unmanaged.end()) {
      only_managed.insert(line);
    } else {
      only_unmanaged.erase(same);
    }
  }
  std::vector<std::string> lines;
  for (const std::string& line : only_unmanaged) lines.push_back("unmanaged: " + line);
  for (const std::string& line : only_managed) lines.push_back("managed:   " + line);
  if (lines.empty()) return "the same lines in another order";
  lines.resize(std::min(lines.size(), kDifferingLines));
  return absl::StrJoin(lines, "\n");
}

// Runs `program` on `stage`, and tells the observer of its end whatever happens.
std::string RunOn(Stage& stage, const Program& program, bool managed, const RunObserver& observer,
                  double& taken_s) {
  struct Ending {
    const RunObserver& observer;
    ~Ending() {
      if (observer.ended) observer.ended();
    }
  } ending{observer};
  if (observer.started) observer.started(stage, managed);
  auto start = std::chrono::steady_clock::now();
  std::string result = program.run(stage);
  taken_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

void CompareInstalled(const Program& program, bool brief, const RunObserver& observer,
                      Comparison& comparison) {
  Stage plain({.managed = false, .brief = brief});
  std::string unmanaged = RunOn(plain, program, false, observer, comparison.unmanaged_s);
  Stage stage({.managed = true, .brief = brief});
  std::string managed;
  try {
    managed = RunOn(stage, program, true, observer, comparison.managed_s);
    stage.Finish();
  } catch (const std::exception& error) {
    comparison.totals = stage.totals();
    throw HarnessError(absl::StrCat("managed: ", error.what()));
  }
  comparison.totals = stage.totals();
  if (managed == unmanaged) {
    comparison.verdict = Verdict::kEqual;
  } else {
    comparison.verdict = Verdict::kDifferent;
    comparison.reason = Difference(unmanaged, managed);
  }
}

}  // namespace

const char* VerdictName(Verdict verdict) {
  switch (verdict) {
    case Verdict::kEqual:
      return "equal";
    case Verdict::kDifferent:
      return "DIFFERENT";
    case Verdict::kFailed:
      return "FAILED";
    case Verdict::kSkipped:
      return "skipped";
  }
  return "?";
}

Comparison Compare(const Program& program, bool brief, const RunObserver& observer) {
  Comparison comparison{.name = program.name, .what = program.what};
  try {
    if (!program.is_installed()) {
      comparison.reason = "not installed: " + absl::StrJoin(program.packages, " ");
      return comparison;
    }
    CompareInstalled(program, brief, observer, comparison);
  } catch (const std::exception& error) {
    comparison.verdict = Verdict::kFailed;
    comparison.reason = error.what();
  }
  return comparison;
}

}  // namespace zmem
