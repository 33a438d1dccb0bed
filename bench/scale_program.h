// The program of which bench/scale has many, or a large one: memory that it fills piece by piece
// with pages of little content, so that tens of GiB of it can be out on a machine that has less,
// and threads that wait until they are to touch some. Every page that is touched is checked to its
// last bit.
// Source of the contents: tests/page_pattern.h, PageContent::kThin.
#pragma once

#include <cstdint>
#include <string>

#include "tests/programs/pattern_region.h"

namespace zmem {

class ScaleProgram {
 public:
  struct Options {
    uint64_t pages = 0;        // of its memory
    uint64_t slice_pages = 0;  // that one "fill" fills
    unsigned threads = 1;      // that touch
    double touches_per_s = 0;  // of all of them
    double seconds = 0;        // that one "touch" or "flood" takes at most
  };

  explicit ScaleProgram(const Options& options);

  // Takes commands from stdin until its end:
  //   fill    fills the next pages, as far as there are any
  //   touch   reads one page after the other all over what was filled, at the rate given, each of
  //           them once at most
  //   flood   the same, as fast as the threads can
  //   verify  checks 16,384 pages, or all if there are fewer, evenly spread
  // Answers "ok" or what is wrong; to touch and flood with what was measured, as JSON:
  // {"touches", "elapsed_s", "p50_ns", "p99_ns", "max_ns"}.
  // Returns the program's exit code.
  int Serve();

 private:
  class Toucher;

  std::string Fill();
  std::string Verify() const;

  const Options options_;
  const PatternRegion region_;
  uint64_t filled_ = 0;
};

}  // namespace zmem
