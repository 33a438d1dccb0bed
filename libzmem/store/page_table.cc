#include "libzmem/store/page_table.h"

#include <algorithm>

#include "libzmem/base/check.h"

namespace zmem {
namespace {

// One for all tables: relatives share, unshare and drop the same chunks, one after the other, so
// that the last of them finds itself alone. Rare: forks and what follows them.
Mutex& SharingMutex() {
  static Mutex& mutex = *new Mutex;
  return mutex;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ChunkArena>> ChunkArena::Create(uint64_t max_chunks) {
  absl::StatusOr<SharedRegion> region = SharedRegion::Create("zmem-table", max_chunks * kPageBytes);
  if (!region.ok()) return region.status();
  return std::unique_ptr<ChunkArena>(new ChunkArena(*std::move(region)));
}

std::atomic<uint64_t>* ChunkArena::Allocate() {
  uint64_t index;
  {
    MutexLock lock(mutex_);
    if (!free_.empty()) {
      index = free_.back();
      free_.pop_back();
    } else if ((next_ + 1) * kPageBytes <= region_.reserved_bytes()) {
      index = next_++;
    } else {
      return nullptr;
    }
  }
  held_chunks_.fetch_add(1, std::memory_order_relaxed);
  // Fresh and discarded pages read as zeros, which is kResident.
  return reinterpret_cast<std::atomic<uint64_t>*>(region_.data() + index * kPageBytes);
}

void ChunkArena::Free(std::atomic<uint64_t>* entries) {
  uint64_t offset = static_cast<uint64_t>(reinterpret_cast<std::byte*>(entries) - region_.data());
  if (region_.Discard(offset, kPageBytes) != 0) {
    // No memory to give it back: then it is kept, but as empty as a fresh one.
    for (size_t page = 0; page < kPagesPerChunk; ++page) entries[page].store(0);
  }
  held_chunks_.fetch_sub(1, std::memory_order_relaxed);
  MutexLock lock(mutex_);
  free_.push_back(offset / kPageBytes);
}

uint64_t ChunkArena::held_bytes() const {
  return held_chunks_.load(std::memory_order_relaxed) * kChunkMetadataBytes;
}

bool Chunk::Transition(size_t page, PageEntry& expected, PageEntry desired) {
  ZMEM_CHECK(TransitionAllowed(expected.state(), desired.state()));
  uint64_t bits = expected.bits();
  bool swapped =
      entries_[page].compare_exchange_strong(bits, desired.bits(), std::memory_order_acq_rel);
  if (!swapped) expected = PageEntry(bits);
  return swapped;
}

PageEntry Chunk::Replace(size_t page, PageEntry desired) {
  PageEntry entry = Load(page);
  while (!Transition(page, entry, desired)) {
  }
  return entry;
}

std::shared_ptr<Chunk> PageTable::Find(uint64_t chunk_number) {
  MutexLock lock(mutex_);
  auto found = chunks_.find(chunk_number);
  return found == chunks_.end() ? nullptr : found->second.chunk;
}

std::shared_ptr<Chunk> PageTable::FindOrAdd(uint64_t chunk_number) {
  if (std::shared_ptr<Chunk> chunk = Find(chunk_number)) return chunk;
  std::atomic<uint64_t>* entries = arena_.Allocate();
  if (entries == nullptr) return nullptr;
  auto fresh = std::make_shared<Chunk>(arena_, entries);
  MutexLock lock(mutex_);
  return chunks_.try_emplace(chunk_number, Place{std::move(fresh), {}}).first->second.chunk;
}

void PageTable::Remove(uint64_t chunk_number, const std::function<void(PageEntry)>& release) {
  MutexLock one_at_a_time(SharingMutex());
  std::shared_ptr<Chunk> removed;
  {
    MutexLock lock(mutex_);
    auto found = chunks_.find(chunk_number);
    if (found == chunks_.end()) return;
    removed = std::move(found->second.chunk);
    chunks_.erase(found);
  }
  if (removed->sharers.fetch_sub(1, std::memory_order_acq_rel) > 1) return;
  for (size_t page = 0; page < kPagesPerChunk; ++page) {
    if (removed->Load(page).state() == PageState::kResident) continue;
    release(removed->Replace(page, PageEntry()));
  }
}

std::vector<uint64_t> PageTable::Numbers() {
  std::vector<uint64_t> numbers;
  {
    MutexLock lock(mutex_);
    numbers.reserve(chunks_.size());
    for (const auto& [number, place] : chunks_) numbers.push_back(number);
  }
  std::sort(numbers.begin(), numbers.end());
  return numbers;
}

std::vector<uint64_t> PageTable::NumbersIn(AddressRange range) {
  uint64_t first = ChunkNumber(range.start);
  uint64_t last = ChunkNumber(range.end - 1);
  std::vector<uint64_t> numbers;
  MutexLock lock(mutex_);
  if (last - first < chunks_.size()) {
    for (uint64_t number = first; number <= last; ++number) {
      if (chunks_.contains(number)) numbers.push_back(number);
    }
    return numbers;
  }
  for (const auto& [number, place] : chunks_) {
    if (number >= first && number <= last) numbers.push_back(number);
  }
  std::sort(numbers.begin(), numbers.end());
  return numbers;
}

size_t PageTable::size() {
  MutexLock lock(mutex_);
  return chunks_.size();
}

wire::PageSet PageTable::Registered(uint64_t chunk_number) {
  MutexLock lock(mutex_);
  auto found = chunks_.find(chunk_number);
  return found == chunks_.end() ? wire::PageSet{} : found->second.registered;
}

void PageTable::AddRegistered(uint64_t chunk_number, const wire::PageSet& pages) {
  MutexLock lock(mutex_);
  auto found = chunks_.find(chunk_number);
  if (found != chunks_.end()) found->second.registered = found->second.registered.Or(pages);
}

void PageTable::RemoveRegistered(uint64_t chunk_number, const wire::PageSet& pages) {
  MutexLock lock(mutex_);
  auto found = chunks_.find(chunk_number);
  if (found != chunks_.end()) found->second.registered = found->second.registered.Without(pages);
}

void PageTable::ShareFrom(PageTable& parent) {
  MutexLock one_at_a_time(SharingMutex());
  absl::flat_hash_map<uint64_t, Place> copies;
  {
    MutexLock lock(parent.mutex_);
    copies.reserve(parent.chunks_.size());
    for (auto& [number, place] : parent.chunks_) {
      place.chunk->sharers.fetch_add(1, std::memory_order_acq_rel);
      copies.emplace(number, Place{place.chunk, {}});
    }
  }
  MutexLock lock(mutex_);
  ZMEM_CHECK(chunks_.empty());
  chunks_ = std::move(copies);
}

std::shared_ptr<Chunk> PageTable::Unshare(
    uint64_t chunk_number, const std::function<PageEntry(PageEntry)>& add_reference) {
  std::shared_ptr<Chunk> chunk = Find(chunk_number);
  if (chunk == nullptr || chunk->sharers.load(std::memory_order_acquire) == 1) return chunk;
  MutexLock one_at_a_time(SharingMutex());
  chunk = Find(chunk_number);
  if (chunk == nullptr || chunk->sharers.load(std::memory_order_acquire) == 1) return chunk;
  std::atomic<uint64_t>* entries = arena_.Allocate();
  if (entries == nullptr) return nullptr;
  auto copy = std::make_shared<Chunk>(arena_, entries);
  for (size_t page = 0; page < kPagesPerChunk; ++page) {
    PageEntry entry = chunk->Load(page);
    if (entry.has_object()) {
      PageEntry shared = add_reference(entry);
      bool swapped = chunk->Transition(page, entry, shared);
      ZMEM_CHECK(swapped);  // nobody changes a shared chunk
      entry = shared;
    }
    copy->Initialise(page, entry);
  }
  copy->ages.CopyFrom(chunk->ages);
  copy->last_fault_ns.store(chunk->last_fault_ns.load(std::memory_order_relaxed),
                            std::memory_order_relaxed);
  copy->stored_ns.store(chunk->stored_ns.load(std::memory_order_relaxed),
                        std::memory_order_relaxed);
  copy->recompressed_ns.store(chunk->recompressed_ns.load(std::memory_order_relaxed),
                              std::memory_order_relaxed);
  copy->incompressible_ns.store(chunk->incompressible_ns.load(std::memory_order_relaxed),
                                std::memory_order_relaxed);
  copy->quarantined_ns.store(chunk->quarantined_ns.load(std::memory_order_relaxed),
                             std::memory_order_relaxed);
  {
    MutexLock lock(mutex_);
    chunks_[chunk_number].chunk = copy;
  }
  chunk->sharers.fetch_sub(1, std::memory_order_acq_rel);
  return copy;
}

}  // namespace zmem
