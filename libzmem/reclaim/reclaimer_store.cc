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

std::vector<Reclaimer::StagedBatch> Reclaimer::StagedBatches(std::span<const size_t> slabs) const {
  std::vector<StagedBatch> batches;
  size_t room = 0;  // pages that the last one may still have
  for (size_t slab : slabs) {
    std::shared_ptr<Chunk> chunk = process_.table.Find(slabs_[slab].chunk_number);
    if (chunk == nullptr) continue;
    wire::PageSet staged = StillStaged(*chunk, slab).Without(slabs_[slab].refused());
    for (size_t page = staged.Next(0, true); page < kPagesPerChunk;) {
      if (room == 0) {
        batches.emplace_back();
        room = kBatchedPages;
      }
      size_t end = std::min(staged.Next(page, false), page + room);
      batches.back().push_back({slab, page, end});
      room -= end - page;
      page = staged.Next(end, true);
    }
  }
  return batches;
}

void Reclaimer::StoreBatch(const StagedBatch& batch, Patience patience) {
  Tools& own = tools();
  own.read_pages.clear();
  for (const StagedRun& run : batch) ReadRun(run, own);
  StoreReadPages(own, patience);
}

void Reclaimer::ReadRun(const StagedRun& run, Tools& own) {
  // Afresh for each run: a fork may have left the old one to a relative.
  std::shared_ptr<Chunk> chunk = process_.table.Find(slabs_[run.slab].chunk_number);
  if (chunk == nullptr) return;
  Address source = process_.slot_address(Process::SlotOf(run.slab, run.first));
  size_t pages = run.end - run.first;
  if (process_.memory.Read(source, own.BytesOf(own.read_pages.size()), pages * kPageBytes)) {
    for (size_t page = run.first; page < run.end; ++page) {
      own.read_pages.push_back({chunk, run.slab, page});
    }
  } else if (pages == 1) {
    SettleEmptySlot(*chunk, run.slab, run.first);
  } else {
    for (size_t page = run.first; page < run.end; ++page) ReadRun({run.slab, page, page + 1}, own);
  }
}

void Reclaimer::StoreReadPages(Tools& own, Patience patience) {
  size_t pages = own.read_pages.size();
  auto bytes_of = [&own](size_t i) {
    return std::span<const std::byte, kPageBytes>(own.BytesOf(i), kPageBytes);
  };
  auto is_staged = [&own](size_t i) {  // false: wanted back meanwhile
    const ReadPage& read = own.read_pages[i];
    PageEntry staged = PageEntry::Staged(Process::SlotOf(read.slab, read.page));
    return read.chunk->Load(read.page) == staged;
  };
  std::array<std::optional<PageEntry>, kBatchedPages> unchanged;
  for (size_t i = 0; i < pages; ++i) {
    if (!is_staged(i)) continue;
    const ReadPage& read = own.read_pages[i];
    unchanged[i] = process_.clean_pages.Reuse(AddressOf(read.slab, read.page), bytes_of(i));
  }
  std::array<std::optional<PageStore::Form>, kBatchedPages> forms;
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
    const ReadPage& read = own.read_pages[i];
    if (unchanged[i]) {
      Publish(*read.chunk, read.slab, read.page, *unchanged[i]);
    } else if (forms[i] && is_staged(i)) {
      StorePage(*read.chunk, read.slab, read.page, *forms[i], patience);
    }
  }
  own.read_pages.clear();
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
    std::vector<StagedBatch> batches = StagedBatches(slabs);
    options_.crew->Run(batches.size(), [&](size_t i) { StoreBatch(batches[i], Patience::kNone); });
  }
  file_patience_ = kFilePatience;
  for (const StagedBatch& batch : StagedBatches(slabs)) StoreBatch(batch, Patience::kSome);
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
