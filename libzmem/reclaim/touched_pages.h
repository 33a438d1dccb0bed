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
  // kSparing leaves the bits of chunks that are touched all over again and again as they are, but
  // in every so many looks: clearing them is most of what a look costs. Such a chunk's pages count
  // as touched until then.
  enum class Effort { kFull, kSparing };
  // Begins a look: of each candidate, in order, the pages that were touched since the last one.
  // What came since counts as touched.
  std::vector<Touched> Look(std::span<const Candidate> candidates, Effort effort = Effort::kFull);
  // Of each candidate, in order, the pages that are known to have been touched since the last look.
  std::vector<Touched> SinceLook(std::span<const Candidate> candidates);

  // Looks in which all of a chunk was touched after which it is spared, and how often its bits are
  // cleared from then on.
  static constexpr uint8_t kHotLooks = 4;
  static constexpr uint64_t kSparingLooks = 4;

 private:
  // The pages of each chunk whose accessed bits are set; empty if they cannot be read.
  std::vector<wire::PageSet> Accessed(const std::vector<uint64_t>& chunk_numbers);
  // Whether the bits of a chunk that is touched all over are left as they are in this look.
  bool IsSpared(uint64_t chunk_number, Effort effort) const;

  const Process& process_;
  AccessedBits* const bits_;
  // Pages whose bits were seen cleared after the last look, by chunk number: what keeps its bit
  // then, because forked relatives share it or it came just now, shows nothing by it.
  absl::flat_hash_map<uint64_t, wire::PageSet> cleared_;
  // In how many looks in a row before this all of a chunk was touched, kHotLooks at most, by its
  // number.
  absl::flat_hash_map<uint64_t, uint8_t> hot_looks_;
  uint64_t looks_ = 0;
};

}  // namespace zmem
