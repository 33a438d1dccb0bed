#include "libzmem/fault/layout_events.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "libzmem/base/check.h"
#include "libzmem/uffd/address_map.h"

namespace zmem {

template <typename Visit>
void LayoutEvents::ForEachChunk(AddressRange range, Visit visit) {
  if (range.empty()) return;
  for (uint64_t number : process_.table.NumbersIn(range)) {
    Address start = number << kChunkShift;
    std::shared_ptr<Chunk> chunk = process_.OwnChunk(start);
    if (chunk == nullptr) continue;
    AddressRange part = range.Intersect({start, start + kChunkBytes});
    size_t first = PageInChunk(part.start);
    visit(chunk, number, first, first + part.pages());
  }
}

void LayoutEvents::Drop(Chunk& chunk, size_t page, PageEntry replacement) {
  process_.Retire(chunk.Replace(page, replacement));
}

std::shared_ptr<Process> LayoutEvents::OnFork(UniqueFd child_uffd) {
  disk_.ReleaseClaims();
  // The child has no staging area (MADV_DONTFORK), and its parent's will be reused.
  for (const std::atomic<uint64_t>& slab : process_.slab_chunk) {
    uint64_t number = slab.load(std::memory_order_acquire);
    if (number == 0) continue;
    std::shared_ptr<Chunk> chunk = process_.OwnChunk(number << kChunkShift);
    if (chunk != nullptr) restorer_.StoreStagedPages(*chunk);
  }
  auto child = std::make_shared<Process>(process_.store, process_.arena,
                                         Userfaultfd::Adopt(std::move(child_uffd)));
  child->SetPolicy(process_.policy());
  child->table.ShareFrom(process_.table);
  child->counters.CopyLevels(process_.counters);
  child->arrivals = process_.arrivals;
  for (Process::Arrival& arrival : child->arrivals)
    arrival.settled = true;  // it has its own events
  child->token_page = process_.token_page;
  child->agent = process_.agent;
  child->last_fork_ns.store(process_.last_fork_ns.load(std::memory_order_relaxed),
                            std::memory_order_relaxed);
  return child;
}

void LayoutEvents::OnRemap(Address from, Address to, uint64_t bytes) {
  disk_.ReleaseClaims();
  process_.clean_pages.Drop({from, from + bytes});
  std::vector<std::pair<Address, PageEntry>> moved;
  ForEachChunk({from, from + bytes},
               [&](const std::shared_ptr<Chunk>& chunk, uint64_t number, size_t first, size_t end) {
                 // A slot belongs to the page of the same index in its slab's chunk.
                 restorer_.StoreStagedPages(*chunk);
                 Forget(number, first, end);
                 for (size_t page = first; page < end; ++page) {
                   if (chunk->Load(page) == PageEntry()) continue;
                   Address address = (number << kChunkShift) + page * kPageBytes;
                   moved.emplace_back(address - from + to, chunk->Replace(page, PageEntry()));
                 }
               });
  AddressRange target{to, to + bytes};
  DropRange(target, {});  // whatever lay there is gone, be its own event read or still to come
  process_.advice.Move({from, from + bytes}, to);
  for (const auto& [address, entry] : moved) {
    std::shared_ptr<Chunk> chunk = process_.OwnChunk(address);
    if (chunk == nullptr) chunk = process_.table.FindOrAdd(ChunkNumber(address));
    ZMEM_CHECK(chunk != nullptr);  // the arena is sized for more than can be mapped and stored
    Drop(*chunk, PageInChunk(address), entry);
  }
  if (moved.empty()) return;
  process_.arrivals.push_back({.range = target, .start = to});
}

bool LayoutEvents::SettleArrivals(size_t max_pages) {
  if (process_.FillTokenPage() == FillResult::kChanging) return false;
  for (Process::Arrival& arrival : process_.arrivals) arrival.settled = true;
  while (!process_.arrivals.empty() && max_pages > 0) {
    AddressRange& range = process_.arrivals.back().range;
    if (range.empty()) {
      process_.arrivals.pop_back();
      continue;
    }
    std::shared_ptr<Chunk> chunk = process_.table.Find(ChunkNumber(range.start));
    if (chunk != nullptr && chunk->Load(PageInChunk(range.start)).state() == PageState::kOnDisk) {
      disk_.Begin(range.start, DiskReads::kMaxPages - 1, DiskReads::Reason::kArrival);
      return false;
    }
    size_t wanted = std::min({max_pages, PageRestorer::kBufferPages, range.pages()});
    size_t restored = 0;
    FillResult result = restorer_.RestoreRun(range.start, wanted, &restored);
    if (result == FillResult::kAbsent && restored == 0) {
      // Nothing is mapped there any more.
      ForEachChunk({range.start, range.start + kPageBytes},
                   [&](const std::shared_ptr<Chunk>& chunk, uint64_t, size_t page, size_t) {
                     Drop(*chunk, page, PageEntry());
                   });
    }
    if (result == FillResult::kChanging || result == FillResult::kNoMemory) return false;
    if (result == FillResult::kGone) {
      process_.gone.store(true, std::memory_order_release);
      return true;
    }
    // A run ends at a page that we do not have; it may go on behind it.
    size_t done = std::max<size_t>(restored, 1);
    range.start += done * kPageBytes;
    max_pages -= std::min(max_pages, done);
  }
  return true;
}

std::vector<AddressRange> LayoutEvents::NewerThan(AddressRange unmapped) const {
  std::vector<AddressRange> newer;
  // A child without an agent yet hardly has threads that could have done both at once.
  if (!process_.bound.load(std::memory_order_acquire)) return newer;
  for (const Process::Arrival& arrival : process_.arrivals) {
    AddressRange part = arrival.range.Intersect(unmapped);
    if (part.empty() || arrival.settled) continue;
    // The unmapping is the newer one if the mapping is not there any more. That cannot be told
    // later: the program may let another mapping grow there, which no event tells.
    AddressRange mapping = MappingAt(process_.pid, part.start);
    part = part.Intersect(mapping);
    if (!part.empty() && mapping.start >= arrival.start) newer.push_back(part);
  }
  return newer;
}

void LayoutEvents::Forget(uint64_t chunk_number, size_t first, size_t end) {
  wire::PageSet pages;
  pages.AddRange(first, end);
  process_.table.RemoveRegistered(chunk_number, pages);
}

void LayoutEvents::OnRemove(AddressRange range, int64_t now_ns) {
  process_.clean_pages.Drop(range);
  uint64_t known = 0;
  ForEachChunk(range, [&](const std::shared_ptr<Chunk>& chunk, uint64_t, size_t first, size_t end) {
    ++known;
    chunk->quarantined_ns.store(now_ns, std::memory_order_relaxed);
    for (size_t page = first; page < end; ++page) {
      Drop(*chunk, page, PageEntry().With(PageEntry::kQuarantined));
    }
  });
  uint64_t all = ChunkNumber(range.end - 1) - ChunkNumber(range.start) + 1;
  if (known < all) process_.removals.Add(range, now_ns);
}

// Threads that remap at once can have an older unmapping told after a newer arrival.
void LayoutEvents::OnUnmap(AddressRange range) { DropRange(range, NewerThan(range)); }

void LayoutEvents::DropRange(AddressRange range, const std::vector<AddressRange>& spared) {
  process_.clean_pages.Drop(range);
  if (spared.empty()) process_.advice.Forget(range);
  auto is_spared = [&spared](Address page) {
    return std::any_of(spared.begin(), spared.end(),
                       [page](AddressRange part) { return part.Contains(page); });
  };
  std::vector<uint64_t> whole;
  ForEachChunk(range,
               [&](const std::shared_ptr<Chunk>& chunk, uint64_t number, size_t first, size_t end) {
                 Forget(number, first, end);
                 if (end - first == kPagesPerChunk && spared.empty()) {
                   whole.push_back(number);
                   return;
                 }
                 for (size_t page = first; page < end; ++page) {
                   Address address = (number << kChunkShift) + page * kPageBytes;
                   if (is_spared(address)) continue;
                   Drop(*chunk, page, PageEntry());
                 }
               });
  for (uint64_t number : whole) process_.RemoveChunk(number);
}

}  // namespace zmem
