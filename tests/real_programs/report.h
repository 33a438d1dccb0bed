// What `real_programs` prints: a line that follows the run that is on, and a table at the end.
#pragma once

#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "tests/real_programs/comparison.h"

namespace zmem {

// Follows one run until it is destroyed: on a terminal a line that redraws itself, elsewhere one
// line at the start and one at the end.
class RunLine {
 public:
  // `stage` must outlive it.
  RunLine(const std::string& name, bool managed, const Stage& stage);
  ~RunLine();
  RunLine(const RunLine&) = delete;
  RunLine& operator=(const RunLine&) = delete;

 private:
  std::string Text() const;

  const std::string title_;
  const Stage& stage_;
  const bool on_terminal_;
  const std::chrono::steady_clock::time_point start_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

// Columns that line up, then the reasons of every verdict but "equal".
void PrintTable(const std::vector<Comparison>& comparisons);

// The same as JSON. Throws HarnessError if `path` cannot be written.
void WriteReport(const std::string& path, bool brief, const std::vector<Comparison>& comparisons);

}  // namespace zmem
