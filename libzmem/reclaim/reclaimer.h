// Takes a process's cold pages out: scan, isolate, probation, compress, publish, drop. How much,
// its Policy says: what is cold as far as the stall budget lets it, and the oldest pages whatever
// that says where a resident limit, a full memory cgroup or the host wants room. Belongs to one
// thread per process. Nothing is dropped before its stored form is published; a page that the store
// cannot take goes back.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libzmem/base/clock.h"
#include "libzmem/base/crew.h"
#include "libzmem/reclaim/cold_scanner.h"
#include "libzmem/reclaim/epoch_clock.h"
#include "libzmem/reclaim/isolator.h"
#include "libzmem/reclaim/oldest_pages.h"
#include "libzmem/reclaim/stall_budget.h"
#include "libzmem/reclaim/survey.h"
#include "libzmem/reclaim/touched_pages.h"
#include "libzmem/store/process.h"

namespace zmem {

class Reclaimer {
 public:
  struct Options {
    // How long pages wait in staging for somebody to want them back before they are compressed.
    int64_t probation_ns = 1'000'000'000;
    // Tells the fault thread, which waits for it, that there is room again. May be empty.
    std::function<void()> on_room;
    // Helps to store pages where somebody waits for room; null: nobody does.
    Crew* crew = nullptr;
    // Shows what the program touches; null: nothing does.
    AccessedBits* accessed_bits = nullptr;
  };
  struct EvictResult {
    uint64_t evicted_pages = 0;  // out when it was done, by this call
    uint64_t skipped_pages = 0;  // present, but not to be taken
    bool pool_full = false;
  };
  // pages done and pages in all, for a progress display.
  using ProgressFn = std::function<void(uint64_t done, uint64_t total)>;

  Reclaimer(Process& process, AgentLink& agent, const Clock& clock, const Options& options);

  // Does what is due now: settles probations, holds the resident limit, and scans once an interval.
  // Errors, also of EvictAll: Unavailable when the process or its agent is gone; DeadlineExceeded
  // when the agent does not answer, because the program is stopped: try again.
  absl::Status Tick();
  // When Tick has something to do next, by the clock given; sooner if the agent asks for something.
  int64_t next_tick_ns() const;
  // Takes pages out, the oldest first, until the program's memory cgroup has room for some more
  // (FACTS 23) and its resident limit is held. Errors: as Tick.
  absl::Status MakeRoom();
  // If a thread of the program is about to fork: empties the staging area, and lets it. Tick does
  // it too. Errors: as Tick.
  absl::Status SettleForFork();
  // Moves everything back that is in the staging area, as far as the kernel lets it.
  absl::Status ReturnStaged();

  // Takes out everything that may be taken, whatever its age. Stops early, without an error, when
  // the pool is full, `cancel` becomes true, or the program asks for its pages.
  absl::StatusOr<EvictResult> EvictAll(const std::atomic<bool>& cancel, const ProgressFn& progress);

 private:
  // A slab of the staging area with pages on probation.
  struct Slab {
    bool used = false;
    uint64_t chunk_number = 0;
    wire::PageSet pages;  // whose slots hold a page, wanted or not
    wire::PageSet rest;   // if these are a sample: the pages they stand for
    int64_t staged_ns = 0;
    // Of `pages`: those that the store would not take, when they were last to be stored.
    wire::PageSet incompressible;
    wire::PageSet no_room;
    wire::PageSet refused() const { return incompressible.Or(no_room); }
  };

  // Compresses and publishes what is on probation, or waits for it.
  absl::Status StoreStaged(bool* pool_full);
  // The last of `candidates`, as many as are taken in one go; empty if no slab is free.
  std::span<const Candidate> NextBatch(const std::vector<Candidate>& candidates) const;
  // Takes its pages out for good. Returns how many.
  absl::StatusOr<size_t> EvictBatch(std::span<const Candidate> batch, bool* pool_full);
  int64_t next_scan_ns() const;
  absl::Status Scan(int64_t now_ns);
  // Begins an epoch of the pages' ages.
  void BeginEpoch(int64_t now_ns);
  // Whether the program has hardly run since the last time: nothing can be found out about its
  // pages then, and nothing be done wrong.
  bool IsIdle(int64_t now_ns);
  // What changes unless a program sleeps and is left in peace.
  struct Activity {
    std::optional<int64_t> cpu_ns;
    int64_t taken_pages = 0;
    Policy policy;

