// What the program has advised (libzmem/zmem.h, store/advice.h), as far as it is the reclaimer's to
// do: cold ranges go out at once, whatever their age and the stall budget; mappings that are kept
// are registered, so that their end is told.

#include <algorithm>

#include "libzmem/reclaim/reclaimer.h"

namespace zmem {
namespace {

wire::PageSet PagesIn(uint64_t chunk_number, const std::vector<AddressRange>& ranges) {
  wire::PageSet pages;
  Address start = chunk_number << kChunkShift;
  for (AddressRange range : ranges) {
    AddressRange part = range.Intersect({start, start + kChunkBytes});
    if (part.empty()) continue;
    size_t first = PageInChunk(part.start);
    pages.AddRange(first, first + part.pages());
  }
  return pages;
}

}  // namespace

Reclaimer::Candidate Reclaimer::Within(const Candidate& candidate,
                                       const std::vector<AddressRange>& ranges) {
  return {candidate.chunk_number, candidate.present.And(PagesIn(candidate.chunk_number, ranges))};
}

absl::Status Reclaimer::FollowAdvice() {
  std::vector<AddressRange> kept = process_.advice.TakeUnwatched();
  if (!kept.empty()) {
    if (absl::Status status = WatchKept(kept); !status.ok()) return status;
  }
  std::vector<AddressRange> cold = process_.advice.TakeCold();
  return cold.empty() ? absl::OkStatus() : TakeOutCold(cold);
}

absl::Status Reclaimer::WatchKept(const std::vector<AddressRange>& kept) {
  std::vector<AddressRange> excluded{
      process_.agent, process_.staging, {process_.token_page, process_.token_page + kPageBytes}};
  absl::StatusOr<AddressMap> map = AddressMap::Read(process_.pid, excluded);
  if (!map.ok()) return absl::UnavailableError("the program is gone");
  size_t registered = map->registered().size();
  // One part stands for its mapping, which is registered as a whole.
  AddressRange watched{};
  for (AddressRange eligible : map->eligible()) {
    auto next = std::partition_point(
        kept.begin(), kept.end(), [&](AddressRange range) { return range.end <= eligible.start; });
    AddressRange part = next == kept.end() ? AddressRange{} : next->Intersect(eligible);
    if (part.empty() || watched.Contains(part.start)) continue;
    auto mapping =
        std::partition_point(map->mappings().begin(), map->mappings().end(),
                             [part](AddressRange each) { return each.end <= part.start; });
    if (mapping == map->mappings().end()) continue;
    part.end = std::min(part.end, ChunkStart(part.start) + kChunkBytes);
    if (registered >= kMaxRegisteredMappings) break;
    if (!isolator_.Register(part, *mapping)) continue;
    watched = *mapping;
    ++registered;
  }
  return absl::OkStatus();
}

absl::Status Reclaimer::TakeOutCold(const std::vector<AddressRange>& cold) {
  absl::StatusOr<Survey> survey = Look();
  if (!survey.ok()) return survey.status();
  for (const Candidate& candidate : survey->chunks) {
    Candidate wanted = Within(candidate, cold);
    bool registered = wanted.present.empty() || FullyRegistered(wanted);
    if (!registered) RegisterChunk(wanted.chunk_number, survey->map);
  }
  // Again, as in LookRegistered, but for what was named alone.
  survey = Look();
  if (!survey.ok()) return survey.status();
  bool pool_full = false;
  if (TakeSlab() == kNoSlab) {
    if (absl::Status status = StoreStaged(&pool_full); !status.ok()) return status;
  }
  for (const Candidate& candidate : survey->chunks) {
    Candidate wanted = Within(candidate, cold);
    if (wanted.present.empty()) continue;
    // Advice that comes too late, or finds no place, is not followed.
    if (Interrupted() || pool_full) break;
    if (absl::Status status = SettleForFork(); !status.ok()) return status;
    absl::StatusOr<size_t> evicted = EvictChunk(wanted, &pool_full);
    if (!evicted.ok()) return evicted.status();
    if (*evicted == kNoSlab) break;
  }
  return absl::OkStatus();
}

}  // namespace zmem
