#include "libzmem/reclaim/isolator.h"

#include <array>
#include <chrono>
#include <memory>
#include <thread>

#include "libzmem/base/check.h"
#include "libzmem/store/chunk_pages.h"
#include "libzmem/uffd/address_map.h"

namespace zmem {
namespace {

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
  process_.table.AddRegistered(number, PagesIn(number, part));
  return true;
}

void Isolator::RegisterUnjudged(AddressRange mapping) {
  GateLock lock(process_.gate);
  if (process_.gone.load(std::memory_order_acquire) || !process_.arrivals.empty()) return;
  // It may have grown since the map was read, and registering what it was then would split it.
  AddressRange whole = MappingAt(process_.pid, mapping.start);
  if (whole.Intersect(mapping) == mapping) process_.uffd.Register(whole);
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
  // It may have become part of a larger one since the map was read, which would be split.
  if (MappingAt(process_.pid, mapping.start) != mapping) return false;
  if (process_.uffd.Unregister(mapping) != 0) return false;
  if (process_.FillTokenPage() == FillResult::kChanging) {
    // A thread may have moved pages of ours there meanwhile. Its event waits for the gate, and so
    // does it: nobody has touched them yet.
    process_.uffd.Register(mapping);
    return false;
  }
  for (uint64_t number : process_.table.NumbersIn(mapping)) {
    process_.table.RemoveRegistered(number, PagesIn(number, mapping));
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
    if (chunk.Transition(page, entry, PageEntry::Isolating(Process::SlotOf(slab, page))))
      claimed.Add(page);
  });
  return claimed;
}

absl::Status Isolator::Isolate(std::span<Order> orders, uint32_t kept_generation) {
  ZMEM_CHECK(!orders.empty() && orders.size() <= wire::kMaxParts);
  if (absl::Status idle = agent_.AwaitIdle(); !idle.ok()) return idle;
  for (const Order& order : orders) {
    if (!cut_off_[order.slab]) continue;
    if (process_.uffd.Register(SlabRange(order.slab)) != 0) return absl::OkStatus();
    cut_off_[order.slab] = false;
  }
  bool foreign = false;
  absl::Status status = MoveOut(orders, kept_generation, &foreign);
  if (!status.ok() || !foreign) return status;
  // Something got into a slab that no entry knows of: a program that locks all its memory fills
  // ours too.
  std::vector<Unneeded> unknown;
  for (const Order& order : orders) unknown.push_back(UnknownSlots(order));
  return Discard(unknown);
}

Isolator::Unneeded Isolator::UnknownSlots(const Order& order) {
  std::shared_ptr<Chunk> chunk = process_.table.Find(order.chunk_number);
  Unneeded unknown{order.slab, {}};
  for (size_t page = 0; page < kPagesPerChunk; ++page) {
    PageEntry entry = chunk == nullptr ? PageEntry() : chunk->Load(page);
    bool needed =
        entry.state() == PageState::kStaged && entry.slot() == Process::SlotOf(order.slab, page);
    if (!needed) unknown.slots.Add(page);
  }
  return unknown;
}

absl::Status Isolator::MoveOut(std::span<Order> orders, uint32_t kept_generation, bool* foreign) {
  GateLock lock(process_.gate);
  if (process_.gone.load(std::memory_order_acquire)) {
    return absl::UnavailableError("the program is gone");
  }
  wire::Move move{};
  move.kept_generation = kept_generation;
  std::array<Order*, wire::kMaxParts> order_of;
  for (Order& order : orders) {
    Address chunk_start = order.chunk_number << kChunkShift;
    std::shared_ptr<Chunk> chunk = process_.OwnChunk(chunk_start);
    if (chunk == nullptr) continue;
    wire::PageSet claimed = Claim(*chunk, chunk_start, order.pages, order.slab);
    if (claimed.empty()) continue;
    process_.slab_chunk[order.slab].store(order.chunk_number, std::memory_order_release);
    order_of[move.parts] = &order;
    move.part[move.parts++] = {chunk_start, SlabRange(order.slab).start, claimed};
  }
  if (move.parts == 0) return absl::OkStatus();
  absl::StatusOr<wire::Report> report = agent_.Move(move);
  *foreign = report.ok() && report->exists > 0;
  for (size_t i = 0; i < move.parts; ++i) {
    Order& order = *order_of[i];
    wire::PageSet claimed = move.part[i].pages;
    if (report.ok()) {
      order.moved = report->done[i].And(claimed);
    } else {
      // A target must be registered: from here on the command cannot be carried out any more.
      cut_off_[order.slab] = process_.uffd.Unregister(SlabRange(order.slab)) == 0;
      order.moved = FindMoved(claimed, order.slab);
    }
    SettleClaimed(order, claimed);
  }
  return report.status();
}

void Isolator::SettleClaimed(Order& order, const wire::PageSet& claimed) {
  std::shared_ptr<Chunk> chunk = process_.table.Find(order.chunk_number);
  ForEach(claimed, [&](size_t page) {
    PageEntry isolating = PageEntry::Isolating(Process::SlotOf(order.slab, page));
    PageEntry next =
        order.moved.Has(page) ? PageEntry::Staged(Process::SlotOf(order.slab, page)) : PageEntry();
    bool swapped = chunk->Transition(page, isolating, next);
    ZMEM_CHECK(swapped);  // under the gate nobody else changes it
  });
  size_t moved = order.moved.count();
  process_.counters.staged_pages.fetch_add(moved, std::memory_order_relaxed);
  process_.counters.isolated_pages.fetch_add(moved, std::memory_order_relaxed);
  process_.counters.refused_pages.fetch_add(claimed.count() - moved, std::memory_order_relaxed);
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
      PageEntry staged = PageEntry::Staged(Process::SlotOf(slab, page));
      PageEntry isolating = PageEntry::Isolating(Process::SlotOf(slab, page));
      if (chunk->Transition(page, staged, isolating)) claimed.Add(page);
    });
  }
  if (claimed.empty()) return claimed;

  wire::Move move{};
  move.parts = 1;
  move.part[0] = {SlabRange(slab).start, chunk_start, claimed};
  absl::StatusOr<wire::Report> report = agent_.Move(move);
  // A silent agent may still bring pages back later. One that is present then wins over its entry.
  wire::PageSet left = report.ok() ? claimed.Without(report->done[0]) : FindMoved(claimed, slab);
  ForEach(claimed, [&](size_t page) {
    PageEntry isolating = PageEntry::Isolating(Process::SlotOf(slab, page));
    PageEntry next =
        left.Has(page) ? PageEntry::Staged(Process::SlotOf(slab, page)) : PageEntry().With(flags);
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
  return report->done[0];
}

absl::Status Isolator::Discard(std::span<const Unneeded> unneeded) {
  ZMEM_CHECK(unneeded.size() <= wire::kMaxParts);
  wire::Discard discard{};
  for (const Unneeded& each : unneeded) {
    if (each.slots.empty()) continue;
    discard.part[discard.parts++] = {SlabRange(each.slab).start, each.slots};
  }
  if (discard.parts == 0) return absl::OkStatus();
  // Not under the gate: dropping raises events that the fault thread has to read.
  return agent_.Discard(discard).status();
}

}  // namespace zmem
