// One managed address space: everything that the fault flow and the reclaim flow both need of it.
// They meet here and nowhere else.
//
// Locks, in the order in which they may be taken: Gate, then the table's, then the pool's.
#pragma once

#include <sys/types.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "libzmem/base/histogram.h"
#include "libzmem/base/mutex.h"
#include "libzmem/base/page.h"
#include "libzmem/store/advice.h"
#include "libzmem/store/clean_pages.h"
#include "libzmem/store/page_store.h"
#include "libzmem/store/page_table.h"
#include "libzmem/store/passed_pages.h"
#include "libzmem/store/policy.h"
#include "libzmem/store/recent_removals.h"
#include "libzmem/uffd/memory_cgroup.h"
#include "libzmem/uffd/pagemap.h"
#include "libzmem/uffd/process_stat.h"
#include "libzmem/uffd/remote_memory.h"
#include "libzmem/uffd/userfaultfd.h"
#include "libzmem/wire/messages.h"

namespace zmem {

// Who holds the gate may read the userfaultfd's messages, or have the agent move pages, never both
// at once: UFFDIO_MOVE takes pages out of any mapping, registered or not, so an unmapping whose
// event was read between the registration and the move would let the agent take the pages of
// whatever is mapped there next, which nobody would bring back. While the event is unread the
// kernel refuses to move. (See libzmem/DESIGN.md, «The gate».)
// Fair to both sides: whoever waits gets it next.
class ABSL_LOCKABLE Gate {
 public:
  void lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    turnstile_.lock();
    gate_.lock();
    turnstile_.unlock();
  }
  void unlock() ABSL_UNLOCK_FUNCTION() ABSL_NO_THREAD_SAFETY_ANALYSIS { gate_.unlock(); }

 private:
  Mutex turnstile_;
  Mutex gate_;
};

class ABSL_SCOPED_LOCKABLE GateLock {
 public:
  explicit GateLock(Gate& gate) ABSL_EXCLUSIVE_LOCK_FUNCTION(gate) : gate_(gate) { gate_.lock(); }
  ~GateLock() ABSL_UNLOCK_FUNCTION() { gate_.unlock(); }
  GateLock(const GateLock&) = delete;
  GateLock& operator=(const GateLock&) = delete;

 private:
  Gate& gate_;
};

// What is counted of a process. Pages unless the name says otherwise; the first group are levels,
// the second totals since it was attached.
struct ProcessCounters {
  std::atomic<uint64_t> stored_pages{0};       // same-filled, in the pool and on disk
  std::atomic<uint64_t> same_filled_pages{0};  // of stored_pages: those that hold one word
  std::atomic<uint64_t> staged_pages{0};       // taken out, not yet compressed
  std::atomic<uint64_t> compressed_bytes{0};   // sizes of its objects in the pool
  std::atomic<uint64_t> held_bytes{0};         // the same, rounded to the pool's size classes
  std::atomic<uint64_t> disk_pages{0};         // of stored_pages: those in the backing file
  std::atomic<uint64_t> disk_bytes{0};         // sizes of their objects

  std::atomic<uint64_t> faults_total{0};     // faults answered with a page's bytes
  std::atomic<uint64_t> disk_faults{0};      // of faults_total: those that waited for the disk
  std::atomic<uint64_t> readahead_pages{0};  // pages brought back before anybody asked
  std::atomic<uint64_t> zero_faults{0};      // faults on pages never taken, answered with zeros
  std::atomic<uint64_t> isolated_pages{0};   // pages moved out
  std::atomic<uint64_t> refused_pages{0};    // pages the kernel would not move
  std::atomic<uint64_t> returned_pages{0};   // moved back from staging: hot, or not storable
  std::atomic<uint64_t> spared_pages{0};     // chosen to go, and touched before they went
  std::atomic<uint64_t> poisoned_pages{0};   // lost: their object was damaged
  // Nanoseconds that threads waited for pages, as far as we can tell: from a fault's message to its
  // answer, and kWakeUpNs for what comes before and after.
  std::atomic<uint64_t> stall_ns{0};
  // Of these two totals, what pages on probation caused, which is the price of finding out
  // whether they are cold.
  std::atomic<uint64_t> probe_faults{0};
  std::atomic<uint64_t> probe_cost_ns{0};
  // Times the stall budget let more go out, and less.
  std::atomic<uint64_t> rate_raises{0};
  std::atomic<uint64_t> rate_cuts{0};

