// Which pages the program touches, where the kernel can be made to show it (uffd/accessed_bits.h):
// looked at again and again, so that what was touched since the last look is told from what was
// not. Belongs to the reclaimer's thread.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "libzmem/reclaim/survey.h"
#include "libzmem/store/process.h"
#include "libzmem/uffd/accessed_bits.h"
#include "libzmem/wire/messages.h"

namespace zmem {

class TouchedPages {
 public:
  // Of one candidate; nullopt where it cannot be seen.
  using Touched = std::optional<wire::PageSet>;

  // `bits` is null where touches cannot be seen.
  TouchedPages(const Process& process, AccessedBits* bits) : process_(process), bits_(bits) {}

  bool can_see() const { return bits_ != nullptr; }
  // Begins a look: of each candidate, in order, the pages that were touched since the last one.
  // What came since counts as touched.
  std::vector<Touched> Look(std::span<const Candidate> candidates);
  // Of each candidate, in order, the pages that are known to have been touched since the last look.
  std::vector<Touched> SinceLook(std::span<const Candidate> candidates);

 private:
  // Of each candidate the pages of its chunk whose accessed bits are set; empty if they cannot be
  // read.
  std::vector<wire::PageSet> Accessed(std::span<const Candidate> candidates);

  const Process& process_;
  AccessedBits* const bits_;
  // Pages whose bits were seen cleared after the last look, by chunk number: what keeps its bit
  // then, because forked relatives share it or it came just now, shows nothing by it.
  absl::flat_hash_map<uint64_t, wire::PageSet> cleared_;
};

}  // namespace zmem
