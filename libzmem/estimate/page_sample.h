// Pages of a program chosen at random from all that may be managed, and graded.
// Thread-safe: no state. Reads pages, and keeps nothing of them but their grades.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "libzmem/base/page.h"
#include "libzmem/estimate/observed_program.h"
#include "libzmem/estimate/page_grader.h"

namespace zmem {

// A mapping of the program, and what was found of its pages.
struct SampledMapping {
  AddressRange range;  // of all of it
  uint64_t pages = 0;  // in memory and eligible (AddressMap)
  // Of its resident memory, the share that is eligible: less than all where a stack may lie in it.
  double eligible_share = 1;
  std::vector<GradedPage> sample;
};

struct PageSample {
  std::vector<SampledMapping> mappings;  // ascending
  uint64_t pages = 0;                    // of all mappings
  uint64_t chunks = 0;                   // that they lie in
  bool any_registered = false;           // some of it is registered with a userfaultfd already
};

// Grades `want` pages of the program, or all if it has fewer. Each part of its memory gets as many
// as it has pages: the n-th page is chosen at random from the n-th of `want` equal parts.
// smaps: the text of its mappings as of now.
// Pages that went away meanwhile are left out. Errors: as reading its page map.
absl::StatusOr<PageSample> SamplePages(const ObservedProgram& program, absl::string_view smaps,
                                       uint64_t want, uint64_t seed, PageGrader& grader);

}  // namespace zmem
