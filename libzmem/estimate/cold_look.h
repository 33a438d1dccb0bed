// How much of a program nobody has touched since the marks were cleared.
// Thread-safe: no state.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/strings/string_view.h"
#include "libzmem/estimate/page_sample.h"

namespace zmem {

struct ColdLook {
  uint64_t resident_bytes = 0;  // of the whole program
  uint64_t eligible_bytes = 0;  // of them, what may be managed
  uint64_t huge_bytes = 0;      // of these, in huge pages
  // Eligible pages not touched, by the sample's mappings, and last those of newer mappings.
  std::vector<double> cold_pages;

  double all_cold_pages() const;
};

// From the text of the program's mappings as of now. What the program has got since the marks were
// cleared is touched; what it has given back counts no more.
ColdLook LookForCold(absl::string_view smaps, const PageSample& sample);

}  // namespace zmem