  // What the reclaimer last found; levels.
  std::atomic<uint64_t> stall_ppm{0};            // of wall time, lately, in millionths
  std::atomic<uint64_t> rate_pages_per_s{0};     // what the stall budget lets go out
  std::atomic<uint64_t> cold_pages{0};           // resident, and unwanted for the cold age
  std::atomic<uint64_t> max_overshoot_bytes{0};  // that resident memory was ever above the limit

  // A sleeping thread's way to the message that we read, and back from the page (FACTS: 10 us in
  // all across CPUs, of which the answer itself is a third).
  static constexpr uint64_t kWakeUpNs = 7'000;

  // Pages moved out, less those that had to go back: what went out and came straight back, for want
  // of a place, made no room.
  int64_t taken_pages() const {
    return static_cast<int64_t>(isolated_pages.load(std::memory_order_relaxed)) -
           static_cast<int64_t>(returned_pages.load(std::memory_order_relaxed));
  }
  void CopyLevels(const ProcessCounters& parent);
  void AddStored(PageEntry entry);
  void RemoveStored(PageEntry entry);
};

class Process {
 public:
  // Slabs a staging area has at most; the agent may have mapped fewer.
  static constexpr size_t kMaxSlabs = 64;
  // What a sleeping program costs beside its chunks: records, and the stacks and heaps of its two
  // threads. Measured.
  static constexpr uint64_t kMetadataBytes = 192 << 10;

  // Makes up a token.
  Process(PageStore& store, ChunkArena& arena, Userfaultfd uffd);
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  PageStore& store;
  ChunkArena& arena;
  Userfaultfd uffd;
  PageTable table;
  Gate gate;
  ProcessCounters counters;
  LatencyHistogram fault_latency;  // from the message's read to the page's return

  // The page whose content says who the process is (set before the fault thread starts), and that
  // content.
  Address token_page = 0;
  const wire::Token token;

  // Bound when the agent attaches, before `bound` becomes true, and unchanged from then on. A
  // forked child is served from its parent's fork on and bound later or never.
  std::atomic<bool> bound{false};
  pid_t pid = 0;
  UniqueFd pidfd;
  RemoteMemory memory;
  Pagemap pagemap;
  ProcessStat stat;
  AddressRange agent;
  AddressRange staging;
  Address kept = 0;  // the program's wire::KeptMemory; 0: it has none

  // The chunk number whose pages a slab of the staging area holds, 0 for none.
  std::array<std::atomic<uint64_t>, kMaxSlabs> slab_chunk{};
  // A huge page on probation, which stays one only if it comes back whole: that takes the agent.
  struct HugeSlab {
    std::atomic<bool> whole{false};     // by the reclaimer: the slab holds one, untouched so far
    std::atomic<int64_t> wanted_ns{0};  // by the fault thread: since when one of its pages is
  };
  std::array<HugeSlab, kMaxSlabs> huge_slabs{};

  // Where mappings were moved to whose pages are still on their way back to the program; nothing is
  // registered meanwhile. A forked child has the same. For who holds the gate.
  struct Arrival {
    AddressRange range;  // what is not back yet
    Address start = 0;   // of the mapping, when it was moved
    // Every event of what happened before the move was read: an unmapping told now is a newer one.
    bool settled = false;
  };
  std::vector<Arrival> arrivals;

  RecentRemovals removals;
  PassedPages passed;
  CleanPages clean_pages;
  Advice advice;