    friend bool operator==(const Activity&, const Activity&) = default;
  };
  // Whether a scan would find what the last one has found: the program has not run since, nothing
  // has gone out, and it is to be treated as before. Looked at again now and then, for what has
  // become cold since.
  bool IsAsleep(int64_t now_ns);
  absl::Status IsolateColdChunks(int64_t now_ns);
  // Takes the candidate on probation; at first a sample of it, if that tells something.
  absl::Status TakeOnProbation(const Candidate& candidate, size_t slab, int64_t now_ns);
  // Takes what a sample stood for that was not wanted back.
  absl::Status TakeRest(size_t slab, int64_t now_ns);
  // The candidate's pages that are not known to be incompressible.
  wire::PageSet Compressible(const Candidate& candidate) const;
  // Finds out which of its pages that were incompressible have changed, if they were last found so
  // `age_ns` ago.
  void LookAgain(const Candidate& candidate, int64_t age_ns);
  void UpdateStallBudget(int64_t now_ns);
  // Whether the kernel kills the program where its room ends: that of a memory cgroup.
  bool IsDeadly() const { return !process_.limit_is_nearest.load(std::memory_order_relaxed); }
  // When the limit has to be looked at next, by the room that is left.
  void PlanLimitLook(int64_t room, int64_t now_ns);
  // Whether a glance shows that nothing has happened that would make that sooner.
  bool CanLimitWait(int64_t now_ns);
  // Whether nothing has come or gone since the last look at the limit, and the program slept where
  // the kernel kills.
  bool IsQuiet(int64_t room);
  // Has pages out that the limit has no room for, or that the host wants.
  absl::Status HoldLimit(int64_t now_ns);
  absl::Status TakeWanted();
  // Pages that there should be room for, once it has to be made.
  int64_t EnoughRoom() const;
  // Judges by what has come since the last call how much room is needed besides: what a program
  // touches for the first time in memory that is not registered, nobody holds up.
  void UpdateHeadroom(int64_t room, int64_t now_ns);
  // Registers what the program has mapped since, so that what it fills there can be held up, if the
  // room would not last for long.
  void ForeseeGrowth(int64_t room);
  absl::Status TakeUntilThereIsRoom();
  // Takes the oldest pages until `is_enough` says so, nothing is left, the store is full, or the
  // program asks for something.
  absl::Status TakeOldest(const std::function<bool()>& is_enough);
  absl::Status PickVictims(int64_t now_ns);
  // Leaves those of the last `count` victims in that were touched since they were picked, and what
  // is left of these among the victims. Returns of how many chunks that is.
  size_t SpareTouched(size_t count);
  // What streams have passed, if there is any, but every so often nothing: what nobody wants goes
  // too, by and by.
  std::vector<Candidate> TakePassed(int64_t now_ns);
  static constexpr unsigned kTurns = 8;
  // Does what the program has advised since the last call (reclaimer_advice.cc).
  absl::Status FollowAdvice();
  absl::Status TakeOutCold(const std::vector<AddressRange>& cold);
  absl::Status SettleProbations(int64_t now_ns);
  // Compresses and publishes what of the slabs is still staged, and gives back what the store
  // refuses. `pool_full` becomes true if the pool refused a page.
  absl::Status StorePages(std::span<const size_t> slabs, bool* pool_full);
  absl::Status GiveBackRefused(size_t slab);
  bool IsHelpWanted() const;
  // The same, and frees the slab.
  absl::Status StoreSlab(size_t slab, bool* pool_full);
  absl::Status ReturnSlab(size_t slab);
  // Whether the program has forked lately.
  bool Forking(int64_t now_ns) const;
  // Takes slab `slab` for a chunk whose `wanted` pages are to be moved there: notes, and returns,
  // whether it is a huge page that may come back whole.
  bool NoteHuge(size_t slab, uint64_t chunk_number, const wire::PageSet& wanted);
  // Moves huge pages back that are wanted.
  absl::Status ReturnHugePages(int64_t now_ns);
  // Whether the program waits for something that ends what is going on here.
  bool Interrupted();
  // What the kernel touches when a thread ends, as of now.
  struct NeededMemory {
    std::vector<AddressRange> ranges;
    uint32_t kept_generation = 0;
  };
  absl::StatusOr<NeededMemory> FindNeeded() const;
  // Pages that are compressed together.
  static constexpr size_t kBatchedPages = 64;
  // Slots [first, end) of a slab, which are read in one system call.
  struct StagedRun {
    size_t slab;
    size_t first;
    size_t end;
  };
  // kBatchedPages at most.
  using StagedBatch = std::vector<StagedRun>;
  // Those whose pages are staged and were not refused.
  std::vector<StagedBatch> StagedBatches(std::span<const size_t> slabs) const;
  // Whether to wait for the backing file if that is busy, while `file_patience_` lasts: for the
  // reclaimer's own thread alone. The page stays staged if not.
  enum class Patience { kNone, kSome };
  struct ReadPage {
    std::shared_ptr<Chunk> chunk;
    size_t slab;
    size_t page;
  };
  // Of each thread that stores pages.
  struct Tools {
    PageStore::Workspace workspace;
    std::vector<ReadPage> read_pages;  // whose bytes are in `bytes`
    std::array<std::byte, kBatchedPages * kPageBytes> bytes;
    std::array<std::byte, kBatchedPages * kPageBytes> compressed;

