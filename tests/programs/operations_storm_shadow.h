// What the operations storm must find in its memory, and what it is doing: plain data in a file
// that every generation of the storm maps shared. zmem does not manage shared memory, so the
// reports of forked children arrive, and the test looks on from outside, also when the program
// hangs. Each World is written by the one thread that owns it; what others read is atomic.
#pragma once

#include <sys/types.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <iterator>

namespace zmem::storm {

enum class Operation : uint8_t {
  kNone,
  kWrite,
  kVerify,
  kDiscard,
  kFree,
  kGuard,
  kUnguard,
  kMapOver,
  kUnmapAndMap,
  kMove,
  kMoveButKeep,
  kResize,
  kBreak,
  kReallocate,
  kProtect,
  kLock,
  kUnlock,
  kHugeAdvice,
  kMergeAdvice,
  kWriteToPipe,
  kSpliceToPipe,
  kReadFile,
  kReadDirect,
  kThread,
  kThreadOnOwnStack,
  kPeek,
  kSignal,
  kFork,
  kForkBare,
  kSpawn,
  kVfork,
  kVerifyAll,
  kCount,
};

// Forks are rare: each costs as much as hundreds of the others.
struct OperationKind {
  const char* name;
  unsigned weight;      // how often it is chosen, among all; 0: it comes about in another way
  bool changes_layout;  // see operations_storm_turns.h
};
inline constexpr OperationKind kOperations[] = {
    {"none", 0, false},
    {"write", 400, false},
    {"verify", 400, false},
    {"discard", 100, true},
    {"free", 80, true},
    {"guard", 40, true},
    {"unguard", 40, true},
    {"map over", 60, true},
    {"unmap, map", 40, true},
    {"move", 50, true},
    {"move, keep", 40, true},
    {"resize", 60, true},
    {"brk", 0, true},
    {"realloc", 0, true},
    {"protect", 120, true},
    {"lock", 30, true},
    {"unlock", 30, true},
    {"huge advice", 40, true},
    {"merge advice", 20, true},
    {"write to a pipe", 60, false},
    {"vmsplice", 40, false},
    {"read a file", 80, false},
    {"read O_DIRECT", 8, false},
    {"thread", 16, true},
    {"own stack", 10, true},
    {"peek", 100, false},
    {"signal", 60, false},
    {"fork", 14, true},
    {"bare fork", 7, true},
    {"posix_spawn", 1, false},
    {"vfork, exec", 1, false},
    {"verify all", 4, false},
};
static_assert(std::size(kOperations) == static_cast<size_t>(Operation::kCount));

inline constexpr size_t kMaxSlotPages = 1536;
inline constexpr size_t kSlots = 14;
inline constexpr size_t kThreads = 4;
inline constexpr size_t kWorlds = 28;  // the threads, and forked children alive at once
inline constexpr size_t kRemembered = 10;

enum class Access : uint8_t { kReadWrite, kRead, kReadExecute, kNone };

struct PageShadow {
  uint64_t number;
  uint64_t version;  // 0: a page of zeros
  Access access;
  bool may_be_zero;  // after MADV_FREE
  bool guarded;
};

struct Step {
  uint64_t number;
  Operation operation;
  uint32_t first_page;
  uint32_t end_page;
};

enum class Memory : uint8_t { kMapping, kHugeMapping, kHeap, kBreak };

struct Slot {
  Memory memory;
  bool locked;
  uint32_t pages;
  uint32_t limit_pages;
  std::byte* data;
  std::array<PageShadow, kMaxSlotPages> shadow;
  std::array<Step, kRemembered> history;  // the last is the newest
};

enum class WorldState : uint32_t { kFree, kRunning, kDone };

// The memory of one thread of the first process, or of one forked child.
struct World {
  std::atomic<WorldState> state;
  std::atomic<pid_t> pid;
  std::atomic<pid_t> tid;
  std::atomic<uint32_t> parent;    // the index of the world that forked it
  std::atomic<uint32_t> orphaned;  // its parent has ended without waiting for it
  std::atomic<uint32_t> depth;     // 0: a thread of the first process
  std::atomic<uint32_t> bare;      // made by a raw clone: no libc that takes locks
  std::atomic<uint64_t> steps;
  std::atomic<uint32_t> slot;  // of the step it is at
  std::atomic<Operation> operation;
  std::array<Slot, kSlots> slots;
};

struct Shared {
  std::atomic<uint64_t> seed;
  std::atomic<uint64_t> last_version;  // no two writes anywhere have the same
  std::atomic<uint32_t> stop;          // a mismatch was found somewhere
  std::atomic<uint32_t> failure_taken;
  char failure[1024];            // the first, and what led to it
  std::atomic<uint64_t> splits;  // mappings that could not be moved as one
  std::atomic<uint64_t> orphans;
  std::array<std::atomic<uint64_t>, static_cast<size_t>(Operation::kCount)> counts;
  std::array<World, kWorlds> worlds;
};

inline const char* Name(Operation operation) {
  return operation < Operation::kCount ? kOperations[static_cast<size_t>(operation)].name : "?";
}

}  // namespace zmem::storm
