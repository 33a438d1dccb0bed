#include "libzmem/reclaim/cold_scanner.h"

#include <algorithm>

namespace zmem {

ColdScanner::Known& ColdScanner::Update(const Look& look, int64_t now_ns) {
  auto [found, is_new] = chunks_.try_emplace(look.chunk_number);
  Known& known = found->second;
  known.seen = true;
  wire::PageSet came = look.present.Without(known.present);
  bool has_changed = is_new || !came.empty() || !known.present.Without(look.present).empty();
  known.present = look.present;
  if (is_new) known.changed_ns = now_ns;
  if (look.chunk == nullptr) {
    if (known.has_ages) {  // it was in the table: watched afresh
      known.has_ages = false;
      known.changed_ns = now_ns;
      known.touched = {};
    }
    // Everything has been touched before it was first looked at.
    if (look.touched && !is_new) known.touched = known.touched.Or(*look.touched);
    if (!look.touched && has_changed) known.changed_ns = now_ns;
    return known;
  }
  wire::PageSet fresh = came.Or(look.touched.value_or(wire::PageSet{}));
  if (!known.has_ages) {
    known.has_ages = true;
    fresh = fresh.Or(known.touched);
    Epoch since = epochs_.At(known.changed_ns);
    for (size_t page = 0; page < kPagesPerChunk; ++page) look.chunk->ages.SetEpoch(page, since);
  }
  for (size_t page = fresh.Next(0, true); page < kPagesPerChunk;
       page = fresh.Next(page + 1, true)) {
    look.chunk->ages.SetEpoch(page, epochs_.now());
  }
  return known;
}

wire::PageSet ColdScanner::Observe(const Look& look, int64_t cold_age_ns, int64_t now_ns) {
  Known& known = Update(look, now_ns);
  if (known.backoff > 1 && now_ns - known.hot_ns < cold_age_ns * int64_t{known.backoff}) return {};
  if (look.chunk != nullptr) return ColdPages(look.present, *look.chunk, cold_age_ns, now_ns);
  return ColdOfWhole(known, look.touched.has_value(), cold_age_ns, now_ns);
}

wire::PageSet ColdScanner::ColdOfWhole(Known& known, bool is_watched, int64_t cold_age_ns,
                                       int64_t now_ns) {
  int64_t age_ns = now_ns - known.changed_ns;
  if (age_ns < cold_age_ns) return {};
  wire::PageSet cold = known.present.Without(known.touched);
  // What was touched long ago may be cold by now.
  constexpr int64_t kWatchedAges = 2;
  if (is_watched && age_ns >= kWatchedAges * cold_age_ns) {
    known.changed_ns = now_ns;
    known.touched = {};
  }
  return cold;
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