    std::byte* BytesOf(size_t i) { return bytes.data() + i * kPageBytes; }
  };
  // These and SettleEmptySlot may run in several threads, for different batches.
  void StoreBatch(const StagedBatch& batch, Patience patience);
  void ReadRun(const StagedRun& run, Tools& own);
  // All are compressed before the first is stored: with locks between two of them there would be
  // no time in which to be nice.
  void StoreReadPages(Tools& own, Patience patience);
  void StorePage(Chunk& chunk, size_t slab, size_t page, const PageStore::Form& form,
                 Patience patience);
  StoreResult Store(const PageStore::Form& form, PageEntry* stored, Patience patience);
  // Puts the stored form in the place of the staged page, or lets go of it if that is wanted back.
  void Publish(Chunk& chunk, size_t slab, size_t page, PageEntry stored);
  Address AddressOf(size_t slab, size_t page) const;
  // Whether other threads may go first: nobody waits for what comes of storing pages.
  bool HasTime() const;
  // A slot that cannot be read is empty: its page is back in the program.
  void SettleEmptySlot(Chunk& chunk, size_t slab, size_t page);
  static Tools& tools();
  // Gives up the calling thread's until they are wanted again.
  static void ReleaseTools();
  static std::unique_ptr<Tools>& OwnTools();
  // Drops what the slabs' slots hold, and makes them free unless pages are still staged in them.
  // At most wire::kMaxParts.
  absl::Status FreeSlabs(std::span<const size_t> slabs);
  wire::PageSet StillStaged(Chunk& chunk, size_t slab) const;
  // Books what an order moved, also of one that went wrong: its slab is in use then. `rest`: as
  // Slab's.
  void NoteTaken(const Isolator::Order& order, const wire::PageSet& rest, int64_t now_ns);
  // The pages came or went, or were touched, in this epoch.
  void SetEpochs(uint64_t chunk_number, const wire::PageSet& pages);
  // Isolates what may be taken of the orders' pages; what a past fork has made immovable is mended
  // on the way, and what a thread has come to need meanwhile is given back.
  absl::Status Take(std::span<Isolator::Order> orders);
  absl::Status IsolateMovable(std::span<Isolator::Order> orders, uint32_t kept_generation);
  // A free slab's index, or kNoSlab.
  size_t TakeSlab();

