// What zmem would save of a program, found by looking at it: a sample of its pages is compressed,
// and the kernel's marks tell what it leaves untouched for how long.
// Thread-safe: no state. The program is read, not changed, except for those marks
// (ObservedProgram::ClearTouched). Nothing of a page's contents is kept or told.
//
// What the figures rest on: a huge page has one mark, so it looks touched as a whole; zmem leaves
// 2 MiB alone of which more than an eighth is wanted back, so that touches scattered over all of
// the memory cost more than they do here; while the host is short of memory the kernel clears marks
// itself, and memory looks colder than it is.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "libzmem/base/clock.h"
#include "libzmem/estimate/saving.h"

namespace zmem {

// Pages that a zmemd has taken out of the program already.
struct PagesOut {
  uint64_t original_bytes = 0;
  uint64_t held_bytes = 0;  // what they need in the pool
};

struct EstimateOptions {
  std::vector<int64_t> ages_ns;  // at which to look, ascending, one at least
  uint64_t sample_pages = 4096;
  uint64_t seed = 0;
  unsigned fat_percent = 90;  // fat_threshold_percent without a backing file
  // As of now; asked at each look. Empty: none are out.
  std::function<PagesOut()> pages_out;
  // Called some times a second while it waits, and before each look.
  std::function<void(int64_t elapsed_ns, int64_t total_ns)> progress;
};

struct EstimatedAge {
  int64_t age_ns = 0;  // as it was when looked
  uint64_t resident_bytes = 0;
  uint64_t eligible_bytes = 0;  // of them
  PagesOut out;                 // cold, and not resident
  double cold_bytes = 0;        // eligible and untouched since, and what is out
  struct OfCodec {
    double out_bytes = 0;  // would be out, with what is out already
    double pool_bytes = 0;
    uint64_t metadata_bytes = 0;
    Estimated net_bytes;  // out less pool and metadata; negative: a loss
  };
  std::vector<OfCodec> codecs;  // in the order of CodecNames()
};

struct Estimate {
  uint64_t resident_bytes = 0;  // before the first look
  uint64_t eligible_bytes = 0;  // of them
  uint64_t huge_bytes = 0;      // of these, in huge pages
  uint64_t eligible_pages = 0;  // that the sample was taken from
  uint64_t sampled_pages = 0;
  bool any_registered = false;  // a zmemd or the program itself handles some faults already
  Estimated same_filled_share;
  std::vector<CodecResult> codecs;  // in the order of CodecNames()
  std::vector<EstimatedAge> ages;
};

// Takes as long as the last age. Errors: as ObservedProgram; FailedPrecondition when the program
// has no memory that may be managed.
absl::StatusOr<Estimate> EstimateProcess(pid_t pid, const EstimateOptions& options,
                                         const Clock& clock);

}  // namespace zmem