  // Pages that the program's memory cgroup still takes and its resident limit allows, as far as we
  // know: what is filled in is taken off, and both are asked again when little is left.
  std::atomic<int64_t> room_pages{kPlentyOfRoom};
  static constexpr int64_t kPlentyOfRoom = int64_t{1} << 40;
  void TakeRoom(size_t pages) {
    filled_pages.fetch_add(static_cast<int64_t>(pages));  // first: see RefreshRoom
    room_pages.fetch_sub(static_cast<int64_t>(pages));
  }
  // Whether there is an end to the room: a resident limit, or that of a memory cgroup.
  bool is_limited() const {
    return limit_bytes.load(std::memory_order_relaxed) != 0 ||
           room_pages.load(std::memory_order_relaxed) < kPlentyOfRoom / 2;
  }
  // Pages filled in so far.
  std::atomic<int64_t> filled_pages{0};
  // With less room than this, whoever wants a page waits until some is made.
  static constexpr int64_t kLittleRoomPages = 512;
  // With less than this it is time to make some.
  static constexpr int64_t kLowRoomPages = 1024;
  // Somebody does wait, and is to be told.
  std::atomic<bool> room_awaited{false};
  // Asks both. Returns room_pages, which is negative above the limit. Thread-safe.
  int64_t RefreshRoom();
  // Pages that the memory cgroup still takes, whatever the resident limit says. Thread-safe.
  int64_t CgroupRoom();
  // What is charged to those that are limited (MemoryCgroup::UsedBytes). Thread-safe.
  uint64_t CgroupUsedBytes();
  // The resident limit does not count: every page is to come back.
  std::atomic<bool> is_limit_lifted{false};
  // The reclaimer's last attempt to make room found nothing that could go out.
  std::atomic<bool> nothing_to_take{false};
  // Whether it was the limit that left less room.
  std::atomic<bool> limit_is_nearest{false};
  // Looks up which cgroups the program is in. Needs `pid`. Thread-safe.
  void FindCgroup();

  // What the reclaimer is to go by. Thread-safe. Looked at whenever there is something to decide.
  void SetPolicy(const Policy& policy);
  Policy policy() const;
  // policy().limit_bytes, for the fault path.
  std::atomic<uint64_t> limit_bytes{0};
  // Pages that the host wants of this program, whatever the stall budget says (ReclaimMode::
  // kPressure): set by whoever watches the host, 0 again once the reclaimer has done what it could.
  std::atomic<int64_t> wanted_pages{0};

  // Now, and how many epochs pages without back-off stay in at present (page_ages.h). Set by the
  // reclaimer.
  std::atomic<Epoch> epoch{1};
  std::atomic<unsigned> residence_epochs{1};

  // When the program forked last, or was about to, by Clock; 0 never.
  std::atomic<int64_t> last_fork_ns{0};

  // The address space is gone: nothing is served or taken any more.
  std::atomic<bool> gone{false};

  // The slot for page `page` of its chunk in a slab.
  static uint32_t SlotOf(size_t slab, size_t page) {
    return static_cast<uint32_t>(slab * kPagesPerChunk + page);
  }
  Address slot_address(uint32_t slot) const { return staging.start + uint64_t{slot} * kPageBytes; }
  size_t slabs() const { return staging.bytes() / kChunkBytes; }

  // The chunk that holds `address`, its own copy if forked relatives share it; null if it has none.
  std::shared_ptr<Chunk> OwnChunk(Address address);
  // Fills the token page, if it is absent: the one page that may be filled by any thread, since its
  // bytes never change. kPresent is the usual answer; kChanging tells that events wait to be read.
  FillResult FillTokenPage() const;
  // Takes the chunk out of the table and lets go of what it stores.
  void RemoveChunk(uint64_t chunk_number);
  // Lets go of entries where no mapping is registered any more: a child's table is its parent's of
  // the time when the fork was told, which can be older than an unmapping before it. Needs `pid`.
  // Waits until no event of the program's is unread.
  void DropUnregistered();
  // Counts an answered fault on a page that was out, for the fault thread. `gone`: its age before;
  // `waited_ns`: since the fault's message.
  void CountFault(Chunk& chunk, size_t page, PageEntry entry, PageAges::Age gone, int64_t now_ns,
                  int64_t waited_ns);
  // Lets go of one stored form that is no longer published.
  void Retire(PageEntry entry);
  // The same of one whose page is back in the program with these bytes: it may go out again as it
  // is.
  void RetireClean(Address page, PageEntry entry, std::span<const std::byte, kPageBytes> bytes,
                   CleanPages::Return how);
  // The bytes of a page that is staged or stored, for the owner of kRestoring. False if they cannot
  // be had: the address space is gone, or the object is damaged.
  bool Decode(PageEntry entry, std::span<std::byte, kPageBytes> page,
              PageStore::Workspace& workspace) const;

 private:
  bool TryDropUnregistered();
  std::shared_ptr<const MemoryCgroup> cgroup();
  // Pages up to the limit; negative above it.
  int64_t LimitRoom();

  mutable Mutex policy_mutex_;
  Policy policy_ ABSL_GUARDED_BY(policy_mutex_);
  Mutex cgroup_mutex_;
  std::shared_ptr<const MemoryCgroup> cgroup_ ABSL_GUARDED_BY(cgroup_mutex_);
};

}  // namespace zmem
