// Subject program: a random storm of layout changes, forks, reads and writes, on memory that is
// being taken out at the same time. What every page must hold is kept in shared memory, which zmem
// does not manage; a wrong page ends the program with a message and exit code 1.
//   layout_storm --seconds N --seed N
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <random>
#include <string>
#include <utility>

#include "tests/programs/command_loop.h"
#include "tests/programs/pattern_region.h"

namespace zmem {
namespace {

constexpr size_t kSlots = 192;
constexpr size_t kSlotPages = 128;  // half a megabyte: slots share chunks and straddle none evenly
constexpr size_t kSlotBytes = kSlotPages * kPageBytes;
constexpr size_t kRemembered = 6;

enum class Operation {
  kWrite,
  kRead,
  kDiscard,
  kFree,
  kMapOver,
  kUnmapAndMap,
  kMove,
  kMoveButKeep,
  kProtect,
  kForkAndRead,
  kForkAndWrite,
  kCount,
};

constexpr const char* kNames[] = {"write",    "read",          "discard",    "free",
                                  "map over", "unmap and map", "move",       "move but keep",
                                  "protect",  "fork, read",    "fork, write"};
static_assert(std::size(kNames) == static_cast<size_t>(Operation::kCount));

// What a slot must hold, in shared memory.
struct Slot {
  std::byte* data;
  std::array<uint64_t, kSlotPages> version;  // 0: a page of zeros
  std::array<bool, kSlotPages> may_be_zero;  // after MADV_FREE
  std::array<Operation, kRemembered> history;
};

void Check(bool condition, const char* what) {
  if (condition) return;
  std::perror(what);
  _exit(2);
}

std::byte* Map(void* at, int flags) {
  void* mapping = mmap(at, kSlotBytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | flags, -1, 0);
  Check(mapping != MAP_FAILED, "mmap");
  return static_cast<std::byte*>(mapping);
}

class Storm {
 public:
  explicit Storm(uint64_t seed) : random_(seed) {
    void* shared = mmap(nullptr, sizeof(Slot) * kSlots, PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    Check(shared != MAP_FAILED, "mmap");
    slots_ = static_cast<Slot*>(shared);
    for (size_t index = 0; index < kSlots; ++index) {
      slots_[index].data = Map(nullptr, 0);
      WriteRange(slots_[index], index, 0, kSlotPages);
    }
  }

  // Does random things until `deadline`. Returns how many, or 0 after a mismatch.
  uint64_t Run(std::chrono::steady_clock::time_point deadline) {
    uint64_t steps = 0;
    while (std::chrono::steady_clock::now() < deadline && !failed_) {
      Step();
      ++steps;
    }
    for (size_t index = 0; index < kSlots && !failed_; ++index) {
      VerifyRange(slots_[index], index, 0, kSlotPages);
    }
    return failed_ ? 0 : steps;
  }

  uint64_t split_slots() const { return split_slots_; }

 private:
  uint64_t Below(uint64_t bound) { return random_() % bound; }

  // Forks are rare: each costs as much as hundreds of the others.
  Operation Choose() {
    if (Below(200) == 0) {
      return Below(2) == 0 ? Operation::kForkAndRead : Operation::kForkAndWrite;
    }
    if (Below(2) == 0) return Below(2) == 0 ? Operation::kWrite : Operation::kRead;
    return static_cast<Operation>(Below(static_cast<uint64_t>(Operation::kForkAndRead)));
  }

  void Step() {
    size_t index = Below(kSlots);
    Slot& slot = slots_[index];
    size_t first = Below(kSlotPages);
    size_t end = first + 1 + Below(kSlotPages - first);
    Operation operation = Choose();
    std::rotate(slot.history.begin(), slot.history.begin() + 1, slot.history.end());
    slot.history.back() = operation;
    switch (operation) {
      case Operation::kWrite:
        return WriteRange(slot, index, first, end);
      case Operation::kRead:
        return VerifyRange(slot, index, first, end);
      case Operation::kDiscard:
        Check(
            madvise(slot.data + first * kPageBytes, (end - first) * kPageBytes, MADV_DONTNEED) == 0,
            "MADV_DONTNEED");
        return ExpectZeros(slot, first, end);
      case Operation::kFree:
        Check(madvise(slot.data + first * kPageBytes, (end - first) * kPageBytes, MADV_FREE) == 0,
              "MADV_FREE");
        for (size_t page = first; page < end; ++page) slot.may_be_zero[page] = true;
        return;
      case Operation::kMapOver:
        Map(slot.data, MAP_FIXED);
        return ExpectZeros(slot, 0, kSlotPages);
      case Operation::kUnmapAndMap:
        Check(munmap(slot.data, kSlotBytes) == 0, "munmap");
        slot.data = Map(nullptr, 0);
        return ExpectZeros(slot, 0, kSlotPages);
      case Operation::kMove:
        return Move(slot);
      case Operation::kMoveButKeep:
        return MoveButKeep(slot);
      case Operation::kProtect:
        Check(mprotect(slot.data, kSlotBytes, PROT_NONE) == 0, "mprotect");
        Check(mprotect(slot.data, kSlotBytes, PROT_READ | PROT_WRITE) == 0, "mprotect");
        return;
      case Operation::kForkAndRead:
        return InChild([this] { VerifySome(); });
      case Operation::kForkAndWrite:
        return InChild([this, &slot, index] { WriteRange(slot, index, 0, kSlotPages); });
      case Operation::kCount:
        return;
    }
  }

  void WriteRange(Slot& slot, size_t index, size_t first, size_t end) {
    ++version_;
    for (size_t page = first; page < end; ++page) {
      FillPage(slot.data + page * kPageBytes, index * kSlotPages + page, version_);
      if (in_child_) continue;  // what a child writes is its own
      slot.version[page] = version_;
      slot.may_be_zero[page] = false;
    }
  }

  void VerifyRange(Slot& slot, size_t index, size_t first, size_t end) {
    for (size_t page = first; page < end && !failed_; ++page) {
      const std::byte* data = slot.data + page * kPageBytes;
      uint64_t version = slot.version[page];
      bool zero = InspectPage(data).all_zero;
      if (zero && (version == 0 || slot.may_be_zero[page])) continue;
      if (version != 0 && VerifyPage(data, index * kSlotPages + page, version)) continue;
      Report(slot, index, page);
    }
  }

  void VerifySome() {
    for (size_t index = Below(8); index < kSlots; index += 8) {
      VerifyRange(slots_[index], index, 0, kSlotPages);
    }
  }

  static void ExpectZeros(Slot& slot, size_t first, size_t end) {
    for (size_t page = first; page < end; ++page) {
      slot.version[page] = 0;
      slot.may_be_zero[page] = false;
    }
  }

  // Page by page: a larger piece need not be one mapping, since zmem splits mappings where it
  // starts to manage them, and since Linux 6.17 moves several with MREMAP_FIXED, but not always
  // all.
  static void Move(Slot& slot) {
    std::byte* target = Map(nullptr, 0);
    for (size_t page = 0; page < kSlotPages; ++page) {
      std::byte* from = slot.data + page * kPageBytes;
      std::byte* to = target + page * kPageBytes;
      int flags = MREMAP_MAYMOVE | MREMAP_FIXED;
      Check(mremap(from, kPageBytes, kPageBytes, flags, to) == to, "mremap");
    }
    slot.data = target;
  }

  // What stays behind must read as zeros, and is then unmapped. Where the kernel refuses, because
  // the slot is no longer one mapping, nothing has changed.
  void MoveButKeep(Slot& slot) {
    void* target =
        mremap(slot.data, kSlotBytes, kSlotBytes, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, nullptr);
    if (target == MAP_FAILED) {
      Check(errno == EFAULT, "mremap");
      ++split_slots_;
      return Move(slot);
    }
    std::byte* source = std::exchange(slot.data, static_cast<std::byte*>(target));
    for (size_t page = 0; page < kSlotPages; page += 1 + Below(16)) {
      if (InspectPage(source + page * kPageBytes).all_zero) continue;
      Answer("WRONG: a page that was moved away still reads as it was");
      failed_ = true;
    }
    Check(munmap(source, kSlotBytes) == 0, "munmap");
  }

  template <typename Body>
  void InChild(Body body) {
    pid_t pid = fork();
    Check(pid >= 0, "fork");
    if (pid == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      in_child_ = true;
      body();
      _exit(failed_ ? 1 : 0);
    }
    VerifySome();
    int status = -1;
    Check(waitpid(pid, &status, 0) == pid, "waitpid");
    if (status != 0) {
      Answer("WRONG in a child: wait status " + std::to_string(status));
      failed_ = true;
    }
  }

  void Report(const Slot& slot, size_t index, size_t page) {
    PageFinding found = InspectPage(slot.data + page * kPageBytes);
    std::string history;
    for (Operation operation : slot.history) {
      history += std::string(", ") + kNames[static_cast<size_t>(operation)];
    }
    Answer(std::string(in_child_ ? "WRONG in a child: page " : "WRONG page ") +
           std::to_string(index * kSlotPages + page) + " version " +
           std::to_string(slot.version[page]) + ": " +
           (found.all_zero ? "all zero"
            : found.intact ? "intact but another"
                           : "damaged") +
           ", number " + std::to_string(found.number) + " version " +
           std::to_string(found.version) + "; its slot lately: " + history.substr(2));
    failed_ = true;
  }

  std::mt19937_64 random_;
  Slot* slots_;
  uint64_t version_ = 0;
  uint64_t split_slots_ = 0;
  bool in_child_ = false;
  bool failed_ = false;
};

}  // namespace
}  // namespace zmem

int main(int argc, char** argv) {
  unsigned run_seconds = 20;
  uint64_t seed = 1;
  CLI::App app("Changes its layout at random.");
  app.add_option("--seconds", run_seconds, "how long");
  app.add_option("--seed", seed, "of everything");
  CLI11_PARSE(app, argc, argv);

  zmem::Storm storm(seed);
  zmem::Answer("ready");
  std::string line;
  if (!std::getline(std::cin, line)) return 2;
  uint64_t steps = storm.Run(std::chrono::steady_clock::now() + std::chrono::seconds(run_seconds));
  if (steps == 0) return 1;
  zmem::Answer("ok " + std::to_string(steps) + " steps, " + std::to_string(storm.split_slots()) +
               " moves of mappings that were split");
  return 0;
}
