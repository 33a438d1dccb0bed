#include "libzmem/fault/layout_events.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "libzmem/base/check.h"

namespace zmem {

template <typename Visit>
void LayoutEvents::ForEachChunk(AddressRange range, Visit visit) {
  auto visit_one = [&](uint64_t number) {
    Address start = number << kChunkShift;
    AddressRange part = range.Intersect({start, start + kChunkBytes});
    if (part.empty()) return;
    std::shared_ptr<Chunk> chunk = process_.OwnChunk(start);
    if (chunk == nullptr) return;
    size_t first = (part.start - start) >> kPageShift;
    visit(chunk, number, first, first + part.pages());
  };
  uint64_t first_number = ChunkNumber(range.start);
  uint64_t end_number = ChunkNumber(range.end + kChunkBytes - 1);
  // A program may unmap a terabyte of which we know three chunks.
  if (end_number - first_number > process_.table.size()) {
    for (uint64_t number : process_.table.Numbers()) visit_one(number);
  } else {
    for (uint64_t number = first_number; number < end_number; ++number) visit_one(number);
  }
}

void LayoutEvents::Drop(Chunk& chunk, size_t page, PageEntry replacement) {
  PageEntry entry = chunk.Load(page);
  while (!chunk.Transition(page, entry, replacement)) {
  }
  process_.Retire(entry);
}

std::shared_ptr<Process> LayoutEvents::OnFork(UniqueFd child_uffd) {
  // The child has no staging area (MADV_DONTFORK), and its parent's will be reused.
  for (const std::atomic<uint64_t>& slab : process_.slab_chunk) {
    uint64_t number = slab.load(std::memory_order_acquire);
    if (number == 0) continue;
    std::shared_ptr<Chunk> chunk = process_.OwnChunk(number << kChunkShift);
    if (chunk != nullptr) restorer_.StoreStagedPages(*chunk);
  }
  auto child = std::make_shared<Process>(process_.store, process_.arena,
                                         Userfaultfd::Adopt(std::move(child_uffd)));
  child->table.ShareFrom(process_.table);
  child->counters.CopyLevels(process_.counters);
  child->token_page = process_.token_page;
  child->agent = process_.agent;
  return child;
}

void LayoutEvents::OnRemap(Address from, Address to, uint64_t bytes) {
  AddressRange old_range{from, from + bytes};
  std::vector<std::pair<Address, PageEntry>> moved;
  ForEachChunk(old_range,
               [&](const std::shared_ptr<Chunk>& chunk, uint64_t number, size_t first, size_t end) {
                 // A slot belongs to the page of the same index in its slab's chunk.
                 restorer_.StoreStagedPages(*chunk);
                 for (size_t page = first; page < end; ++page) {
                   chunk->registered.Remove(page);
                   PageEntry entry = chunk->Load(page);
                   if (entry == PageEntry()) continue;
                   while (!chunk->Transition(page, entry, PageEntry())) {
                   }
                   Address address = (number << kChunkShift) + page * kPageBytes;
                   moved.emplace_back(address - from + to, entry);
                 }
               });
  for (const auto& [address, entry] : moved) {
    std::shared_ptr<Chunk> chunk = process_.OwnChunk(address);
    if (chunk == nullptr) chunk = process_.table.FindOrAdd(ChunkNumber(address));
    ZMEM_CHECK(chunk != nullptr);  // the arena is sized for more than can be mapped and stored
    PageEntry there = chunk->Load(PageInChunk(address));
    // What lay at the target was unmapped, with an event of its own, before this one.
    while (!chunk->Transition(PageInChunk(address), there, entry)) {
    }
    process_.Retire(there);
  }
}

void LayoutEvents::OnRemove(AddressRange range) {
  ForEachChunk(range, [&](const std::shared_ptr<Chunk>& chunk, uint64_t, size_t first, size_t end) {
    for (size_t page = first; page < end; ++page) {
      Drop(*chunk, page, PageEntry().With(PageEntry::kQuarantined));
    }
  });
}

void LayoutEvents::OnUnmap(AddressRange range) {
  std::vector<uint64_t> whole;
  ForEachChunk(range,
               [&](const std::shared_ptr<Chunk>& chunk, uint64_t number, size_t first, size_t end) {
                 if (end - first == kPagesPerChunk) {
                   whole.push_back(number);
                   return;
                 }
                 for (size_t page = first; page < end; ++page) {
                   chunk->registered.Remove(page);
                   Drop(*chunk, page, PageEntry());
                 }
               });
  for (uint64_t number : whole) process_.RemoveChunk(number);
}

}  // namespace zmem
