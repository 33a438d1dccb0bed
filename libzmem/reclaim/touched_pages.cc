#include "libzmem/reclaim/touched_pages.h"

#include <algorithm>
#include <utility>

namespace zmem {
namespace {

// By one call at most.
constexpr uint64_t kChunksCleared = 16;

std::vector<uint64_t> ChunkNumbers(std::span<const Candidate> candidates) {
  std::vector<uint64_t> numbers;
  numbers.reserve(candidates.size());
  for (const Candidate& candidate : candidates) numbers.push_back(candidate.chunk_number);
  return numbers;
}

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
  constexpr uint64_t kMostBytes = kChunksCleared * kChunkBytes;
  bool is_near = !ranges.empty() && range.start - ranges.back().end < kChunkBytes &&
                 range.end - ranges.back().start <= kMostBytes;
  if (is_near) {
    ranges.back().end = range.end;
  } else {
    ranges.push_back(range);
  }
}

}  // namespace

std::vector<wire::PageSet> TouchedPages::Accessed(const std::vector<uint64_t>& chunk_numbers) {
  if (!can_see()) return {};
  std::vector<wire::PageSet> accessed(chunk_numbers.size());
  if (!bits_->Read(process_.pid, chunk_numbers, accessed)) accessed.clear();
  return accessed;
}

bool TouchedPages::IsSpared(uint64_t chunk_number, Effort effort) const {
  auto hot = hot_looks_.find(chunk_number);
  if (effort == Effort::kFull || hot == hot_looks_.end() || hot->second < kHotLooks) return false;
  // Neighbours have their turn together, as they are cleared together.
  return (looks_ + chunk_number / kChunksCleared) % kSparingLooks != 0;
}

std::vector<TouchedPages::Touched> TouchedPages::Look(std::span<const Candidate> candidates,
                                                      Effort effort) {
  cleared_.clear();
  ++looks_;
  std::vector<Touched> touched(candidates.size());
  std::vector<wire::PageSet> accessed = Accessed(ChunkNumbers(candidates));
  absl::flat_hash_map<uint64_t, uint8_t> hot_looks;
  std::vector<AddressRange> ranges;
  std::vector<Candidate> clearing;
  for (size_t i = 0; i < accessed.size(); ++i) {
    const Candidate& candidate = candidates[i];
    uint64_t number = candidate.chunk_number;
    touched[i] = accessed[i].And(candidate.pages);
    bool is_hot = candidate.pages.Without(*touched[i]).empty();
    if (is_hot) {
      auto before = hot_looks_.find(number);
      hot_looks[number] =
          before == hot_looks_.end() ? 1 : std::min<uint8_t>(before->second + 1, kHotLooks);
    }
    if (touched[i]->empty()) {
      cleared_[number] = candidate.pages;
    } else if (!is_hot || !IsSpared(number, effort)) {
      AddRange(RangeAround(number, accessed[i]), ranges);
      clearing.push_back(candidate);
    }
  }
  hot_looks_ = std::move(hot_looks);
  if (clearing.empty()) return touched;
  bits_->Clear(process_.pidfd.get(), ranges);
  std::vector<wire::PageSet> kept = Accessed(ChunkNumbers(clearing));
  for (size_t i = 0; i < kept.size(); ++i) {
    cleared_[clearing[i].chunk_number] = clearing[i].pages.Without(kept[i]);
  }
  return touched;
}

std::vector<TouchedPages::Touched> TouchedPages::SinceLook(std::span<const Candidate> candidates) {
  std::vector<Touched> touched(candidates.size());
  std::vector<wire::PageSet> accessed = Accessed(ChunkNumbers(candidates));
  for (size_t i = 0; i < accessed.size(); ++i) {
    auto cleared = cleared_.find(candidates[i].chunk_number);
    wire::PageSet known = cleared == cleared_.end() ? wire::PageSet{} : cleared->second;
    touched[i] = accessed[i].And(candidates[i].pages).And(known);
  }
  return touched;
}

}  // namespace zmem
