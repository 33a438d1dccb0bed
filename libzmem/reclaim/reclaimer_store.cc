// What becomes of pages in the staging area: their stored forms are made and published, by several
// threads where somebody waits for room, and what the store refuses goes back.

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "libzmem/base/nice_scope.h"
#include "libzmem/reclaim/reclaimer.h"

namespace zmem {

std::unique_ptr<Reclaimer::Tools>& Reclaimer::OwnTools() {
  static thread_local std::unique_ptr<Tools> tools;
  return tools;
}

Reclaimer::Tools& Reclaimer::tools() {
  std::unique_ptr<Tools>& own = OwnTools();
  if (own == nullptr) own = std::make_unique_for_overwrite<Tools>();
  return *own;
}

void Reclaimer::ReleaseTools() { OwnTools().reset(); }

wire::PageSet Reclaimer::StillStaged(Chunk& chunk, size_t slab) const {
  wire::PageSet staged;
  for (size_t page = 0; page < kPagesPerChunk; ++page) {
    // Also while the fault thread has claimed it: its slot is needed until it is done.
    PageEntry entry = chunk.Load(page);
    if (slabs_[slab].pages.Has(page) && entry.state() == PageState::kStaged &&
        entry.slot() == Process::SlotOf(slab, page)) {
      staged.Add(page);
    }
  }
  return staged;
}

std::vector<Reclaimer::StagedRun> Reclaimer::StagedRuns(std::span<const size_t> slabs) const {
  std::vector<StagedRun> runs;
  for (size_t slab : slabs) {
    std::shared_ptr<Chunk> chunk = process_.table.Find(slabs_[slab].chunk_number);
    if (chunk == nullptr) continue;
    wire::PageSet staged = StillStaged(*chunk, slab).Without(slabs_[slab].refused());
    for (size_t page = staged.Next(0, true); page < kPagesPerChunk;) {
      size_t end = std::min(staged.Next(page, false), page + kReadPages);
      runs.push_back({slab, page, end});
      page = staged.Next(end, true);
    }
  }
  return runs;
}

void Reclaimer::StoreRun(const StagedRun& run, Patience patience) {
  // Afresh for each run: a fork may have left the old one to a relative.
  std::shared_ptr<Chunk> chunk = process_.table.Find(slabs_[run.slab].chunk_number);
  if (chunk == nullptr) return;
  Address source = process_.slot_address(Process::SlotOf(run.slab, run.first));
  if (!process_.memory.Read(source, tools().bytes.data(), (run.end - run.first) * kPageBytes)) {
    if (run.end - run.first == 1) return SettleEmptySlot(*chunk, run.slab, run.first);
    for (size_t page = run.first; page < run.end; ++page) {
      StoreRun({run.slab, page, page + 1}, patience);
    }
    return;
  }
  StoreReadPages(*chunk, run, patience);
}

void Reclaimer::StoreReadPages(Chunk& chunk, const StagedRun& run, Patience patience) {
  Tools& own = tools();
  size_t pages = run.end - run.first;
  auto bytes_of = [&own](size_t i) {
    return std::span<const std::byte, kPageBytes>(own.bytes.data() + i * kPageBytes, kPageBytes);
  };
  auto is_staged = [&](size_t i) {  // false: wanted back meanwhile
    size_t page = run.first + i;
    return chunk.Load(page) == PageEntry::Staged(Process::SlotOf(run.slab, page));
  };
  std::array<std::optional<PageEntry>, kReadPages> unchanged;
  for (size_t i = 0; i < pages; ++i) {
    if (!is_staged(i)) continue;
    unchanged[i] = process_.clean_pages.Reuse(AddressOf(run.slab, run.first + i), bytes_of(i));
  }
  std::array<std::optional<PageStore::Form>, kReadPages> forms;
  const Compressor* compressor = process_.policy().compressor;
  {
    NiceScope nice(patience == Patience::kSome && HasTime());
    std::byte* out = own.compressed.data();
    for (size_t i = 0; i < pages; ++i) {
      if (unchanged[i] || !is_staged(i)) continue;
      forms[i] =
          process_.store.Prepare(bytes_of(i), own.workspace,
                                 std::span<std::byte, kPageBytes>(out, kPageBytes), compressor);
      if (forms[i]->object.data() == out) out += forms[i]->object.size();
    }
  }
  for (size_t i = 0; i < pages; ++i) {
    size_t page = run.first + i;
    if (unchanged[i]) {
      Publish(chunk, run.slab, page, *unchanged[i]);
    } else if (forms[i] && is_staged(i)) {
      StorePage(chunk, run.slab, page, *forms[i], patience);
    }
  }
}

bool Reclaimer::HasTime() const {
  int64_t room = process_.room_pages.load(std::memory_order_relaxed) - headroom_pages_;
  return room > Process::kLittleRoomPages && !process_.room_awaited.load() &&
         process_.wanted_pages.load(std::memory_order_relaxed) <= 0 &&
         !agent_.Asked(wire::Wish::kSettle);
}

Address Reclaimer::AddressOf(size_t slab, size_t page) const {
  return (slabs_[slab].chunk_number << kChunkShift) + page * kPageBytes;
}

void Reclaimer::Publish(Chunk& chunk, size_t slab, size_t page, PageEntry stored) {
  // Counted first, so that the fault thread never takes off what was not put on.
  process_.counters.AddStored(stored);
  PageEntry staged = PageEntry::Staged(Process::SlotOf(slab, page));
  if (chunk.Transition(page, staged, stored)) {
    process_.counters.staged_pages.fetch_sub(1, std::memory_order_relaxed);
  } else {
    process_.Retire(stored);
  }
}

void Reclaimer::StorePage(Chunk& chunk, size_t slab, size_t page, const PageStore::Form& form,
                          Patience patience) {
  PageEntry stored;
  StoreResult result = Store(form, &stored, patience);
  if (result == StoreResult::kStored) return Publish(chunk, slab, page, stored);
  if (result == StoreResult::kBusy && patience == Patience::kNone) return;  // another time
  MutexLock lock(refused_mutex_);
  Slab& record = slabs_[slab];
  (result == StoreResult::kIncompressible ? record.incompressible : record.no_room).Add(page);
}

StoreResult Reclaimer::Store(const PageStore::Form& form, PageEntry* stored, Patience patience) {
  constexpr auto kPause = std::chrono::milliseconds(1);
  StoreResult result = process_.store.Put(form, stored);
  while (result == StoreResult::kBusy && patience == Patience::kSome && --file_patience_ > 0 &&
         !agent_.Asked(wire::Wish::kSettle)) {
    std::this_thread::sleep_for(kPause);
    result = process_.store.Put(form, stored);
  }
  return result;
}

void Reclaimer::SettleEmptySlot(Chunk& chunk, size_t slab, size_t page) {
  bool absent = true;
  Address address = AddressOf(slab, page);
  if (process_.pagemap.FindAbsent(address, std::span(&absent, 1)) != 0 || absent) return;
  PageEntry staged = PageEntry::Staged(Process::SlotOf(slab, page));
  if (chunk.Transition(page, staged, PageEntry())) process_.Retire(staged);
}

bool Reclaimer::IsHelpWanted() const {
  // Else the program has a use for its CPUs.
  return options_.crew != nullptr &&
         (process_.room_awaited.load() ||
          process_.room_pages.load(std::memory_order_relaxed) < Process::kLittleRoomPages);
}

absl::Status Reclaimer::StorePages(std::span<const size_t> slabs, bool* pool_full) {
  for (size_t slab : slabs) slabs_[slab].incompressible = slabs_[slab].no_room = {};
  if (IsHelpWanted()) {
    std::vector<StagedRun> runs = StagedRuns(slabs);
    options_.crew->Run(runs.size(), [&](size_t i) { StoreRun(runs[i], Patience::kNone); });
  }
  file_patience_ = kFilePatience;
  for (const StagedRun& run : StagedRuns(slabs)) StoreRun(run, Patience::kSome);
  for (size_t slab : slabs) {
    if (!slabs_[slab].no_room.empty()) *pool_full = true;
    if (absl::Status status = GiveBackRefused(slab); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status Reclaimer::GiveBackRefused(size_t slab) {
  Slab& record = slabs_[slab];
  for (auto [refused, flags] : {std::pair{&record.incompressible, PageEntry::kIncompressible},
                                std::pair{&record.no_room, uint64_t{0}}}) {
    if (refused->empty()) continue;
    absl::StatusOr<wire::PageSet> returned =
        isolator_.Return(record.chunk_number, *refused, slab, flags);
    if (!returned.ok()) return returned.status();
    record.pages = record.pages.Without(*returned);
    scanner_.OnReturned(record.chunk_number, *returned);
  }
  std::shared_ptr<Chunk> chunk = process_.table.Find(record.chunk_number);
  if (chunk == nullptr) return absl::OkStatus();
  int64_t now_ns = clock_.now_ns();
  chunk->stored_ns.store(now_ns, std::memory_order_relaxed);
  if (!record.incompressible.empty()) {
    chunk->incompressible_ns.store(now_ns, std::memory_order_relaxed);
  }
  return absl::OkStatus();
}

absl::Status Reclaimer::StoreSlab(size_t slab, bool* pool_full) {
  std::span<const size_t> slabs(&slab, 1);
  if (absl::Status status = StorePages(slabs, pool_full); !status.ok()) return status;
  return FreeSlabs(slabs);
}

absl::Status Reclaimer::FreeSlabs(std::span<const size_t> slabs) {
  std::vector<Isolator::Unneeded> unneeded;
  for (size_t slab : slabs) {
    Slab& record = slabs_[slab];
    std::shared_ptr<Chunk> chunk = process_.table.Find(record.chunk_number);
    wire::PageSet staged = chunk == nullptr ? wire::PageSet{} : StillStaged(*chunk, slab);
    process_.huge_slabs[slab].whole.store(false, std::memory_order_release);
    // The slab as a whole, if it may go: the price is that of an event for each run of slots.
    wire::PageSet slots;
    slots.AddRange(0, kPagesPerChunk);
    unneeded.push_back({slab, staged.empty() ? slots : record.pages.Without(staged)});
    // Neither stored nor taken back (the program was changing its layout): another probation.
    record.pages = staged;
    record.rest = {};
    record.staged_ns = clock_.now_ns();
  }
  if (absl::Status status = isolator_.Discard(unneeded); !status.ok()) return status;
  for (size_t slab : slabs) {
    if (!slabs_[slab].pages.empty()) continue;
    process_.slab_chunk[slab].store(0, std::memory_order_release);
    slabs_[slab].used = false;
  }
  return absl::OkStatus();
}

}  // namespace zmem
