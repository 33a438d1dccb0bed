// A bar on a terminal for work that takes longer than a glance.
// Not thread-safe. Writes nothing during the first two seconds, and nothing at all to what is not a
// terminal.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/strings/string_view.h"
#include "libzmem/base/clock.h"
#include "zmemd/control.h"

namespace zmem {

// One line of at most `columns` places, without a line feed:
//   evict 1234  [=========>          ]  45 %  58,982 of 131,072 pages, 12 s left
std::string RenderProgress(absl::string_view what, const ControlProgress& progress,
                           int64_t elapsed_ns, size_t columns);

class ProgressBar {
 public:
  using Sink = std::function<void(absl::string_view)>;

  // `write` puts bytes on the terminal of `columns` places; empty where there is no terminal.
  ProgressBar(std::string what, const Clock& clock, size_t columns, Sink write);
  // Wipes the bar.
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  void Update(const ControlProgress& progress);

 private:
  const std::string what_;
  const Clock& clock_;
  const size_t columns_;
  const Sink write_;
  const int64_t start_ns_;
  int64_t drawn_ns_ = 0;
  bool drawn_ = false;
};

}  // namespace zmem
