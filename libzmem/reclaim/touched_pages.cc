#include "libzmem/reclaim/touched_pages.h"

namespace zmem {
namespace {

// From the first of `pages` to the last. A huge page's are all of its chunk's, and so stay together
// where only some of them are a candidate's.
AddressRange RangeAround(uint64_t chunk_number, const wire::PageSet& pages) {
  Address start = chunk_number << kChunkShift;
  size_t end = kPagesPerChunk;
  while (end > 0 && !pages.Has(end - 1)) --end;
  return {start + pages.Next(0, true) * kPageBytes, start + end * kPageBytes};
}

// Each range costs every CPU that runs the program an interrupt, and its length the time for which
// the program can change no mapping.
void AddRange(AddressRange range, std::vector<AddressRange>& ranges) {
  constexpr uint64_t kMostBytes = 16 * kChunkBytes;
  bool is_near = !ranges.empty() && range.start - ranges.back().end < kChunkBytes &&
                 range.end - ranges.back().start <= kMostBytes;
  if (is_near) {
    ranges.back().end = range.end;
  } else {
    ranges.push_back(range);
  }
}

}  // namespace

std::vector<wire::PageSet> TouchedPages::Accessed(std::span<const Candidate> candidates) {
  if (!can_see()) return {};
  std::vector<uint64_t> numbers;
  for (const Candidate& candidate : candidates) numbers.push_back(candidate.chunk_number);
  std::vector<wire::PageSet> accessed(candidates.size());
  return bits_->Read(process_.pid, numbers, accessed) ? accessed : std::vector<wire::PageSet>();
}

std::vector<TouchedPages::Touched> TouchedPages::Look(std::span<const Candidate> candidates) {
  cleared_.clear();
  std::vector<Touched> touched(candidates.size());
  std::vector<wire::PageSet> accessed = Accessed(candidates);
  std::vector<AddressRange> ranges;
  for (size_t i = 0; i < accessed.size(); ++i) {
    touched[i] = accessed[i].And(candidates[i].pages);
    if (touched[i]->empty()) continue;
    AddRange(RangeAround(candidates[i].chunk_number, accessed[i]), ranges);
  }
  if (accessed.empty()) return touched;
  bits_->Clear(process_.pidfd.get(), ranges);
  std::vector<wire::PageSet> kept = Accessed(candidates);
  for (size_t i = 0; i < kept.size(); ++i) {
    cleared_[candidates[i].chunk_number] = candidates[i].pages.Without(kept[i]);
  }
  return touched;
}

std::vector<TouchedPages::Touched> TouchedPages::SinceLook(std::span<const Candidate> candidates) {
  std::vector<Touched> touched(candidates.size());
  std::vector<wire::PageSet> accessed = Accessed(candidates);
  for (size_t i = 0; i < accessed.size(); ++i) {
    auto cleared = cleared_.find(candidates[i].chunk_number);
    wire::PageSet known = cleared == cleared_.end() ? wire::PageSet{} : cleared->second;
    touched[i] = accessed[i].And(candidates[i].pages).And(known);
  }
  return touched;
}

}  // namespace zmem
