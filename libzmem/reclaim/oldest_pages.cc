#include "libzmem/reclaim/oldest_pages.h"

#include <algorithm>
#include <array>
#include <memory>
#include <optional>

namespace zmem {
namespace {

// Ages are told apart up to this many epochs.
constexpr size_t kBuckets = 256;

// The bucket of a page's age; nullopt if it is not to be taken.
std::optional<size_t> BucketOf(const Chunk& chunk, size_t page, Epoch now) {
  if (chunk.Load(page).Has(PageEntry::kIncompressible)) return std::nullopt;
  PageAges::Age age = chunk.ages.Get(page);
  return std::min<size_t>(EpochsBetween(age.epoch, now) >> age.backoff, kBuckets - 1);
}

}  // namespace

OldestPages PickOldest(const std::vector<Candidate>& present, PageTable& table, Epoch now,
                       size_t most) {
  std::array<size_t, kBuckets> pages_of{};
  for (const Candidate& candidate : present) {
    std::shared_ptr<Chunk> chunk = table.Find(candidate.chunk_number);
    if (chunk == nullptr) continue;
    for (size_t page = candidate.pages.Next(0, true); page < kPagesPerChunk;
         page = candidate.pages.Next(page + 1, true)) {
      if (auto bucket = BucketOf(*chunk, page, now)) ++pages_of[*bucket];
    }
  }
  size_t threshold = kBuckets - 1;
  for (size_t sum = pages_of[threshold]; sum < most && threshold > 0;) sum += pages_of[--threshold];

  struct Picked {
    Candidate candidate;
    size_t oldest;
  };
  std::vector<Picked> picked;
  for (const Candidate& candidate : present) {
    std::shared_ptr<Chunk> chunk = table.Find(candidate.chunk_number);
    if (chunk == nullptr) continue;
    Picked of_chunk{{candidate.chunk_number, {}}, 0};
    for (size_t page = candidate.pages.Next(0, true); page < kPagesPerChunk;
         page = candidate.pages.Next(page + 1, true)) {
      auto bucket = BucketOf(*chunk, page, now);
      if (!bucket || *bucket < threshold) continue;
      of_chunk.candidate.pages.Add(page);
      of_chunk.oldest = std::max(of_chunk.oldest, *bucket);
    }
    if (!of_chunk.candidate.pages.empty()) picked.push_back(of_chunk);
  }
  std::stable_sort(picked.begin(), picked.end(),
                   [](const Picked& a, const Picked& b) { return a.oldest > b.oldest; });

  OldestPages oldest;
  oldest.residence_epochs = static_cast<unsigned>(std::max<size_t>(threshold, 1));
  size_t sum = 0;
  for (const Picked& of_chunk : picked) {
    if (sum >= most) break;
    sum += of_chunk.candidate.pages.count();
    oldest.chunks.push_back(of_chunk.candidate);
  }
  std::reverse(oldest.chunks.begin(), oldest.chunks.end());
  return oldest;
}

}  // namespace zmem
