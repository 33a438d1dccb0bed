#include "libzmem/reclaim/reclaimer.h"

#include <algorithm>
#include <chrono>
#include <span>
#include <thread>
#include <utility>

#include "libzmem/uffd/thread_memory.h"

namespace zmem {
namespace {

uint32_t SlotOf(size_t slab, size_t page) {
  return static_cast<uint32_t>(slab * kPagesPerChunk + page);
}

// A chunk is hot if more than this share of the pages taken was wanted back on probation: below it
// the rest is worth taking.
constexpr size_t kHotDivisor = 8;
constexpr size_t kHotAtLeast = 4;

// Chunks surveyed in one go: bounds the memory of a survey's bit sets.
constexpr uint64_t kSurveyChunks = 512;

}  // namespace

Reclaimer::Reclaimer(Process& process, AgentLink& agent, const Clock& clock, const Options& options)
    : process_(process),
      agent_(agent),
      clock_(clock),
      options_(options),
      isolator_(process, agent, clock),
      scanner_(process.policy().cold_age_ns),
      read_buffer_(kReadPages * kPageBytes),
      next_scan_ns_(clock.now_ns() + process.policy().scan_interval_ns) {}

int64_t Reclaimer::next_tick_ns() const {
  bool on_probation =
      std::any_of(slabs_.begin(), slabs_.end(), [](const Slab& s) { return s.used; });
  if (!on_probation && cold_chunks_.empty()) return next_scan_ns_;
  return std::min(next_scan_ns_, clock_.now_ns() + kProbationTickNs);
}

absl::Status Reclaimer::Tick() {
  if (absl::Status status = SettleForFork(); !status.ok()) return status;
  int64_t now_ns = clock_.now_ns();
  if (absl::Status status = ReturnHugePages(now_ns); !status.ok()) return status;
  if (absl::Status status = SettleProbations(now_ns); !status.ok()) return status;
  if (absl::Status status = FollowAdvice(); !status.ok()) return status;
  if (now_ns >= next_scan_ns_) {
    next_scan_ns_ = now_ns + process_.policy().scan_interval_ns;
    if (absl::Status status = Scan(now_ns); !status.ok()) return status;
  }
  return IsolateColdChunks(now_ns);
}

absl::StatusOr<Reclaimer::Survey> Reclaimer::Look() {
  std::vector<AddressRange> excluded{
      process_.agent, process_.staging, {process_.token_page, process_.token_page + kPageBytes}};
  std::vector<AddressRange> kept = process_.advice.kept();
  excluded.insert(excluded.end(), kept.begin(), kept.end());
  absl::StatusOr<AddressMap> map = AddressMap::Read(process_.pid, excluded);
  if (!map.ok()) return absl::UnavailableError("the program is gone");

  Survey survey;
  survey.map = *std::move(map);
  std::vector<wire::PageSet> sets;
  for (AddressRange range : survey.map.eligible()) {
    for (Address at = range.start; at < range.end;) {
      uint64_t first = ChunkNumber(at);
      AddressRange part{at, std::min(range.end, (first + kSurveyChunks) << kChunkShift)};
      uint64_t chunks = ChunkNumber(part.end - 1) - first + 1;
      sets.assign(chunks, wire::PageSet{});
      if (process_.pagemap.ScanPresent(part, first, sets) != 0) {
        return absl::UnavailableError("the program is gone");
      }
      for (uint64_t i = 0; i < chunks; ++i) {
        if (sets[i].empty()) continue;
        if (!survey.chunks.empty() && survey.chunks.back().chunk_number == first + i) {
          // Another mapping in the same chunk.
          wire::PageSet& present = survey.chunks.back().present;
          present = present.Or(sets[i]);
        } else {
          survey.chunks.push_back({first + i, sets[i]});
        }
      }
      at = part.end;
    }
  }
  return survey;
}

absl::StatusOr<Reclaimer::NeededPages> Reclaimer::ThreadPages(uint64_t chunk_number) const {
  absl::StatusOr<std::vector<AddressRange>> ranges = ThreadMemory(process_.pid, process_.memory);
  std::optional<KeptRanges> kept;
  if (ranges.ok()) {
    kept = process_.kept == 0 ? KeptRanges{} : ReadKept(process_.kept, process_.memory);
  }
  if (!kept) return absl::UnavailableError("the program is gone");
  ranges->insert(ranges->end(), kept->ranges.begin(), kept->ranges.end());
  Address start = chunk_number << kChunkShift;
  NeededPages needed{.kept_generation = kept->generation};
  for (AddressRange range : *ranges) {
    AddressRange part = range.Intersect({start, start + kChunkBytes});
    if (part.empty()) continue;
    size_t first = (part.start - start) >> kPageShift;
    needed.pages.AddRange(first, first + part.pages());
  }
  return needed;
}

bool Reclaimer::FullyRegistered(const Candidate& candidate) {
  GateLock lock(process_.gate);
  wire::PageSet registered = process_.table.Registered(candidate.chunk_number);
  return candidate.present.Without(registered).empty();
}

void Reclaimer::UnregisterHot(const Survey& survey) {
  for (AddressRange mapping : survey.map.mappings()) {
    auto cold = std::partition_point(cold_chunks_.begin(), cold_chunks_.end(),
                                     [mapping](const Candidate& candidate) {
                                       return candidate.chunk_number < ChunkNumber(mapping.start);
                                     });
    bool wanted = cold != cold_chunks_.end() && cold->chunk_number <= ChunkNumber(mapping.end - 1);
    if (!wanted) isolator_.Unregister(mapping);
  }
  isolator_.ForgetUnused();
}

void Reclaimer::RegisterChunk(uint64_t chunk_number, const AddressMap& map) {
  if (map.registered().size() >= kMaxRegisteredMappings) return;
  Address start = chunk_number << kChunkShift;
  AddressRange whole{start, start + kChunkBytes};
  auto first_ending_after = [](const std::vector<AddressRange>& ranges, Address address) {
    return std::partition_point(ranges.begin(), ranges.end(),
                                [address](AddressRange range) { return range.end <= address; });
  };
  for (auto at = first_ending_after(map.eligible(), start);
       at != map.eligible().end() && at->start < whole.end; ++at) {
    AddressRange part = at->Intersect(whole);
    isolator_.Register(part, *first_ending_after(map.mappings(), part.start));
  }
}

absl::Status Reclaimer::Scan(int64_t now_ns) {
  process_.FindCgroup();  // a process can be moved, and limits can change
  absl::StatusOr<Survey> survey = Look();
  if (!survey.ok()) return survey.status();
  pool_full_ = false;
  cold_chunks_.clear();
  std::vector<uint64_t> to_register;
  for (const Candidate& candidate : survey->chunks) {
    std::shared_ptr<Chunk> chunk = process_.table.Find(candidate.chunk_number);
    int64_t last_fault_ns =
        chunk == nullptr ? 0 : chunk->last_fault_ns.load(std::memory_order_relaxed);
    bool cold =
        scanner_.Observe(candidate.chunk_number, candidate.present.count(), last_fault_ns, now_ns);
    if (!cold) continue;
    if (FullyRegistered(candidate)) {
      cold_chunks_.push_back(candidate);
    } else {
      to_register.push_back(candidate.chunk_number);
    }
  }
  UnregisterHot(*survey);
  // Their pages are for the next scan.
  for (uint64_t chunk_number : to_register) RegisterChunk(chunk_number, survey->map);
  scanner_.ForgetUnseen();
  return absl::OkStatus();
}

absl::Status Reclaimer::IsolateColdChunks(int64_t now_ns) {
  while (!cold_chunks_.empty() && !pool_full_ && !Interrupted()) {
    if (absl::Status status = SettleForFork(); !status.ok()) return status;
    size_t slab = TakeSlab();
    if (slab == kNoSlab) return absl::OkStatus();
    Candidate candidate = cold_chunks_.back();
    cold_chunks_.pop_back();
    LookAgain(candidate, kLookAgainAges * process_.policy().cold_age_ns);
    wire::PageSet wanted = Compressible(candidate);
    NoteHuge(slab, candidate.chunk_number, wanted);
    absl::StatusOr<wire::PageSet> moved = Take(candidate.chunk_number, wanted, slab);
    if (!moved.ok()) return moved.status();
    if (moved->count() < kPagesPerChunk) process_.huge_slabs[slab].whole.store(false);
    size_t left = candidate.present.count() - moved->count();
    scanner_.OnTaken(candidate.chunk_number, left);
    if (moved->empty()) {
      scanner_.OnHot(candidate.chunk_number, now_ns);  // not now: ask less often
      continue;
    }
    slabs_[slab] = {true, candidate.chunk_number, *moved, now_ns, left};
    if (!Forking(now_ns)) continue;
    if (absl::Status status = StoreSlab(slab, &pool_full_); !status.ok()) return status;
  }
  cold_chunks_.clear();
  return absl::OkStatus();
}

wire::PageSet Reclaimer::Compressible(const Candidate& candidate) const {
  wire::PageSet pages;
  std::shared_ptr<Chunk> chunk = process_.table.Find(candidate.chunk_number);
  if (chunk == nullptr) return pages;
  for (size_t page = candidate.present.Next(0, true); page < kPagesPerChunk;
       page = candidate.present.Next(page + 1, true)) {
    if (!chunk->Load(page).Has(PageEntry::kIncompressible)) pages.Add(page);
  }
  return pages;
}

void Reclaimer::LookAgain(const Candidate& candidate, int64_t age_ns) {
  std::shared_ptr<Chunk> chunk = process_.table.Find(candidate.chunk_number);
  if (chunk == nullptr) return;
  int64_t now_ns = clock_.now_ns();
  int64_t last_ns = chunk->incompressible_ns.load(std::memory_order_relaxed);
  if (last_ns == 0 || now_ns - last_ns < age_ns) return;
  chunk->incompressible_ns.store(now_ns, std::memory_order_relaxed);
  wire::PageSet changed;
  Address start = candidate.chunk_number << kChunkShift;
  std::span<std::byte, kPageBytes> bytes(read_buffer_.data(), kPageBytes);
  for (size_t page = candidate.present.Next(0, true); page < kPagesPerChunk;
       page = candidate.present.Next(page + 1, true)) {
    // As it is in the program, without taking it.
    if (chunk->Load(page).Has(PageEntry::kIncompressible) &&
        process_.memory.Read(start + page * kPageBytes, bytes.data(), kPageBytes) &&
        process_.store.IsCompressible(bytes, workspace_)) {
      changed.Add(page);
    }
  }
  if (changed.empty()) return;
  GateLock lock(process_.gate);
  chunk = process_.OwnChunk(start);
  for (size_t page = changed.Next(0, true); chunk != nullptr && page < kPagesPerChunk;
       page = changed.Next(page + 1, true)) {
    PageEntry marked = PageEntry().With(PageEntry::kIncompressible);
    chunk->Transition(page, marked, PageEntry());
  }
}

absl::StatusOr<wire::PageSet> Reclaimer::Take(uint64_t chunk_number, wire::PageSet wanted,
                                              size_t slab) {
  absl::StatusOr<NeededPages> needed = ThreadPages(chunk_number);
  if (!needed.ok()) return needed.status();
  absl::StatusOr<wire::PageSet> moved =
      IsolateMovable(chunk_number, wanted.Without(needed->pages), slab, needed->kept_generation);
  // A thread may have started, or locked a robust mutex, between the look and the move.
  constexpr int kTries = 5;  // a program that changes its layout can hold up the way back
  for (int tries = 0; moved.ok() && !moved->empty() && tries < kTries; ++tries) {
    needed = ThreadPages(chunk_number);
    if (!needed.ok()) return needed.status();
    wire::PageSet wrongly = moved->And(needed->pages);
    if (wrongly.empty()) break;
    absl::StatusOr<wire::PageSet> returned = isolator_.Return(chunk_number, wrongly, slab, 0);
    if (!returned.ok()) return returned;
    moved = moved->Without(*returned);
  }
  return moved;
}

absl::StatusOr<wire::PageSet> Reclaimer::IsolateMovable(uint64_t chunk_number, wire::PageSet wanted,
                                                        size_t slab, uint32_t kept_generation) {
  if (process_.last_fork_ns.load(std::memory_order_relaxed) != 0) {
    // What a relative still shares the kernel does not move (FACTS 15).
    wanted = isolator_.Exclusive(chunk_number, wanted);
  }
  absl::StatusOr<wire::PageSet> moved =
      isolator_.Isolate(chunk_number, wanted, slab, kept_generation);
  if (!moved.ok()) return moved;
  wire::PageSet refused = wanted.And(process_.table.Registered(chunk_number)).Without(*moved);
  if (refused.empty()) return moved;
  absl::StatusOr<wire::PageSet> mended = isolator_.Unshare(chunk_number, refused);
  if (!mended.ok() || mended->empty()) return moved;
  absl::StatusOr<wire::PageSet> more =
      isolator_.Isolate(chunk_number, *mended, slab, kept_generation);
  return more.ok() ? moved->Or(*more) : moved;
}

size_t Reclaimer::TakeSlab() {
  for (size_t slab = 0; slab < process_.slabs(); ++slab) {
    if (!slabs_[slab].used) return slab;
  }
  return kNoSlab;
}

wire::PageSet Reclaimer::StillStaged(Chunk& chunk, size_t slab) const {
  wire::PageSet staged;
  for (size_t page = 0; page < kPagesPerChunk; ++page) {
    // Also while the fault thread has claimed it: its slot is needed until it is done.
    PageEntry entry = chunk.Load(page);
    if (slabs_[slab].pages.Has(page) && entry.state() == PageState::kStaged &&
        entry.slot() == SlotOf(slab, page)) {
      staged.Add(page);
    }
  }
  return staged;
}

absl::Status Reclaimer::ReturnStaged() {
  for (size_t slab = 0; slab < process_.slabs(); ++slab) {
    if (!slabs_[slab].used) continue;
    if (absl::Status status = ReturnSlab(slab); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status Reclaimer::SettleForFork() {
  if (!agent_.Asked(wire::Wish::kSettle)) return absl::OkStatus();
  process_.last_fork_ns.store(clock_.now_ns(), std::memory_order_relaxed);
  absl::Status status = ReturnStaged();
  agent_.Grant(wire::Wish::kSettle);
  return status;
}

void Reclaimer::NoteHuge(size_t slab, uint64_t chunk_number, const wire::PageSet& wanted) {
  Process::HugeSlab& huge = process_.huge_slabs[slab];
  huge.wanted_ns.store(0, std::memory_order_relaxed);
  bool whole = wanted.count() == kPagesPerChunk && process_.pagemap.IsHuge(chunk_number);
  huge.whole.store(whole, std::memory_order_release);
}

absl::Status Reclaimer::ReturnHugePages(int64_t now_ns) {
  for (size_t slab = 0; slab < process_.slabs(); ++slab) {
    Process::HugeSlab& huge = process_.huge_slabs[slab];
    if (!slabs_[slab].used || !huge.whole.load(std::memory_order_relaxed) ||
        huge.wanted_ns.load(std::memory_order_acquire) == 0) {
      continue;
    }
    uint64_t number = slabs_[slab].chunk_number;
    scanner_.OnHot(number, now_ns);
    if (absl::Status status = ReturnSlab(slab); !status.ok()) return status;
    // The threads that wait for it; what did not come back they find missing again.
    process_.uffd.Wake({number << kChunkShift, (number + 1) << kChunkShift});
  }
  return absl::OkStatus();
}

bool Reclaimer::Interrupted() {
  return agent_.Asked(wire::Wish::kThaw) || agent_.Asked(wire::Wish::kLeave);
}

bool Reclaimer::Forking(int64_t now_ns) const {
  int64_t last_fork_ns = process_.last_fork_ns.load(std::memory_order_relaxed);
  return last_fork_ns != 0 && now_ns - last_fork_ns < kForkingNs;
}

absl::Status Reclaimer::SettleProbations(int64_t now_ns) {
  for (size_t slab = 0; slab < process_.slabs(); ++slab) {
    if (!slabs_[slab].used) continue;
    if (absl::Status status = SettleForFork(); !status.ok()) return status;
    if (!slabs_[slab].used) continue;
    uint64_t chunk_number = slabs_[slab].chunk_number;
    std::shared_ptr<Chunk> chunk = process_.table.Find(chunk_number);
    size_t taken = slabs_[slab].pages.count();
    size_t staged = chunk == nullptr ? 0 : StillStaged(*chunk, slab).count();
    size_t wanted_back = taken - staged;
    absl::Status status;
    if (chunk != nullptr && wanted_back > std::max(taken / kHotDivisor, kHotAtLeast)) {
      scanner_.OnHot(chunk_number, now_ns);
      status = ReturnSlab(slab);
    } else if (Forking(now_ns) || now_ns - slabs_[slab].staged_ns >= options_.probation_ns) {
      if (wanted_back == 0) scanner_.OnCold(chunk_number);
      status = StoreSlab(slab, &pool_full_);
    }
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status Reclaimer::ReturnSlab(size_t slab) {
  Slab& record = slabs_[slab];
  absl::StatusOr<wire::PageSet> returned =
      isolator_.Return(record.chunk_number, record.pages, slab, 0);
  if (!returned.ok()) return returned.status();
  record.pages = record.pages.Without(*returned);
  scanner_.OnTaken(record.chunk_number, record.present_after + returned->count());
  return FreeSlab(slab);
}

void Reclaimer::StoreRun(Chunk& chunk, size_t slab, size_t first, size_t end,
                         wire::PageSet* incompressible, wire::PageSet* no_room) {
  Address source = process_.slot_address(SlotOf(slab, first));
  if (!process_.memory.Read(source, read_buffer_.data(), (end - first) * kPageBytes)) {
    if (end - first == 1) return SettleEmptySlot(chunk, slabs_[slab].chunk_number, slab, first);
    for (size_t page = first; page < end; ++page) {
      StoreRun(chunk, slab, page, page + 1, incompressible, no_room);
    }
    return;
  }
  for (size_t page = first; page < end; ++page) {
    PageEntry staged = PageEntry::Staged(SlotOf(slab, page));
    if (chunk.Load(page) != staged) continue;  // wanted back meanwhile
    std::span<const std::byte, kPageBytes> bytes(read_buffer_.data() + (page - first) * kPageBytes,
                                                 kPageBytes);
    PageEntry stored;
    Address address = (slabs_[slab].chunk_number << kChunkShift) + page * kPageBytes;
    switch (Store(address, bytes, &stored)) {
      case StoreResult::kStored:
        // Counted first, so that the fault thread never takes off what was not put on.
        process_.counters.AddStored(stored);
        if (chunk.Transition(page, staged, stored)) {
          process_.counters.staged_pages.fetch_sub(1, std::memory_order_relaxed);
        } else {
          process_.Retire(stored);
        }
        break;
      case StoreResult::kIncompressible:
        incompressible->Add(page);
        break;
      case StoreResult::kPoolFull:
      case StoreResult::kBusy:
        no_room->Add(page);
        break;
    }
  }
}

StoreResult Reclaimer::Store(Address address, std::span<const std::byte, kPageBytes> page,
                             PageEntry* stored) {
  if (std::optional<PageEntry> unchanged = process_.clean_pages.Reuse(address, page, workspace_)) {
    *stored = *unchanged;
    return StoreResult::kStored;
  }
  constexpr auto kPause = std::chrono::milliseconds(1);
  StoreResult result = process_.store.Put(page, workspace_, stored);
  while (result == StoreResult::kBusy && --file_patience_ > 0 &&
         !agent_.Asked(wire::Wish::kSettle)) {
    std::this_thread::sleep_for(kPause);
    result = process_.store.Put(page, workspace_, stored);
  }
  return result;
}

void Reclaimer::SettleEmptySlot(Chunk& chunk, uint64_t chunk_number, size_t slab, size_t page) {
  bool absent = true;
  Address address = (chunk_number << kChunkShift) + page * kPageBytes;
  if (process_.pagemap.FindAbsent(address, std::span(&absent, 1)) != 0 || absent) return;
  PageEntry staged = PageEntry::Staged(SlotOf(slab, page));
  if (chunk.Transition(page, staged, PageEntry())) process_.Retire(staged);
}

absl::Status Reclaimer::StoreSlab(size_t slab, bool* pool_full) {
  Slab& record = slabs_[slab];
  wire::PageSet incompressible;
  wire::PageSet no_room;
  file_patience_ = kFilePatience;
  std::shared_ptr<Chunk> chunk = process_.table.Find(record.chunk_number);
  if (chunk != nullptr) {
    wire::PageSet staged = StillStaged(*chunk, slab);
    for (size_t page = staged.Next(0, true); page < kPagesPerChunk;) {
      size_t end = std::min(staged.Next(page, false), page + kReadPages);
      // Afresh for each run: a fork may have left the old one to a relative.
      chunk = process_.table.Find(record.chunk_number);
      if (chunk == nullptr) break;
      StoreRun(*chunk, slab, page, end, &incompressible, &no_room);
      page = staged.Next(end, true);
    }
  }
  if (!no_room.empty()) *pool_full = true;
  for (auto [refused, flags] :
       {std::pair{&incompressible, PageEntry::kIncompressible}, std::pair{&no_room, uint64_t{0}}}) {
    if (refused->empty()) continue;
    absl::StatusOr<wire::PageSet> returned =
        isolator_.Return(record.chunk_number, *refused, slab, flags);
    if (!returned.ok()) return returned.status();
    record.pages = record.pages.Without(*returned);
    record.present_after += returned->count();
  }
  if (chunk != nullptr) chunk->stored_ns.store(clock_.now_ns(), std::memory_order_relaxed);
  if (chunk != nullptr && !incompressible.empty()) {
    chunk->incompressible_ns.store(clock_.now_ns(), std::memory_order_relaxed);
  }
  scanner_.OnTaken(record.chunk_number, record.present_after);
  return FreeSlab(slab);
}

absl::Status Reclaimer::FreeSlab(size_t slab) {
  Slab& record = slabs_[slab];
  std::shared_ptr<Chunk> chunk = process_.table.Find(record.chunk_number);
  wire::PageSet staged = chunk == nullptr ? wire::PageSet{} : StillStaged(*chunk, slab);
  process_.huge_slabs[slab].whole.store(false, std::memory_order_release);
  absl::Status status = isolator_.Discard(record.pages.Without(staged), slab);
  if (!status.ok()) return status;
  if (!staged.empty()) {
    // Neither stored nor taken back (the program was changing its layout): another probation.
    record.pages = staged;
    record.staged_ns = clock_.now_ns();
    return absl::OkStatus();
  }
  process_.slab_chunk[slab].store(0, std::memory_order_release);
  record.used = false;
  return absl::OkStatus();
}

absl::Status Reclaimer::StoreStaged(bool* pool_full) {
  cold_chunks_.clear();
  for (size_t slab = 0; slab < process_.slabs(); ++slab) {
    if (!slabs_[slab].used) continue;
    if (absl::Status status = StoreSlab(slab, pool_full); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::StatusOr<Reclaimer::Survey> Reclaimer::LookRegistered() {
  absl::StatusOr<Survey> survey = Look();
  if (!survey.ok()) return survey;
  for (const Candidate& candidate : survey->chunks) {
    if (!FullyRegistered(candidate)) RegisterChunk(candidate.chunk_number, survey->map);
  }
  // Again: only mappings that were registered before the map is read are known to be those judged.
  return Look();
}

absl::StatusOr<size_t> Reclaimer::EvictChunk(const Candidate& candidate, bool* pool_full) {
  size_t slab = TakeSlab();
  if (slab == kNoSlab) return kNoSlab;
  absl::StatusOr<wire::PageSet> moved = Take(candidate.chunk_number, candidate.present, slab);
  if (!moved.ok()) return moved.status();
  if (moved->empty()) return 0;
  size_t present = candidate.present.count();
  slabs_[slab] = {true, candidate.chunk_number, *moved, clock_.now_ns(), present - moved->count()};
  if (absl::Status status = StoreSlab(slab, pool_full); !status.ok()) return status;
  return present - std::min(present, slabs_[slab].present_after);
}

absl::StatusOr<Reclaimer::EvictResult> Reclaimer::EvictAll(const std::atomic<bool>& cancel,
                                                           const ProgressFn& progress) {
  EvictResult result;
  // What is on probation goes first.
  if (absl::Status status = StoreStaged(&result.pool_full); !status.ok()) return status;
  absl::StatusOr<Survey> survey = LookRegistered();
  if (!survey.ok()) return survey.status();
  uint64_t total = 0;
  uint64_t done = 0;
  for (const Candidate& candidate : survey->chunks) total += candidate.present.count();
  for (const Candidate& candidate : survey->chunks) {
    if (cancel.load(std::memory_order_acquire) || Interrupted() || result.pool_full) break;
    if (absl::Status status = SettleForFork(); !status.ok()) return status;
    absl::StatusOr<size_t> evicted = EvictChunk(candidate, &result.pool_full);
    if (!evicted.ok()) return evicted.status();
    if (*evicted == kNoSlab) break;
    result.evicted_pages += *evicted;
    done += candidate.present.count();
    if (progress != nullptr) progress(done, total);
  }
  result.skipped_pages = total - std::min(total, result.evicted_pages);
  return result;
}

absl::Status Reclaimer::MakeRoom() {
  int64_t now_ns = clock_.now_ns();
  if (now_ns < next_room_ns_) return absl::OkStatus();
  int64_t before = process_.counters.taken_pages();
  absl::Status status = TakeUntilThereIsRoom();
  // Nothing goes out: trying again and again would only take CPU time from the program.
  if (process_.counters.taken_pages() <= before) next_room_ns_ = now_ns + kRoomPauseNs;
  return status;
}

absl::Status Reclaimer::TakeUntilThereIsRoom() {
  constexpr int64_t kEnoughPages = 4096;
  bool pool_full = false;
  // Slots that were left behind are charged to the program too.
  if (absl::Status status = StoreStaged(&pool_full); !status.ok()) return status;
  if (process_.RefreshRoom() >= kEnoughPages) return absl::OkStatus();
  absl::StatusOr<Survey> survey = LookRegistered();
  if (!survey.ok()) return survey.status();
  auto last_fault_ns = [this](const Candidate& candidate) {
    std::shared_ptr<Chunk> chunk = process_.table.Find(candidate.chunk_number);
    return chunk == nullptr ? 0 : chunk->last_fault_ns.load(std::memory_order_relaxed);
  };
  std::stable_sort(
      survey->chunks.begin(), survey->chunks.end(),
      [&](const Candidate& a, const Candidate& b) { return last_fault_ns(a) < last_fault_ns(b); });
  for (Candidate& candidate : survey->chunks) {
    if (pool_full || Interrupted() || process_.RefreshRoom() >= kEnoughPages) break;
    if (absl::Status status = SettleForFork(); !status.ok()) return status;
    LookAgain(candidate, kRoomPatienceNs);
    candidate.present = Compressible(candidate);
    if (candidate.present.empty()) continue;
    absl::StatusOr<size_t> evicted = EvictChunk(candidate, &pool_full);
    if (!evicted.ok()) return evicted.status();
    if (*evicted == kNoSlab) break;
  }
  return absl::OkStatus();
}

}  // namespace zmem
