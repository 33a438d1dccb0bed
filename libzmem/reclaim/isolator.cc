#include "libzmem/reclaim/isolator.h"

#include <array>
#include <chrono>
#include <memory>
#include <thread>

#include "libzmem/base/check.h"
#include "libzmem/uffd/address_map.h"

namespace zmem {
namespace {

uint32_t SlotOf(size_t slab, size_t page) {
  return static_cast<uint32_t>(slab * kPagesPerChunk + page);
}

template <typename Visit>
void ForEach(const wire::PageSet& pages, Visit visit) {
  for (size_t page = pages.Next(0, true); page < kPagesPerChunk;
       page = pages.Next(page + 1, true)) {
    visit(page);
  }
}

}  // namespace

bool Isolator::Register(AddressRange part, AddressRange mapping) {
  // What is asked about below is the mapping: what lies beyond it would be taken unregistered.
  if (mapping.Intersect(part) != part) return false;
  // An event that waits to be read is read as soon as the gate is open; a program that changes its
  // layout all the time has the next one soon.
  constexpr int kTries = 20;
  constexpr auto kPause = std::chrono::microseconds(50);
  for (int tries = 1; tries <= kTries; ++tries) {
    std::optional<bool> registered = TryRegister(part, mapping);
    if (registered) return *registered;
    std::this_thread::sleep_for(kPause);
  }
  return false;
}

std::optional<bool> Isolator::TryRegister(AddressRange part, AddressRange mapping) {
  GateLock lock(process_.gate);
  if (process_.gone.load(std::memory_order_acquire)) return false;
  // While an event waits to be read, what it tells is not in our books yet.
  if (!process_.arrivals.empty()) return std::nullopt;
  if (process_.FillTokenPage() == FillResult::kChanging) return std::nullopt;
  uint64_t number = ChunkNumber(part.start);
  bool is_new = process_.table.Find(number) == nullptr;
  std::shared_ptr<Chunk> chunk = process_.table.FindOrAdd(number);
  if (chunk == nullptr) return false;
  if (is_new) Quarantine(*chunk, number);
  // It may have grown since the map was read, and registering what it was then would split it.
  AddressRange whole = MappingAt(process_.pid, mapping.start);
  if (whole.Intersect(mapping) != mapping || process_.uffd.Register(whole) != 0) return false;
  // The kernel registers what is mapped and passes over holes. A hole that is filled later is a
  // mapping of its own, and not registered: so it must have been one mapping all over.
  if (!IsOneMapping(process_.pid, mapping)) return false;
  wire::PageSet pages;
  size_t first = PageInChunk(part.start);
  pages.AddRange(first, first + part.pages());
  process_.table.AddRegistered(number, pages);
  return true;
}

bool Isolator::NothingKnown(AddressRange range) {
  if (process_.advice.Keeps(range)) return false;  // its end must be told
  for (uint64_t number : process_.table.NumbersIn(range)) {
    std::shared_ptr<Chunk> chunk = process_.table.Find(number);
    if (chunk == nullptr) continue;
    Address start = number << kChunkShift;
    AddressRange part = range.Intersect({start, start + kChunkBytes});
    size_t first = PageInChunk(part.start);
    for (size_t page = first; page < first + part.pages(); ++page) {
      if (chunk->Load(page) != PageEntry()) return false;
    }
  }
  return true;
}

bool Isolator::IsRegistered(AddressRange mapping) {
  for (uint64_t number : process_.table.NumbersIn(mapping)) {
    if (!process_.table.Registered(number).empty()) return true;
  }
  return false;
}

bool Isolator::Unregister(AddressRange mapping) {
  // The usual answers, without holding anybody up.
  if (!IsRegistered(mapping) || !NothingKnown(mapping)) return false;
  GateLock lock(process_.gate);
  if (process_.gone.load(std::memory_order_acquire) || !process_.arrivals.empty()) return false;
  // As for registering: what an unread event tells is not in our books yet.
  if (process_.FillTokenPage() == FillResult::kChanging || !NothingKnown(mapping)) return false;
  if (process_.uffd.Unregister(mapping) != 0) return false;
  if (process_.FillTokenPage() == FillResult::kChanging) {
    // A thread may have moved pages of ours there meanwhile. Its event waits for the gate, and so
    // does it: nobody has touched them yet.
    process_.uffd.Register(mapping);
    return false;
  }
  for (uint64_t number : process_.table.NumbersIn(mapping)) {
    Address start = number << kChunkShift;
    AddressRange part = mapping.Intersect({start, start + kChunkBytes});
    wire::PageSet pages;
    pages.AddRange(PageInChunk(part.start), PageInChunk(part.start) + part.pages());
    process_.table.RemoveRegistered(number, pages);
  }
  return true;
}

void Isolator::ForgetUnused() {
  for (uint64_t number : process_.table.Numbers()) {
    Address start = number << kChunkShift;
    GateLock lock(process_.gate);
    std::shared_ptr<Chunk> chunk = process_.table.Find(number);
    if (chunk == nullptr || !process_.table.Registered(number).empty()) continue;
    if (NothingKnown({start, start + kChunkBytes})) process_.RemoveChunk(number);
  }
}

void Isolator::Quarantine(Chunk& chunk, uint64_t chunk_number) {
  int64_t now_ns = clock_.now_ns();
  wire::PageSet going = process_.removals.In(chunk_number, now_ns);
  if (going.empty()) return;
  chunk.quarantined_ns.store(now_ns, std::memory_order_relaxed);
  ForEach(going, [&](size_t page) {
    PageEntry resident;
    chunk.Transition(page, resident, resident.With(PageEntry::kQuarantined));
  });
}

void Isolator::ReleaseQuarantine(Chunk& chunk, Address chunk_start) {
  // What is there after so long is there to stay. That holds for MADV_FREE too, whose pages may
  // never go: until they are written they may as well have their old bytes.
  int64_t quarantined_ns = chunk.quarantined_ns.load(std::memory_order_relaxed);
  bool over = clock_.now_ns() - quarantined_ns > RecentRemovals::kHorizonNs;
  std::array<bool, kPagesPerChunk> absent;
  if (process_.pagemap.FindAbsent(chunk_start, absent) != 0) return;
  for (size_t page = 0; page < kPagesPerChunk; ++page) {
    PageEntry entry = chunk.Load(page);
    if (entry.Has(PageEntry::kQuarantined) && (over || absent[page])) {
      chunk.Transition(page, entry, entry.Without(PageEntry::kQuarantined));
    }
  }
}

wire::PageSet Isolator::Claim(Chunk& chunk, Address chunk_start, wire::PageSet pages, size_t slab) {
  bool quarantine = false;
  for (size_t page = 0; page < kPagesPerChunk; ++page) {
    quarantine |= chunk.Load(page).Has(PageEntry::kQuarantined);
  }
  if (quarantine) ReleaseQuarantine(chunk, chunk_start);
  wire::PageSet claimed;
  wire::PageSet registered = process_.table.Registered(ChunkNumber(chunk_start));
  wire::PageSet kept = process_.advice.KeptIn(ChunkNumber(chunk_start));
  ForEach(pages.And(registered).Without(kept), [&](size_t page) {
    PageEntry entry = chunk.Load(page);
    if (entry.state() != PageState::kResident || entry.Has(PageEntry::kQuarantined)) return;
    if (chunk.Transition(page, entry, PageEntry::Isolating(SlotOf(slab, page)))) claimed.Add(page);
  });
  return claimed;
}

absl::StatusOr<wire::PageSet> Isolator::Isolate(uint64_t chunk_number, wire::PageSet pages,
                                                size_t slab, uint32_t kept_generation) {
  if (absl::Status idle = agent_.AwaitIdle(); !idle.ok()) return idle;
  if (cut_off_[slab]) {
    if (process_.uffd.Register(SlabRange(slab)) != 0) return wire::PageSet{};
    cut_off_[slab] = false;
  }
  bool foreign = false;
  absl::StatusOr<wire::PageSet> moved =
      MoveOut(chunk_number, pages, slab, kept_generation, &foreign);
  if (!moved.ok() || !foreign) return moved;
  // Something got into the slab that no entry knows of: a program that locks all its memory fills
  // ours too.
  std::shared_ptr<Chunk> chunk = process_.table.Find(chunk_number);
  wire::PageSet unknown;
  for (size_t page = 0; page < kPagesPerChunk; ++page) {
    PageEntry entry = chunk == nullptr ? PageEntry() : chunk->Load(page);
    bool needed = entry.state() == PageState::kStaged && entry.slot() == SlotOf(slab, page);
    if (!needed) unknown.Add(page);
  }
  if (absl::Status status = Discard(unknown, slab); !status.ok()) return status;
  return moved;
}

absl::StatusOr<wire::PageSet> Isolator::MoveOut(uint64_t chunk_number, wire::PageSet pages,
                                                size_t slab, uint32_t kept_generation,
                                                bool* foreign) {
  Address chunk_start = chunk_number << kChunkShift;
  GateLock lock(process_.gate);
  if (process_.gone.load(std::memory_order_acquire)) {
    return absl::UnavailableError("the program is gone");
  }
  std::shared_ptr<Chunk> chunk = process_.OwnChunk(chunk_start);
  if (chunk == nullptr) return wire::PageSet{};
  wire::PageSet claimed = Claim(*chunk, chunk_start, pages, slab);
  if (claimed.empty()) return claimed;
  process_.slab_chunk[slab].store(chunk_number, std::memory_order_release);

  wire::Move move{};
  move.source = chunk_start;
  move.target = SlabRange(slab).start;
  move.pages = claimed;
  move.kept_generation = kept_generation;
  absl::StatusOr<wire::Report> report = agent_.Move(move);
  if (!report.ok()) {
    // A target must be registered: from here on the order cannot be carried out any more.
    cut_off_[slab] = process_.uffd.Unregister(SlabRange(slab)) == 0;
  }
  *foreign = report.ok() && report->exists > 0;
  wire::PageSet moved = report.ok() ? report->done.And(claimed) : FindMoved(claimed, slab);
  ForEach(claimed, [&](size_t page) {
    PageEntry isolating = PageEntry::Isolating(SlotOf(slab, page));
    PageEntry next = moved.Has(page) ? PageEntry::Staged(SlotOf(slab, page)) : PageEntry();
    bool swapped = chunk->Transition(page, isolating, next);
    ZMEM_CHECK(swapped);  // under the gate nobody else changes it
  });
  process_.counters.staged_pages.fetch_add(moved.count(), std::memory_order_relaxed);
  process_.counters.isolated_pages.fetch_add(moved.count(), std::memory_order_relaxed);
  process_.counters.refused_pages.fetch_add(claimed.count() - moved.count(),
                                            std::memory_order_relaxed);
  if (!report.ok()) return report.status();
  return moved;
}

AddressRange Isolator::SlabRange(size_t slab) const {
  Address start = process_.staging.start + slab * kChunkBytes;
  return {start, start + kChunkBytes};
}

wire::PageSet Isolator::FindMoved(wire::PageSet pages, size_t slab) {
  std::array<bool, kPagesPerChunk> absent;
  if (process_.pagemap.FindAbsent(SlabRange(slab).start, absent) != 0) return {};
  wire::PageSet moved;
  ForEach(pages, [&](size_t page) {
    if (!absent[page]) moved.Add(page);
  });
  return moved;
}

absl::StatusOr<wire::PageSet> Isolator::Return(uint64_t chunk_number, wire::PageSet pages,
                                               size_t slab, uint64_t flags) {
  Address chunk_start = chunk_number << kChunkShift;
  if (absl::Status idle = agent_.AwaitIdle(); !idle.ok()) return idle;
  GateLock lock(process_.gate);
  std::shared_ptr<Chunk> chunk = process_.OwnChunk(chunk_start);
  wire::PageSet claimed;
  if (chunk != nullptr && !process_.gone.load(std::memory_order_acquire)) {
    ForEach(pages, [&](size_t page) {
      PageEntry staged = PageEntry::Staged(SlotOf(slab, page));
      PageEntry isolating = PageEntry::Isolating(SlotOf(slab, page));
      if (chunk->Transition(page, staged, isolating)) claimed.Add(page);
    });
  }
  if (claimed.empty()) return claimed;

  wire::Move move{};
  move.source = SlabRange(slab).start;
  move.target = chunk_start;
  move.pages = claimed;
  absl::StatusOr<wire::Report> report = agent_.Move(move);
  // A silent agent may still bring pages back later. One that is present then wins over its entry.
  wire::PageSet left = report.ok() ? claimed.Without(report->done) : FindMoved(claimed, slab);
  ForEach(claimed, [&](size_t page) {
    PageEntry isolating = PageEntry::Isolating(SlotOf(slab, page));
    PageEntry next =
        left.Has(page) ? PageEntry::Staged(SlotOf(slab, page)) : PageEntry().With(flags);
    bool swapped = chunk->Transition(page, isolating, next);
    ZMEM_CHECK(swapped);
  });
  wire::PageSet returned = claimed.Without(left);
  process_.counters.staged_pages.fetch_sub(returned.count(), std::memory_order_relaxed);
  process_.counters.returned_pages.fetch_add(returned.count(), std::memory_order_relaxed);
  if (!report.ok()) return report.status();
  return returned;
}

wire::PageSet Isolator::Exclusive(uint64_t chunk_number, wire::PageSet pages) const {
  std::array<bool, kPagesPerChunk> exclusive;
  if (process_.pagemap.FindExclusive(chunk_number << kChunkShift, exclusive) != 0) return {};
  wire::PageSet result;
  ForEach(pages, [&](size_t page) {
    if (exclusive[page]) result.Add(page);
  });
  return result;
}

absl::StatusOr<wire::PageSet> Isolator::Unshare(uint64_t chunk_number, wire::PageSet pages) {
  wire::Populate populate{};
  populate.chunk = chunk_number << kChunkShift;
  populate.pages = Exclusive(chunk_number, pages);
  if (populate.pages.empty()) return populate.pages;
  absl::StatusOr<wire::Report> report = agent_.Populate(populate);
  if (!report.ok()) return report.status();
  return report->done;
}

absl::Status Isolator::Discard(wire::PageSet pages, size_t slab) {
  if (pages.empty()) return absl::OkStatus();
  // Not under the gate: dropping raises events that the fault thread has to read.
  wire::Discard discard{};
  discard.slab = SlabRange(slab).start;
  discard.pages = pages;
  return agent_.Discard(discard).status();
}

}  // namespace zmem
