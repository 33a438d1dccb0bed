// What the program has advised (libzmem/zmem.h, store/advice.h), as far as it is the reclaimer's to
// do: cold ranges go out at once, whatever their age and the stall budget; mappings that are kept
// are registered, so that their end is told.

#include <algorithm>

#include "libzmem/reclaim/reclaimer.h"
#include "libzmem/store/chunk_pages.h"

namespace zmem {
namespace {

Candidate Within(const Candidate& candidate, const std::vector<AddressRange>& ranges) {
  return {candidate.chunk_number, candidate.pages.And(PagesIn(candidate.chunk_number, ranges))};
}

}  // namespace

absl::Status Reclaimer::FollowAdvice() {
  std::vector<AddressRange> kept = process_.advice.TakeUnwatched();
  if (!kept.empty()) {
    if (absl::Status status = surveyor_.Watch(kept); !status.ok()) return status;
  }
  std::vector<AddressRange> cold = process_.advice.TakeCold();
  return cold.empty() ? absl::OkStatus() : TakeOutCold(cold);
}

absl::Status Reclaimer::TakeOutCold(const std::vector<AddressRange>& cold) {
  absl::StatusOr<Survey> survey = surveyor_.Look();
  if (!survey.ok()) return survey.status();
  for (const Candidate& candidate : survey->chunks) {
    Candidate wanted = Within(candidate, cold);
    bool registered = wanted.pages.empty() || surveyor_.IsRegistered(wanted);
    if (!registered) surveyor_.Register(wanted.chunk_number, survey->map);
  }
  // Again, as in LookRegistered, but for what was named alone.
  survey = surveyor_.Look();
  if (!survey.ok()) return survey.status();
  bool pool_full = false;
  if (TakeSlab() == kNoSlab) {
    if (absl::Status status = StoreStaged(&pool_full); !status.ok()) return status;
  }
  std::vector<Candidate> wanted;
  for (const Candidate& candidate : survey->chunks) {
    wanted.push_back(Within(candidate, cold));
    if (wanted.back().pages.empty()) wanted.pop_back();
  }
  // Advice that comes too late, or finds no place, is not followed.
  while (!Interrupted() && !pool_full) {
    if (absl::Status status = SettleForFork(); !status.ok()) return status;
    std::span<const Candidate> batch = NextBatch(wanted);
    if (batch.empty()) break;
    absl::StatusOr<size_t> evicted = EvictBatch(batch, &pool_full);
    if (!evicted.ok()) return evicted.status();
    wanted.resize(wanted.size() - batch.size());
  }
  return absl::OkStatus();
}

}  // namespace zmem
