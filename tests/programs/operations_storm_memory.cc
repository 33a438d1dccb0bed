#include "tests/programs/operations_storm_memory.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "libzmem/base/kernel_abi.h"
#include "libzmem/base/page.h"
#include "tests/page_pattern.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25  // Linux 6.1
#endif
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102  // Linux 6.13
#define MADV_GUARD_REMOVE 103
#endif

namespace zmem::storm {
namespace {

struct SlotShape {
  Memory memory;
  uint32_t pages;
};

// From a page to several MiB: slots share chunks, straddle them, and fill them.
constexpr SlotShape kShapes[kSlots] = {
    {Memory::kMapping, 1},    {Memory::kMapping, 1},       {Memory::kMapping, 2},
    {Memory::kMapping, 7},    {Memory::kMapping, 40},      {Memory::kMapping, 128},
    {Memory::kMapping, 128},  {Memory::kMapping, 300},     {Memory::kMapping, 700},
    {Memory::kMapping, 1100}, {Memory::kHugeMapping, 512}, {Memory::kHugeMapping, 1024},
    {Memory::kHeap, 200},     {Memory::kHeap, 60},
};
constexpr size_t kBreakSlot = 13;  // of the world that has the break

// What a pipe takes without a reader.
constexpr uint32_t kPipePages = 12;

std::byte* PageAt(const Slot& slot, size_t page) { return slot.data + page * kPageBytes; }

int Protection(Access access) {
  switch (access) {
    case Access::kReadWrite:
      return PROT_READ | PROT_WRITE;
    case Access::kRead:
      return PROT_READ;
    case Access::kReadExecute:
      return PROT_READ | PROT_EXEC;
    case Access::kNone:
      return PROT_NONE;
  }
  return PROT_NONE;
}

}  // namespace

void WorldMemory::Fail(const char* what) {
  char text[sizeof shared_.failure];
  int length = std::snprintf(
      text, sizeof text, "WRONG in %s %d (world %zu, depth %u) at step %llu, %s: %s\n",
      world_.depth == 0 ? "thread" : "child", world_.tid.load(),
      static_cast<size_t>(&world_ - shared_.worlds.data()), world_.depth.load(),
      static_cast<unsigned long long>(world_.steps), Name(world_.operation), what);
  length = std::min(length, static_cast<int>(sizeof text) - 1);
  if (write(STDERR_FILENO, text, static_cast<size_t>(length)) < 0) _exit(2);
  if (shared_.failure_taken.exchange(1) == 0) {
    std::memcpy(shared_.failure, text, static_cast<size_t>(length) + 1);
  }
  shared_.stop = 1;
  _exit(1);
}

void WorldMemory::FailAt(const Slot& slot, uint32_t page, const char* what) {
  char text[900];
  const PageShadow& expected = slot.shadow[page];
  size_t at = static_cast<size_t>(std::snprintf(
      text, sizeof text, "%s: slot %zu page %u of %u at %p; expected number %llx version %llu%s",
      what, IndexOf(slot), page, slot.pages, static_cast<void*>(PageAt(slot, page)),
      static_cast<unsigned long long>(expected.number),
      static_cast<unsigned long long>(expected.version), expected.may_be_zero ? " or zeros" : ""));
  for (const Step& step : slot.history) {
    if (step.operation == Operation::kNone || at >= sizeof text) continue;
    at += static_cast<size_t>(std::snprintf(text + at, sizeof text - at, "; %llu %s [%u,%u)",
                                            static_cast<unsigned long long>(step.number),
                                            Name(step.operation), step.first_page, step.end_page));
  }
  Fail(text);
}

void WorldMemory::Check(bool condition, const Slot& slot, const char* what) {
  if (condition) return;
  char text[96];
  std::snprintf(text, sizeof text, "%s: %s", what, std::strerror(errno));
  FailAt(slot, 0, text);
}

// ---- where slots are ----

std::byte* WorldMemory::Map(const Slot& slot, uint32_t pages) {
  constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  size_t bytes = pages * kPageBytes;
  bool huge = slot.memory == Memory::kHugeMapping;
  size_t slack = huge ? kChunkBytes : 0;
  void* mapping = mmap(nullptr, bytes + slack, PROT_READ | PROT_WRITE, kFlags, -1, 0);
  Check(mapping != MAP_FAILED, slot, "mmap");
  if (!huge) return static_cast<std::byte*>(mapping);
  Address start = reinterpret_cast<Address>(mapping);
  Address aligned = ChunkStart(start + kChunkBytes - 1);
  if (aligned > start) munmap(mapping, aligned - start);
  if (aligned + bytes < start + bytes + slack) {
    munmap(reinterpret_cast<void*>(aligned + bytes), start + slack - aligned);
  }
  madvise(reinterpret_cast<void*>(aligned), bytes, MADV_HUGEPAGE);
  return reinterpret_cast<std::byte*>(aligned);
}

void WorldMemory::MapAll(bool with_break) {
  for (size_t index = 0; index < kSlots; ++index) {
    Slot& slot = world_.slots[index];
    slot.memory = kShapes[index].memory;
    slot.pages = kShapes[index].pages;
    slot.limit_pages = std::min<uint32_t>(slot.pages + slot.pages / 3 + 1, kMaxSlotPages);
    if (with_break && index == kBreakSlot) {
      slot.memory = Memory::kBreak;
      auto at = reinterpret_cast<Address>(sbrk(0));
      Check(sbrk(static_cast<intptr_t>(PageStart(at + kPageBytes - 1) - at +
                                       slot.pages * kPageBytes)) != nullptr,
            slot, "sbrk");
      slot.data = reinterpret_cast<std::byte*>(PageStart(at + kPageBytes - 1));
    } else if (slot.memory == Memory::kHeap) {
      slot.data = static_cast<std::byte*>(std::malloc(slot.pages * kPageBytes));
      Check(slot.data != nullptr, slot, "malloc");
    } else {
      slot.data = Map(slot, slot.pages);
    }
    ForgetSlot(slot);
    Write(slot, {0, slot.pages});
  }
}

// A boundary may come up as soon as it was looked for: to be asked again where a move failed.
bool WorldMemory::IsOneMapping(const Slot& slot) {
  int maps = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
  procmap_query query{};
  query.size = sizeof query;
  query.query_addr = reinterpret_cast<Address>(slot.data);
  int result = ioctl(maps, PROCMAP_QUERY, &query);
  close(maps);
  Check(result == 0, slot, "PROCMAP_QUERY");
  bool one = query.vma_end >= reinterpret_cast<Address>(PageAt(slot, slot.pages));
  if (!one) shared_.splits.fetch_add(1, std::memory_order_relaxed);
  return one;
}

// ---- the shadow ----

void WorldMemory::ExpectZeros(Slot& slot, Pages pages) {
  for (uint32_t page = pages.first; page < pages.end; ++page) {
    slot.shadow[page].version = 0;
    slot.shadow[page].may_be_zero = false;
  }
}

void WorldMemory::ForgetSlot(Slot& slot) {
  slot.locked = false;
  slot.shadow.fill(PageShadow{});
}

// Readable and writable, without guards; its contents stay.
void WorldMemory::MakeAccessible(Slot& slot, Pages pages) {
  if (!IsMapping(slot)) return;
  auto begin = slot.shadow.begin() + pages.first;
  auto end = slot.shadow.begin() + pages.end;
  if (std::any_of(begin, end, [](const PageShadow& page) { return page.guarded; })) {
    Unguard(slot, pages);
  }
  if (std::all_of(begin, end,
                  [](const PageShadow& page) { return page.access == Access::kReadWrite; })) {
    return;
  }
  Check(
      mprotect(PageAt(slot, pages.first), pages.count() * kPageBytes, PROT_READ | PROT_WRITE) == 0,
      slot, "mprotect");
  for (auto page = begin; page != end; ++page) page->access = Access::kReadWrite;
}

void WorldMemory::Unlock(Slot& slot) {
  if (!slot.locked) return;
  Check(munlock(slot.data, slot.pages * kPageBytes) == 0, slot, "munlock");
  slot.locked = false;
}

// All of it of one kind again, as far as the program has a say: the kernel can move it as one.
void WorldMemory::MakePlain(Slot& slot) {
  MakeAccessible(slot, {0, slot.pages});
  Unlock(slot);
  size_t bytes = slot.pages * kPageBytes;
  madvise(slot.data, bytes, MADV_UNMERGEABLE);
  madvise(slot.data, bytes, slot.memory == Memory::kHugeMapping ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
}

// ---- operations ----

void WorldMemory::Write(Slot& slot, Pages pages) {
  MakeAccessible(slot, pages);
  uint64_t version = shared_.last_version.fetch_add(1, std::memory_order_relaxed) + 1;
  uint64_t world = static_cast<uint64_t>(&world_ - shared_.worlds.data());
  for (uint32_t page = pages.first; page < pages.end; ++page) {
    uint64_t number = world << 32 | IndexOf(slot) << 16 | page;
    FillPage(PageAt(slot, page), number, version);
    slot.shadow[page].number = number;
    slot.shadow[page].version = version;
    slot.shadow[page].may_be_zero = false;
  }
}

void WorldMemory::Verify(Slot& slot, Pages pages) {
  for (uint32_t page = pages.first; page < pages.end; ++page) {
    const PageShadow& expected = slot.shadow[page];
    if (expected.guarded || expected.access == Access::kNone) continue;
    const std::byte* data = PageAt(slot, page);
    if (expected.version != 0 && VerifyPage(data, expected.number, expected.version)) continue;
    PageFinding found = InspectPage(data);
    if (found.all_zero && (expected.version == 0 || expected.may_be_zero)) continue;
    char text[120];
    std::snprintf(text, sizeof text, "%s, found number %llx version %llu",
                  found.all_zero ? "all zero"
                  : found.intact ? "intact but another"
                                 : "damaged",
                  static_cast<unsigned long long>(found.number),
                  static_cast<unsigned long long>(found.version));
    FailAt(slot, page, text);
  }
}

void WorldMemory::VerifyAll() {
  for (Slot& slot : world_.slots) Verify(slot, {0, slot.pages});
}

void WorldMemory::SettleAll() {
  for (Slot& slot : world_.slots) {
    if (IsMapping(slot)) MakePlain(slot);
  }
}

void WorldMemory::Discard(Slot& slot, Pages pages) {
  Unlock(slot);
  bool guarded = false;
  for (uint32_t page = pages.first; page < pages.end; ++page) guarded |= slot.shadow[page].guarded;
  if (guarded) Unguard(slot, pages);
  Check(madvise(PageAt(slot, pages.first), pages.count() * kPageBytes, MADV_DONTNEED) == 0, slot,
        "MADV_DONTNEED");
  ExpectZeros(slot, pages);
}

void WorldMemory::Free(Slot& slot, Pages pages) {
  Unlock(slot);
  Check(madvise(PageAt(slot, pages.first), pages.count() * kPageBytes, MADV_FREE) == 0, slot,
        "MADV_FREE");
  for (uint32_t page = pages.first; page < pages.end; ++page) {
    slot.shadow[page].may_be_zero = true;
  }
}

void WorldMemory::Guard(Slot& slot, Pages pages) {
  Unlock(slot);
  if (madvise(PageAt(slot, pages.first), pages.count() * kPageBytes, MADV_GUARD_INSTALL) != 0) {
    Check(errno == EINVAL, slot, "MADV_GUARD_INSTALL");  // a kernel before 6.13
    return;
  }
  for (uint32_t page = pages.first; page < pages.end; ++page) {
    slot.shadow[page].guarded = true;
    // A guard over a page that is out is told to nobody: it may come back as it was (README).
    slot.shadow[page].may_be_zero = true;
  }
}

void WorldMemory::Unguard(Slot& slot, Pages pages) {
  Unlock(slot);
  if (madvise(PageAt(slot, pages.first), pages.count() * kPageBytes, MADV_GUARD_REMOVE) != 0) {
    Check(errno == EINVAL, slot, "MADV_GUARD_REMOVE");
  }
  for (uint32_t page = pages.first; page < pages.end; ++page) slot.shadow[page].guarded = false;
}

void WorldMemory::MapOver(Slot& slot, Pages pages) {
  Unlock(slot);
  std::byte* at = PageAt(slot, pages.first);
  void* mapping = mmap(at, pages.count() * kPageBytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  Check(mapping == at, slot, "mmap over");
  if (slot.memory == Memory::kHugeMapping) {
    madvise(at, pages.count() * kPageBytes, MADV_HUGEPAGE);
  }
  std::fill(slot.shadow.begin() + pages.first, slot.shadow.begin() + pages.end, PageShadow{});
}

void WorldMemory::UnmapAndMap(Slot& slot) {
  Check(munmap(slot.data, slot.pages * kPageBytes) == 0, slot, "munmap");
  slot.data = Map(slot, slot.pages);
  ForgetSlot(slot);
}

// Page by page where it is no longer one mapping: since Linux 6.17 one call moves several, but not
// if they are registered with a userfaultfd.
void WorldMemory::Move(Slot& slot) {
  MakePlain(slot);
  constexpr int kFlags = MREMAP_MAYMOVE | MREMAP_FIXED;
  size_t bytes = slot.pages * kPageBytes;
  std::byte* target = Map(slot, slot.pages);
  bool moved = IsOneMapping(slot) && mremap(slot.data, bytes, bytes, kFlags, target) == target;
  if (!moved) Check(!IsOneMapping(slot), slot, "mremap of one mapping");
  for (size_t at = 0; !moved && at < bytes; at += kPageBytes) {
    Check(mremap(slot.data + at, kPageBytes, kPageBytes, kFlags, target + at) == target + at, slot,
          "mremap");
  }
  slot.data = target;
}

void WorldMemory::MoveButKeep(Slot& slot) {
  MakePlain(slot);
  if (!IsOneMapping(slot)) return;
  size_t bytes = slot.pages * kPageBytes;
  void* target = mremap(slot.data, bytes, bytes, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, nullptr);
  if (target == MAP_FAILED) return Check(!IsOneMapping(slot), slot, "mremap DONTUNMAP");
  std::byte* left = slot.data;
  slot.data = static_cast<std::byte*>(target);
  for (size_t page = Below(4); page < slot.pages; page += 1 + Below(16)) {
    if (!InspectPage(left + page * kPageBytes).all_zero) {
      FailAt(slot, static_cast<uint32_t>(page), "moved away, but still there too");
    }
  }
  Check(munmap(left, bytes) == 0, slot, "munmap of what was left");
}

void WorldMemory::Resize(Slot& slot) {
  auto pages = static_cast<uint32_t>(1 + Below(slot.limit_pages));
  if (slot.memory == Memory::kHeap) return Reallocate(slot, pages);
  if (slot.memory == Memory::kBreak) return MoveBreak(slot, pages);
  Remap(slot, pages);
}

void WorldMemory::Remap(Slot& slot, uint32_t pages) {
  MakePlain(slot);
  if (!IsOneMapping(slot)) return;
  void* data =
      mremap(slot.data, slot.pages * kPageBytes, pages * kPageBytes, MREMAP_MAYMOVE, nullptr);
  if (data == MAP_FAILED) return Check(!IsOneMapping(slot), slot, "mremap to another size");
  slot.data = static_cast<std::byte*>(data);
  for (uint32_t page = slot.pages; page < pages; ++page) slot.shadow[page] = PageShadow{};
  slot.pages = pages;
}

void WorldMemory::Reallocate(Slot& slot, uint32_t pages) {
  if (world_.bare != 0) return Verify(slot, {0, slot.pages});
  world_.operation = Operation::kReallocate;
  shared_.counts[static_cast<size_t>(Operation::kReallocate)].fetch_add(1);
  void* data = std::realloc(slot.data, pages * kPageBytes);
  Check(data != nullptr, slot, "realloc");
  slot.data = static_cast<std::byte*>(data);
  uint32_t before = slot.pages;
  slot.pages = pages;
  if (pages > before) Write(slot, {before, pages});  // what is there is anything
}

// Nobody else moves the break meanwhile: the other threads' heaps are elsewhere.
void WorldMemory::MoveBreak(Slot& slot, uint32_t pages) {
  world_.operation = Operation::kBreak;
  shared_.counts[static_cast<size_t>(Operation::kBreak)].fetch_add(1);
  if (sbrk(0) != PageAt(slot, slot.pages)) return;  // libc has taken what follows
  auto change = (static_cast<intptr_t>(pages) - static_cast<intptr_t>(slot.pages)) *
                static_cast<intptr_t>(kPageBytes);
  Check(sbrk(change) != reinterpret_cast<void*>(-1), slot, "sbrk");
  for (uint32_t page = slot.pages; page < pages; ++page) slot.shadow[page] = PageShadow{};
  slot.pages = pages;
}

void WorldMemory::Protect(Slot& slot, Pages pages) {
  auto access = static_cast<Access>(Below(4));
  Check(mprotect(PageAt(slot, pages.first), pages.count() * kPageBytes, Protection(access)) == 0,
        slot, "mprotect");
  for (uint32_t page = pages.first; page < pages.end; ++page) slot.shadow[page].access = access;
}

void WorldMemory::Lock(Slot& slot, Pages pages) {
  MakeAccessible(slot, pages);
  Check(mlock(PageAt(slot, pages.first), pages.count() * kPageBytes) == 0, slot, "mlock");
  slot.locked = true;
  Verify(slot, pages);
}

// Where the kernel will not make a huge page of it, it says so and leaves the pages alone.
void WorldMemory::AdviseHuge(Slot& slot) {
  constexpr int kAdvices[] = {MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_COLLAPSE};
  madvise(slot.data, slot.pages * kPageBytes, kAdvices[Below(3)]);
}

// The kernel reads one slot's pages and writes another's. A spliced page is held by the pipe
// itself: taking it out meanwhile must not change what the pipe gives.
void WorldMemory::CopyThroughPipe(Slot& slot, Pages pages, bool splice) {
  Slot& target = world_.slots[Below(kSlots)];
  if (&target == &slot) return;
  auto count = static_cast<uint32_t>(
      std::min<size_t>({pages.count(), size_t{kPipePages}, size_t{target.pages}}));
  auto at = static_cast<uint32_t>(Below(target.pages - count + 1));
  MakeAccessible(slot, pages);
  MakeAccessible(target, {at, at + count});
  size_t bytes = count * kPageBytes;
  int ends[2];
  Check(pipe(ends) == 0, slot, "pipe");
  iovec source{PageAt(slot, pages.first), bytes};
  ssize_t sent = splice ? vmsplice(ends[1], &source, 1, 0) : writev(ends[1], &source, 1);
  // An unaligned source fills more of the pipe's buffers; what did not fit is not copied.
  Check(sent > 0, slot, "writing to a pipe");
  count = static_cast<uint32_t>(static_cast<size_t>(sent) / kPageBytes);
  if (splice) Verify(target, {0, target.pages});  // a while in which the pages may be taken
  for (size_t done = 0; done < count * kPageBytes;) {
    ssize_t got = read(ends[0], PageAt(target, at) + done, count * kPageBytes - done);
    Check(got > 0, target, "reading from a pipe");
    done += static_cast<size_t>(got);
  }
  close(ends[0]);
  close(ends[1]);
  for (uint32_t page = 0; page < count; ++page) {
    const PageShadow& from = slot.shadow[pages.first + page];
    PageShadow& to = target.shadow[at + page];
    to.number = from.number;
    to.version = from.version;
    to.may_be_zero = from.may_be_zero;
  }
  Verify(target, {at, at + count});
}

void WorldMemory::ReadFile(Slot& slot, Pages pages, int fd) {
  auto count = static_cast<uint32_t>(std::min<size_t>(pages.count(), size_t{SourceFile::kPages}));
  auto from = static_cast<uint32_t>(Below(SourceFile::kPages - count + 1));
  pages.end = pages.first + count;
  MakeAccessible(slot, pages);
  ssize_t got = pread(fd, PageAt(slot, pages.first), count * kPageBytes,
                      static_cast<off_t>(from * kPageBytes));
  Check(got == static_cast<ssize_t>(count * kPageBytes), slot, "pread");
  for (uint32_t page = 0; page < count; ++page) {
    PageShadow& to = slot.shadow[pages.first + page];
    to.number = SourceFile::kFileNumber + from + page;
    to.version = 1;
    to.may_be_zero = false;
  }
  Verify(slot, pages);
}

bool WorldMemory::Do(Operation operation, Slot& slot, Pages pages) {
  // What libc manages is not for changes of layout behind its back.
  bool contents_only = !IsMapping(slot);
  switch (operation) {
    case Operation::kWrite:
      Write(slot, pages);
      return true;
    case Operation::kVerify:
      Verify(slot, pages);
      return true;
    case Operation::kVerifyAll:
      VerifyAll();
      return true;
    case Operation::kResize:
      Resize(slot);
      return true;
    case Operation::kWriteToPipe:
    case Operation::kSpliceToPipe:
      CopyThroughPipe(slot, pages, operation == Operation::kSpliceToPipe);
      return true;
    case Operation::kReadFile:
      ReadFile(slot, pages, source_.cached_fd);
      return true;
    case Operation::kReadDirect:
      // Direct transfers want aligned memory, which the heap's is not.
      ReadFile(slot, pages, contents_only ? source_.cached_fd : source_.direct_fd);
      return true;
    default:
      break;
  }
  if (contents_only) {
    Verify(slot, pages);
    return operation < Operation::kThread;
  }
  switch (operation) {
    case Operation::kDiscard:
      Discard(slot, pages);
      return true;
    case Operation::kFree:
      Free(slot, pages);
      return true;
    case Operation::kGuard:
      Guard(slot, pages);
      return true;
    case Operation::kUnguard:
      Unguard(slot, pages);
      return true;
    case Operation::kMapOver:
      MapOver(slot, pages);
      return true;
    case Operation::kUnmapAndMap:
      UnmapAndMap(slot);
      return true;
    case Operation::kMove:
      Move(slot);
      return true;
    case Operation::kMoveButKeep:
      MoveButKeep(slot);
      return true;
    case Operation::kProtect:
      Protect(slot, pages);
      return true;
    case Operation::kLock:
      Lock(slot, pages);
      return true;
    case Operation::kUnlock:
      Unlock(slot);
      return true;
    case Operation::kHugeAdvice:
      AdviseHuge(slot);
      return true;
    case Operation::kMergeAdvice:
      madvise(slot.data, slot.pages * kPageBytes, MADV_MERGEABLE);
      return true;
    default:
      return false;
  }
}

}  // namespace zmem::storm
