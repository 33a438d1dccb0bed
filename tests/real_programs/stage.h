// Where a program runs once: in a directory of its own and, when it is to be managed, under
// libzmem.so and a daemon that takes its pages out all the time.
// Not thread-safe, except for totals().
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "tests/evictor.h"
#include "tests/harness.h"

namespace zmem {

struct StageOptions {
  bool managed = false;
  bool brief = false;  // the program should do less, for a test that runs often
};

class Stage {
 public:
  explicit Stage(const StageOptions& options);

  bool brief() const { return options_.brief; }
  const TempDir& directory() const { return directory_; }
  // All zero when not managed.
  EvictionTotals totals() const;

  // `argv` as it is to be started here.
  ChildOptions Options(std::vector<std::string> argv) const;
  // Runs a command to its end. Throws, with the end of what it wrote, unless it succeeds.
  CommandResult Run(const ChildOptions& options) const;
  CommandResult Run(std::vector<std::string> argv) const { return Run(Options(std::move(argv))); }

  // Call when the programs have ended. Throws unless pages were taken out and came back, none was
  // poisoned, none is left in the pool, and the daemon ends well.
  void Finish();

 private:
  const StageOptions options_;
  TempDir directory_;
  std::optional<Daemon> daemon_;
  std::optional<Evictor> evictor_;
};

// The last `lines` lines of `text`, for a message.
std::string Tail(const std::string& text, size_t lines);

}  // namespace zmem
