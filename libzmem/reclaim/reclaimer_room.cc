// How room is made where a resident limit, a memory cgroup or the host wants it: what goes, and
// when.

#include <algorithm>
#include <utility>

#include "libzmem/reclaim/reclaimer.h"
#include "libzmem/store/chunk_pages.h"

namespace zmem {

absl::Status Reclaimer::MakeRoom() {
  int64_t now_ns = clock_.now_ns();
  if (now_ns < next_room_ns_) return absl::OkStatus();
  int64_t before = process_.counters.taken_pages();
  absl::Status status = TakeUntilThereIsRoom();
  // Nothing goes out although it should: trying again and again would only take CPU time from the
  // program.
  bool is_short = process_.RefreshRoom() <= Process::kLittleRoomPages;
  bool is_fruitless = is_short && process_.counters.taken_pages() <= before;
  if (is_fruitless) next_room_ns_ = now_ns + kRoomPauseNs;
  process_.nothing_to_take.store(is_fruitless, std::memory_order_relaxed);
  return status;
}

int64_t Reclaimer::EnoughRoom() const {
  // More is made at once where it costs a smaller share of what the program has.
  constexpr int64_t kLeast = Process::kLowRoomPages + kBatchPages / 2;
  constexpr int64_t kMost = 4 * Process::kLowRoomPages;
  constexpr int64_t kShare = 64;
  auto pages = static_cast<int64_t>(process_.stat.resident_bytes().value_or(0) / kPageBytes);
  return std::clamp(pages / kShare, kLeast, kMost) + headroom_pages_;
}

void Reclaimer::UpdateHeadroom(int64_t room, int64_t now_ns) {
  int64_t came = process_.counters.taken_pages() - room -
                 process_.filled_pages.load(std::memory_order_relaxed);
  int64_t elapsed_ms = (now_ns - limit_looked_ns_) / 1'000'000;
  if (elapsed_ms < kShortestGrowthMs) return;
  int64_t expected = (came - last_came_pages_) * kMakingRoomMs / elapsed_ms;
  bool is_first = limit_looked_ns_ == 0;
  int64_t most = IsDeadly() ? kMostSafetyPages : kMostHeadroomPages;
  // Growth comes in bursts: what one of them needed is given up little by little.
  int64_t left =
      headroom_pages_ * std::max<int64_t>(kGrowthMemoryMs - elapsed_ms, 0) / kGrowthMemoryMs;
  headroom_pages_ = is_first ? 0 : std::clamp(expected, std::min(left, most), most);
  last_came_pages_ = came;
  limit_looked_ns_ = now_ns;
}

void Reclaimer::ForeseeGrowth(int64_t room) {
  if (!IsDeadly() || room >= EnoughRoom() + kFarHeadrooms * headroom_pages_) return;
  int64_t now_ns = clock_.now_ns();
  if (now_ns - foreseen_ns_ < kForesightTickNs) return;
  foreseen_ns_ = now_ns;
  // Where as much is mapped as before, the next choice of victims finds what is new all the same.
  uint64_t mapped_bytes = process_.stat.mapped_bytes().value_or(0);
  if (std::exchange(mapped_bytes_, mapped_bytes) == mapped_bytes) return;
  surveyor_.RegisterNew();
}

absl::Status Reclaimer::TakeUntilThereIsRoom() {
  bool pool_full = false;
  // Slots that were left behind are charged to the program too.
  if (absl::Status status = StoreStaged(&pool_full); !status.ok()) return status;
  if (pool_full) return absl::OkStatus();
  return TakeOldest([this] {
    int64_t room = process_.RefreshRoom();
    UpdateHeadroom(room, clock_.now_ns());
    ForeseeGrowth(room);
    return room >= EnoughRoom();
  });
}

absl::Status Reclaimer::TakeOldest(const std::function<bool()>& is_enough) {
  bool pool_full = false;
  bool has_picked = false;
  int64_t taken_at_pick = 0;
  while (!is_enough() && !pool_full && !Interrupted()) {
    int64_t now_ns = clock_.now_ns();
    if (victims_.chunks.empty() || now_ns - victims_ns_ > kVictimsAgeNs) {
      // What was picked last is not to be had, and would be picked again.
      int64_t taken = process_.counters.taken_pages();
      if (has_picked && taken <= taken_at_pick) return absl::OkStatus();
      if (absl::Status status = PickVictims(now_ns); !status.ok()) return status;
      has_picked = true;
      taken_at_pick = taken;
      if (victims_.chunks.empty()) return absl::OkStatus();
    }
    if (absl::Status status = SettleForFork(); !status.ok()) return status;
    std::vector<Candidate> passed = TakePassed(now_ns);
    bool is_passed = !passed.empty();
    std::span<const Candidate> batch = NextBatch(is_passed ? passed : victims_.chunks);
    if (batch.empty()) return absl::OkStatus();  // no slab is free
    if (!is_passed) {
      size_t left = SpareTouched(batch.size());
      if (left == 0) continue;
      batch = std::span(victims_.chunks).last(left);
    }
    absl::StatusOr<size_t> evicted = EvictBatch(batch, &pool_full);
    if (!evicted.ok()) return evicted.status();
    if (!is_passed) victims_.chunks.resize(victims_.chunks.size() - batch.size());
  }
  return absl::OkStatus();
}

std::vector<Candidate> Reclaimer::TakePassed(int64_t now_ns) {
  turn_ = (turn_ + 1) % kTurns;
  std::vector<Candidate> passed;
  size_t pages = 0;
  while (turn_ != 0 && pages < kBatchPages) {
    std::optional<AddressRange> range = process_.passed.Take(now_ns);
    if (!range) break;
    pages += range->pages();
    for (Address at = range->start; at < range->end; at = ChunkStart(at) + kChunkBytes) {
      uint64_t number = ChunkNumber(at);
      Candidate part{number, Compressible({number, PagesIn(number, *range)})};
      auto same = std::find_if(passed.begin(), passed.end(), [number](const Candidate& other) {
        return other.chunk_number == number;
      });
      if (same != passed.end()) {
        same->pages = same->pages.Or(part.pages);
      } else if (!part.pages.empty()) {
        passed.push_back(part);
      }
    }
  }
  return passed;
}

absl::Status Reclaimer::PickVictims(int64_t now_ns) {
  absl::StatusOr<Survey> survey = surveyor_.LookRegistered(Surveyor::Reach::kMost);
  if (!survey.ok()) return survey.status();
  // An epoch is as long as it takes to choose again, so that those that come back meanwhile are
  // told from those that stayed.
  if (now_ns - epochs_.start_ns() >= kShortestEpochNs) BeginEpoch(now_ns);
  size_t present = 0;
  std::vector<TouchedPages::Touched> touched = touched_.Look(survey->chunks);
  for (size_t i = 0; i < survey->chunks.size(); ++i) {
    const Candidate& candidate = survey->chunks[i];
    present += candidate.pages.count();
    std::shared_ptr<Chunk> chunk = process_.table.Find(candidate.chunk_number);
    scanner_.Note({candidate.chunk_number, candidate.pages, touched[i], chunk.get()}, now_ns);
    LookAgain(candidate, kRoomPatienceNs);
  }
  constexpr size_t kLeast = 2048;
  constexpr size_t kShare = 4;
  size_t most = std::max(present / kShare, kLeast);
  victims_ = PickOldest(survey->chunks, process_.table, epochs_.now(), most);
  victims_ns_ = now_ns;
  chances_ = 0;  // so that some go, however hot all are
  process_.residence_epochs.store(victims_.residence_epochs, std::memory_order_relaxed);
  return absl::OkStatus();
}

size_t Reclaimer::SpareTouched(size_t count) {
  std::span<Candidate> last = std::span(victims_.chunks).last(count);
  std::vector<TouchedPages::Touched> touched = touched_.SinceLook(last);
  for (size_t i = 0; i < last.size(); ++i) {
    wire::PageSet spared = touched[i].value_or(wire::PageSet{});
    // One page for each that goes: where everything is touched in between, something has to go.
    if (size_t pages = spared.count(); pages <= chances_) {
      last[i].pages = last[i].pages.Without(spared);
      chances_ -= pages;
      process_.counters.spared_pages += pages;
      SetEpochs(last[i].chunk_number, spared);
    }
    chances_ += last[i].pages.count();
  }
  auto emptied =
      std::remove_if(victims_.chunks.end() - static_cast<ptrdiff_t>(count), victims_.chunks.end(),
                     [](const Candidate& candidate) { return candidate.pages.empty(); });
  count -= static_cast<size_t>(victims_.chunks.end() - emptied);
  victims_.chunks.erase(emptied, victims_.chunks.end());
  return count;
}

bool Reclaimer::IsQuiet(int64_t room) {
  bool is_same = room == std::exchange(last_room_pages_, room);
  if (!IsDeadly()) return is_same;
  std::optional<int64_t> cpu_ns = process_.stat.cpu_ns();
  return cpu_ns == std::exchange(limit_cpu_ns_, cpu_ns) && is_same;
}

void Reclaimer::PlanLimitLook(int64_t room, int64_t now_ns) {
  int64_t tick_ns = room / kGrowthPagesPerMs * 1'000'000 / 2;
  int64_t filling_ns = std::max(room / kFillingPagesPerMs * 1'000'000 / 2, kFillingTickNs);
  if (IsDeadly()) tick_ns = std::min(tick_ns, filling_ns);
  tick_ns = std::clamp(tick_ns, kShortLimitTickNs, kLongLimitTickNs);
  int64_t quiet_ns = IsDeadly() ? kQuietCgroupTickNs : kQuietLimitTickNs;
  if (IsQuiet(room)) tick_ns = std::max(tick_ns, std::min(2 * limit_tick_ns_, quiet_ns));
  limit_tick_ns_ = tick_ns;
  next_limit_look_ns_ = now_ns + tick_ns;
  next_limit_ns_ = next_limit_look_ns_;
  if (!IsDeadly() || tick_ns <= filling_ns) return;
  cgroup_used_bytes_ = process_.CgroupUsedBytes();
  next_limit_ns_ = now_ns + std::min(tick_ns, kGlanceNs);
}

bool Reclaimer::CanLimitWait(int64_t now_ns) {
  if (now_ns < next_limit_ns_) return true;
  if (now_ns >= next_limit_look_ns_ || process_.CgroupUsedBytes() != cgroup_used_bytes_)
    return false;
  next_limit_ns_ = std::min(now_ns + kGlanceNs, next_limit_look_ns_);
  return true;
}

absl::Status Reclaimer::HoldLimit(int64_t now_ns) {
  if (!process_.is_limited() || CanLimitWait(now_ns)) return absl::OkStatus();
  int64_t room = process_.RefreshRoom();
  UpdateHeadroom(room, now_ns);
  ForeseeGrowth(room);
  PlanLimitLook(room, now_ns);
  // Room is made while some is left, so that nobody has to wait for it.
  bool is_low = room - headroom_pages_ <
                std::max((EnoughRoom() - headroom_pages_) / 2, Process::kLowRoomPages);
  if (is_low) return MakeRoom();
  // What is registered before it is touched comes to the fault thread, which can hold it up.
  bool is_foreseen = IsDeadly() && room < kFarHeadrooms * headroom_pages_;
  if (is_foreseen && now_ns - victims_ns_ > kForesightNs) return PickVictims(now_ns);
  return absl::OkStatus();
}

absl::Status Reclaimer::TakeWanted() {
  std::atomic<int64_t>& wanted = process_.wanted_pages;
  int64_t demand = wanted.load(std::memory_order_relaxed);
  if (demand <= 0) return absl::OkStatus();
  int64_t before = process_.counters.taken_pages();
  // Looked at again and again: it may be taken back.
  absl::Status status = TakeOldest([this, before, &wanted] {
    return process_.counters.taken_pages() - before >= wanted.load(std::memory_order_relaxed);
  });
  // What could not be had is not asked for again; a newer demand stays.
  if (status.ok()) wanted.compare_exchange_strong(demand, 0, std::memory_order_relaxed);
  return status;
}

}  // namespace zmem
