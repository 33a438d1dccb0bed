#include "libzmem/reclaim/cold_scanner.h"

#include <algorithm>

namespace zmem {

const ColdScanner::Known& ColdScanner::Update(uint64_t chunk_number, const wire::PageSet& present,
                                              Chunk* chunk, int64_t now_ns) {
  auto [found, is_new] = chunks_.try_emplace(chunk_number);
  Known& known = found->second;
  known.seen = true;
  wire::PageSet came = present.Without(known.present);
  bool has_changed = is_new || !came.empty() || !known.present.Without(present).empty();
  known.present = present;
  if (chunk == nullptr) {
    known.has_ages = false;
    if (has_changed) known.changed_ns = now_ns;
  } else if (!known.has_ages) {
    known.has_ages = true;
    if (is_new) known.changed_ns = now_ns;
    Epoch since = epochs_.At(known.changed_ns);
    for (size_t page = 0; page < kPagesPerChunk; ++page) chunk->ages.SetEpoch(page, since);
  }
  if (chunk != nullptr) {
    for (size_t page = came.Next(0, true); page < kPagesPerChunk;
         page = came.Next(page + 1, true)) {
      chunk->ages.SetEpoch(page, epochs_.now());
    }
  }
  return known;
}

wire::PageSet ColdScanner::Observe(uint64_t chunk_number, const wire::PageSet& present,
                                   Chunk* chunk, int64_t cold_age_ns, int64_t now_ns) {
  const Known& known = Update(chunk_number, present, chunk, now_ns);
  if (known.backoff > 1 && now_ns - known.hot_ns < cold_age_ns * int64_t{known.backoff}) return {};
  if (chunk != nullptr) return ColdPages(present, *chunk, cold_age_ns, now_ns);
  return now_ns - known.changed_ns >= cold_age_ns ? present : wire::PageSet{};
}

wire::PageSet ColdScanner::ColdPages(const wire::PageSet& present, const Chunk& chunk,
                                     int64_t cold_age_ns, int64_t now_ns) const {
  wire::PageSet cold;
  for (size_t page = present.Next(0, true); page < kPagesPerChunk;
       page = present.Next(page + 1, true)) {
    PageAges::Age age = chunk.ages.Get(page);
    if (epochs_.AgeNs(age.epoch, now_ns) >> age.backoff >= cold_age_ns) cold.Add(page);
  }
  return cold;
}

void ColdScanner::OnTaken(uint64_t chunk_number, const wire::PageSet& pages) {
  Known& known = chunks_[chunk_number];
  known.present = known.present.Without(pages);
}

void ColdScanner::OnReturned(uint64_t chunk_number, const wire::PageSet& pages) {
  Known& known = chunks_[chunk_number];
  known.present = known.present.Or(pages);
}

void ColdScanner::OnHot(uint64_t chunk_number, int64_t now_ns) {
  Known& known = chunks_[chunk_number];
  known.hot_ns = now_ns;
  known.backoff = std::min(known.backoff * 2, kMaxBackoff);
}

void ColdScanner::OnCold(uint64_t chunk_number) {
  Known& known = chunks_[chunk_number];
  known.backoff = std::max(known.backoff / 2, 1u);
}

void ColdScanner::ForgetUnseen() {
  absl::erase_if(chunks_, [](auto& entry) {
    bool forget = !entry.second.seen;
    entry.second.seen = false;
    return forget;
  });
}

}  // namespace zmem
