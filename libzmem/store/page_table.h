// The entries of one program's managed chunks. Lives in shared memory (a ChunkArena), because what
// it says must outlive the process that wrote it.
//
// Who may do what:
//   * The fault thread alone removes chunks and shares them with forked children.
//   * The reclaimer adds chunks. Both move entries, with compare-and-swap.
//   * The map of chunks has a lock of its own.
// A chunk may be shared with forked relatives (copy on write). Nobody changes the entries of a
// shared chunk: whoever wants to calls Unshare first and gets a copy of its own.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "libzmem/base/mutex.h"
#include "libzmem/base/page.h"
#include "libzmem/base/shared_region.h"
#include "libzmem/store/page_ages.h"
#include "libzmem/store/page_entry.h"
#include "libzmem/wire/messages.h"

namespace zmem {

// Pages of kPagesPerChunk entries in one shared region, handed out and taken back.
// Thread-safe.
class ChunkArena {
 public:
  // `max_chunks` bounds what can be managed at once, at 2 MiB each.
  static absl::StatusOr<std::unique_ptr<ChunkArena>> Create(uint64_t max_chunks);

  // kPagesPerChunk entries, all kResident, or null when max_chunks are out.
  std::atomic<uint64_t>* Allocate();
  void Free(std::atomic<uint64_t>* entries);

  // Memory taken now by what is known of chunks: kChunkMetadataBytes for each.
  uint64_t held_bytes() const;

 private:
  explicit ChunkArena(SharedRegion region) : region_(std::move(region)) {}

  SharedRegion region_;
  Mutex mutex_;
  uint64_t next_ ABSL_GUARDED_BY(mutex_) = 0;  // chunks never used begin here
  std::vector<uint64_t> free_ ABSL_GUARDED_BY(mutex_);
  std::atomic<uint64_t> held_chunks_{0};
};

static_assert(kPagesPerChunk * sizeof(uint64_t) == kPageBytes);
static_assert(std::atomic<uint64_t>::is_always_lock_free);

// The entries of one chunk. Freed when the last holder lets go, so the reclaimer may keep one
// across a wait in which the fault thread removes it from the table.
class Chunk {
 public:
  Chunk(ChunkArena& arena, std::atomic<uint64_t>* entries) : arena_(arena), entries_(entries) {}
  ~Chunk() { arena_.Free(entries_); }
  Chunk(const Chunk&) = delete;
  Chunk& operator=(const Chunk&) = delete;

  PageEntry Load(size_t page) const {
    return PageEntry(entries_[page].load(std::memory_order_acquire));
  }
  // Swaps `desired` in if the entry is still `expected`, which it updates otherwise. A transition
  // that TransitionAllowed forbids is a bug and ends the process.
  bool Transition(size_t page, PageEntry& expected, PageEntry desired);
  // Swaps `desired` in whatever the entry is, and returns what it was.
  PageEntry Replace(size_t page, PageEntry desired);
  // For a chunk that nobody else can see yet.
  void Initialise(size_t page, PageEntry entry) {
    entries_[page].store(entry.bits(), std::memory_order_relaxed);
  }

  PageAges ages;
  // Nanoseconds of Clock at which a page of the chunk last came back; 0 never. Read by the cold
  // scan, written by the fault thread.
  std::atomic<int64_t> last_fault_ns{0};
  // When pages of it were last stored; 0 never. With the former it says how long its objects have
  // been of no use.
  std::atomic<int64_t> stored_ns{0};
  // When its objects were last looked at for recompression; 0 never.
  std::atomic<int64_t> recompressed_ns{0};
  // When pages of it were last found incompressible; 0 never.
  std::atomic<int64_t> incompressible_ns{0};
  // When its last entry was quarantined; 0 never. Its quarantines end RecentRemovals::kHorizonNs
  // later at the latest.
  std::atomic<int64_t> quarantined_ns{0};
  // Tables that hold this chunk.
  std::atomic<uint32_t> sharers{1};

 private:
  ChunkArena& arena_;
  std::atomic<uint64_t>* entries_;
};

// Entries, record and place in a table.
inline constexpr uint64_t kChunkMetadataBytes = kPageBytes + sizeof(Chunk) + 112;

class PageTable {
 public:
  explicit PageTable(ChunkArena& arena) : arena_(arena) {}

  // The chunk of `chunk_number` (ChunkNumber), or null.
  std::shared_ptr<Chunk> Find(uint64_t chunk_number);
  // The same, added with all entries kResident if it was missing. Null when the arena is full.
  std::shared_ptr<Chunk> FindOrAdd(uint64_t chunk_number);
  // Takes the chunk out. If no relative shares it, `release` is called with what
  // every entry was that was not kResident.
  void Remove(uint64_t chunk_number, const std::function<void(PageEntry)>& release);
  // Chunk numbers, ascending.
  std::vector<uint64_t> Numbers();
  // Those that `range`, which is not empty, reaches into, ascending. Takes time by the range or by
  // the table, whichever is smaller: a program may reserve terabytes of which we know three chunks.
  std::vector<uint64_t> NumbersIn(AddressRange range);
  size_t size();

  // Makes `*this`, which is empty, hold the same chunks as `parent`, shared.
  void ShareFrom(PageTable& parent);
  // The chunk of `chunk_number`, its own: after a copy was made if relatives share it.
  // `add_reference` is called with every entry copied that has a pool object and returns the entry
  // that both sides then carry. Null if there is no such chunk or the arena is full.
  std::shared_ptr<Chunk> Unshare(uint64_t chunk_number,
                                 const std::function<PageEntry(PageEntry)>& add_reference);

  // The pages of a chunk whose mapping was registered with the userfaultfd and neither unmapped nor
  // moved away since, as far as the events were read. A child shares none: what its parent
  // registers while it forks is not registered in the child. For who holds the process's gate.
  wire::PageSet Registered(uint64_t chunk_number);
  void AddRegistered(uint64_t chunk_number, const wire::PageSet& pages);
  void RemoveRegistered(uint64_t chunk_number, const wire::PageSet& pages);

 private:
  struct Place {
    std::shared_ptr<Chunk> chunk;
    wire::PageSet registered;
  };

  ChunkArena& arena_;
  Mutex mutex_;  // guards the map, never across a system call
  absl::flat_hash_map<uint64_t, Place> chunks_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace zmem
