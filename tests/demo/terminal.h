// What the demo prints: progress bars that redraw themselves on a terminal and become a few plain
// lines elsewhere, and numbers as people read them. Not thread-safe.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace zmem {

// Whether stdout is a terminal: only then is anything redrawn or coloured.
bool OnTerminal();

// `text` in bold, or in green or red bold, on a terminal.
std::string Bold(const std::string& text);
std::string Good(const std::string& text);
std::string Bad(const std::string& text);

// 1234567 as "1,234,567".
std::string WithCommas(int64_t number);
// Bytes as "512.3 MiB".
std::string Mib(int64_t bytes);
// Nanoseconds as "840 ns", "3.4 µs" or "1.2 ms".
std::string Duration(int64_t ns);

// One step of the demo: a title, a bar and a note, and at the end the time it took.
class Progress {
 public:
  explicit Progress(std::string title);

  // `fraction` of the step is done, 0 to 1. Redraws at most ten times a second.
  void Update(double fraction, const std::string& note);
  // The step is done; `note` stays.
  void Finish(const std::string& note);

 private:
  void Draw(double fraction, const std::string& note, bool last);

  const std::string title_;
  const std::chrono::steady_clock::time_point start_;
  std::chrono::steady_clock::time_point drawn_;
  int next_quarter_ = 1;  // of the plain lines
};

}  // namespace zmem