  static constexpr size_t kNoSlab = ~size_t{0};
  // Pages, and runs of them, beyond which no more chunks are added to a batch: whoever faults while
  // they are moved waits, and a run takes 2 µs however short it is.
  static constexpr size_t kBatchPages = kPagesPerChunk;
  static constexpr size_t kBatchRuns = 128;
  // For how long after a fork pages are stored without probation: a program that forks again and
  // again would have them back in memory each time.
  static constexpr int64_t kForkingNs = 10'000'000'000;
  // Milliseconds that storing a batch waits for the backing file, unless a fork waits for us: a
  // segment is written in a few, so a disk that takes longer is too slow to evict to.
  static constexpr int kFilePatience = 1000;
  // After room could not be made, how long until it is tried again; and how long until pages that
  // were incompressible are looked at again for it.
  static constexpr int64_t kRoomPauseNs = 100'000'000;
  static constexpr int64_t kRoomPatienceNs = 2'000'000'000;
  // After how many cold ages an incompressible page is looked at again.
  static constexpr int64_t kLookAgainAges = 16;
  // How often slabs on probation are looked at.
  static constexpr int64_t kProbationTickNs = 250'000'000;
  // Pages of a chunk that are tried before the rest, and how many there must be for that.
  static constexpr size_t kSamplePages = 16;
  static constexpr size_t kSampledPages = 128;
  // Fewer cold pages of a chunk wait for others, unless all of its pages are cold.
  static constexpr size_t kWorthTaking = 32;
  // A program that used less CPU time, in percent of wall time, is idle.
  static constexpr int64_t kIdlePercent = 1;
  // One that has slept for so many times as long as it was not scanned is scanned again.
  static constexpr int64_t kAsleepShare = 4;
  // How often the limit is looked at: twice in the time that a program takes to reach it which
  // allocates a GiB/s, and less if it sleeps.
  static constexpr int64_t kGrowthPagesPerMs = 256;
  // Where the kernel kills at the limit: 4 GiB/s, as one that only fills memory does. Not more
  // often for that than it takes to tell how fast it grows.
  static constexpr int64_t kFillingPagesPerMs = 1024;
  static constexpr int64_t kFillingTickNs = 10'000'000;
  // A sleeping program is looked at less often there too, but others may fill its cgroup, and it
  // may wake up: how often that is glanced at.
  static constexpr int64_t kGlanceNs = 20'000'000;
  static constexpr int64_t kQuietCgroupTickNs = 160'000'000;
  static constexpr int64_t kShortLimitTickNs = 5'000'000;
  static constexpr int64_t kLongLimitTickNs = 250'000'000;
  static constexpr int64_t kQuietLimitTickNs = 40'000'000;
  // How long it takes to look at a program of a GiB and register what is new, and the most room
  // that is made for what comes meanwhile; where the kernel kills at the limit.
  static constexpr int64_t kMakingRoomMs = 60;
  // In how long growth is told at the least, and after how long a third of it is remembered.
  static constexpr int64_t kShortestGrowthMs = 5;
  static constexpr int64_t kGrowthMemoryMs = 400;
  static constexpr int64_t kMostHeadroomPages = 16'384;
  static constexpr int64_t kMostSafetyPages = 65'536;
  // There, what grows unseen is registered when there is room for so many times what comes while
  // that is done; not more often than that.
  static constexpr int64_t kFarHeadrooms = 4;
  static constexpr int64_t kForesightNs = 100'000'000;
  // How often new mappings are looked for where there is less room than that.
  static constexpr int64_t kForesightTickNs = 10'000'000;
  // How old a choice of victims may be, and how short an epoch.
  static constexpr int64_t kVictimsAgeNs = 1'000'000'000;
  static constexpr int64_t kShortestEpochNs = 50'000'000;

  Process& process_;
  AgentLink& agent_;
  const Clock& clock_;
  const Options options_;
  Isolator isolator_;
  Surveyor surveyor_;
  EpochClock epochs_;
  ColdScanner scanner_;
  StallBudget budget_;
  Mutex refused_mutex_;  // of what the store refuses, while several threads store
  std::array<Slab, Process::kMaxSlabs> slabs_;
  std::vector<Candidate> cold_chunks_;  // found by the last scan, the last of them to go first
  OldestPages victims_;                 // to go where room is wanted
  int64_t victims_ns_ = 0;              // when they were picked
  TouchedPages touched_;
  size_t chances_ = 0;    // pages that may be spared, of the victims
  unsigned turn_ = 0;     // of TakePassed
  int64_t last_scan_ns_;  // or when none was needed
  int64_t scanned_ns_ = 0;
  Activity activity_;               // when it was last looked at
  int64_t asleep_since_ns_ = 0;     // when that last changed
  int64_t next_limit_ns_ = 0;       // the next look or glance
  int64_t next_limit_look_ns_ = 0;  // the next look
  uint64_t cgroup_used_bytes_ = 0;  // at the last one
  int64_t limit_tick_ns_ = kLongLimitTickNs;
  int64_t last_room_pages_ = 0;
  std::optional<int64_t> limit_cpu_ns_;  // of the program, at that time
  int64_t last_came_pages_ = 0;          // at that time, pages that came without the fault thread
  int64_t limit_looked_ns_ = 0;          // when that was
  int64_t foreseen_ns_ = 0;
  uint64_t mapped_bytes_ = 0;   // when new mappings were last registered
  int64_t headroom_pages_ = 0;  // for those that come before room is made
  int64_t next_room_ns_ = 0;
  int64_t cpu_ns_ = 0;         // of the program, when it was last looked at
  int64_t cpu_looked_ns_ = 0;  // 0: never
  bool is_idle_ = false;
  bool pool_full_ = false;  // since the last scan
  int file_patience_ = 0;   // milliseconds left for a busy file, of the slab being stored
};

}  // namespace zmem
