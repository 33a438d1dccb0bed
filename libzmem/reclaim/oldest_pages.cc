#include "libzmem/reclaim/oldest_pages.h"

#include <algorithm>
#include <array>
#include <bit>
#include <memory>
#include <optional>

namespace zmem {
namespace {

// Ages are told apart logarithmically, with 16 steps per doubling, down to the age that a page of
// an epoch has after the longest back-off: however many pages proved hot, they are still told
// apart.
constexpr unsigned kStepBits = 4;
constexpr unsigned kAgeBits = 10 + PageAges::kMaxBackoff;
constexpr size_t kBuckets = (kAgeBits - kStepBits + 1) << kStepBits;
static_assert(kLastEpoch < 1 << 10);

size_t BucketOfAge(unsigned age) {
  if (age < (1u << kStepBits)) return age;
  unsigned shift = static_cast<unsigned>(std::bit_width(age)) - 1 - kStepBits;
  return ((size_t{shift} + 1) << kStepBits) + ((age >> shift) - (1u << kStepBits));
}

// The least age of the bucket.
unsigned AgeOfBucket(size_t bucket) {
  if (bucket < (1u << kStepBits)) return static_cast<unsigned>(bucket);
  unsigned shift = static_cast<unsigned>(bucket >> kStepBits) - 1;
  return static_cast<unsigned>((bucket & ((1u << kStepBits) - 1)) + (1u << kStepBits)) << shift;
}

// The bucket of a page's age; nullopt if it is not to be taken.
std::optional<size_t> BucketOf(const Chunk& chunk, size_t page, Epoch now) {
  if (chunk.Load(page).Has(PageEntry::kIncompressible)) return std::nullopt;
  PageAges::Age age = chunk.ages.Get(page);
  return BucketOfAge(EpochsBetween(age.epoch, now) << PageAges::kMaxBackoff >> age.backoff);
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
  oldest.residence_epochs = std::max(AgeOfBucket(threshold) >> PageAges::kMaxBackoff, 1u);
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
