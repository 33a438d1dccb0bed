// The operations storm's changes to memory: every call that a C library or a server makes on its
// own pages, each followed in the shadow. Belongs to the thread that owns the world; allocates
// nothing, so that a child made by a raw clone can use it.
#pragma once

#include <random>

#include "tests/programs/operations_storm_shadow.h"

namespace zmem::storm {

// Pages [first, end) of a slot.
struct Pages {
  uint32_t first;
  uint32_t end;
  size_t count() const { return end - first; }
};

// Files that the storm reads: their pages are of the numbers kFileNumber and up, version 1.
struct SourceFile {
  static constexpr uint64_t kFileNumber = uint64_t{1} << 48;
  static constexpr uint32_t kPages = 64;
  int cached_fd;
  int direct_fd;  // with O_DIRECT
};

class WorldMemory {
 public:
  WorldMemory(Shared& shared, World& world, std::mt19937_64& random, const SourceFile& source)
      : shared_(shared), world_(world), random_(random), source_(source) {}

  // Maps and fills every slot. `with_break`: one is the end of the data segment, of which a
  // process has one.
  void MapAll(bool with_break);
  // Any operation on a slot's memory; false if it is none of them.
  bool Do(Operation operation, Slot& slot, Pages pages);
  void VerifyAll();
  // Makes every page readable, writable and free to be taken again.
  void SettleAll();

  // Reports the first failure of all and ends the process.
  [[noreturn]] void Fail(const char* what);
  [[noreturn]] void FailAt(const Slot& slot, uint32_t page, const char* what);

 private:
  uint64_t Below(uint64_t bound) { return random_() % bound; }
  void Check(bool condition, const Slot& slot, const char* what);
  size_t IndexOf(const Slot& slot) const {
    return static_cast<size_t>(&slot - world_.slots.data());
  }
  std::byte* Map(const Slot& slot, uint32_t pages);
  void MapAgain(Slot& slot);
  bool IsMapping(const Slot& slot) const { return slot.memory <= Memory::kHugeMapping; }
  // Whether the kernel would move the slot as one; counts those that it would not.
  bool IsOneMapping(const Slot& slot);

  void MakeAccessible(Slot& slot, Pages pages);
  void MakePlain(Slot& slot);
  void Unlock(Slot& slot);
  void ExpectZeros(Slot& slot, Pages pages);
  void ForgetSlot(Slot& slot);

  void Write(Slot& slot, Pages pages);
  void Verify(Slot& slot, Pages pages);
  void Discard(Slot& slot, Pages pages);
  void Free(Slot& slot, Pages pages);
  void Guard(Slot& slot, Pages pages);
  void Unguard(Slot& slot, Pages pages);
  void MapOver(Slot& slot, Pages pages);
  void UnmapAndMap(Slot& slot);
  void Move(Slot& slot);
  void MoveButKeep(Slot& slot);
  void Resize(Slot& slot);
  void Reallocate(Slot& slot, uint32_t pages);
  void MoveBreak(Slot& slot, uint32_t pages);
  void Remap(Slot& slot, uint32_t pages);
  void Protect(Slot& slot, Pages pages);
  void Lock(Slot& slot, Pages pages);
  void AdviseHuge(Slot& slot);
  void CopyThroughPipe(Slot& slot, Pages pages, bool splice);
  void ReadFile(Slot& slot, Pages pages, int fd);

  Shared& shared_;
  World& world_;
  std::mt19937_64& random_;
  const SourceFile& source_;
};

}  // namespace zmem::storm
