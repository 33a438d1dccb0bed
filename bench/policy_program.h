// The program whose hot set bench/policy looks after: it touches its pages as a PageTrace says,
// checks each, writes to every eighth, and counts its faults as the kernel does. Single-threaded.
#pragma once

#include <cstdint>
#include <string>

#include "bench/page_trace.h"
#include "bench/stamped_pages.h"

namespace zmem {

// A stretch is reported in slices of so many touches, the last of which may be shorter.
inline constexpr uint64_t kSliceTouches = 50'000;

class PolicyProgram {
 public:
  explicit PolicyProgram(const PageTrace::Options& options)
      : options_(options), trace_(options), pages_(options.pages) {}

  // Takes commands from stdin until its end, answered by "ok" or what is wrong:
  //   fill      fills every page
  //   touch     does the next stretch of the trace; answers with JSON, a list of slices:
  //             [nanoseconds since the stretch began, minor faults, major faults]
  //   resident  answers with the number of pages that are in memory
  //   verify    checks every word of every page
  // Returns the program's exit code.
  int Serve();

 private:
  std::string Fill();
  std::string Touch();
  // Empty if every page was right.
  std::string TouchSlice(uint64_t touches);
  std::string CountResident() const;
  std::string Verify() const;

  const PageTrace::Options options_;
  PageTrace trace_;
  StampedPages pages_;
  size_t stretch_ = 0;  // that is next
  uint64_t turn_ = 0;   // touches so far
};

}  // namespace zmem
