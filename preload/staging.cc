#include "preload/staging.h"

#include <errno.h>
#include <sys/mman.h>

#include "libzmem/base/kernel_abi.h"
#include "preload/keep.h"
#include "preload/raw_syscall.h"

namespace zmem {
namespace {

using raw::AsLong;
using raw::Syscall;

// How often a move's EAGAIN is tried again. It may be a page's lock, which is soon free; or an
// event that waits to be read, which zmemd will not do before we have answered.
constexpr int kMoveRetries = 3;

// One UFFDIO_MOVE; returns 0 or the error of the first page that did not move, and sets `moved`.
int MovePages(int uffd, Address target, Address source, size_t pages, size_t* moved) {
  uffdio_move move{};
  move.dst = target;
  move.src = source;
  move.len = pages * kPageBytes;
  long result = Syscall(SYS_ioctl, uffd, UFFDIO_MOVE, AsLong(&move));
  *moved = result == 0 ? pages : move.move > 0 ? static_cast<size_t>(move.move) / kPageBytes : 0;
  return static_cast<int>(-result);
}

}  // namespace

bool Staging::Map() {
  // Most first: it is address space, which RLIMIT_AS may bound.
  constexpr size_t kSlabs[] = {kMostSlabs, 16, 4};
  for (size_t slabs : kSlabs) {
    uint64_t bytes = slabs * kChunkBytes;
    // One chunk more, of which the unaligned ends are given back.
    long mapped = Syscall(SYS_mmap, 0, static_cast<long>(bytes + kChunkBytes), PROT_NONE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped < 0 && mapped > -4096) continue;
    Address start = static_cast<Address>(mapped);
    Address aligned = ChunkStart(start + kChunkBytes - 1);
    Address end = start + bytes + kChunkBytes;
    if (aligned > start) Syscall(SYS_munmap, mapped, static_cast<long>(aligned - start));
    if (end > aligned + bytes) {
      Syscall(SYS_munmap, static_cast<long>(aligned + bytes),
              static_cast<long>(end - aligned - bytes));
    }
    range_ = {aligned, aligned + bytes};
    for (wire::PageSet& slab : occupied_) slab = {};
    // A program that locks all it will ever map (MCL_FUTURE) would have these filled with pages.
    Unlock();
    long at = static_cast<long>(aligned);
    long length = static_cast<long>(bytes);
    // A child has no use for the copies, and a dump none for the doubles.
    if (Syscall(SYS_mprotect, at, length, PROT_READ | PROT_WRITE) < 0 ||
        Syscall(SYS_madvise, at, length, MADV_DONTFORK) < 0) {
      Unmap();
      continue;
    }
    Syscall(SYS_madvise, at, length, MADV_DONTDUMP);
    return true;
  }
  return false;
}

void Staging::Unlock() {
  Syscall(SYS_munlock, static_cast<long>(range_.start), static_cast<long>(range_.bytes()));
}

void Staging::Unmap() {
  if (range_.empty()) return;
  Syscall(SYS_munmap, static_cast<long>(range_.start), static_cast<long>(range_.bytes()));
  range_ = {};
}

bool Staging::Move(const wire::Move& move, int uffd, wire::Report* report) {
  if (move.parts == 0 || move.parts > wire::kMaxParts) return false;
  bool out = IsSlab(move.part[0].target);
  for (size_t i = 0; i < move.parts; ++i) {
    if (!IsSlab(out ? move.part[i].target : move.part[i].source)) return false;
  }
  bool may_move = true;
  if (out) {
    bell_.staged.store(true);  // before `forks` is looked at: see bell.h
    may_move = BeginMoveOut(kept_, move.kept_generation) && bell_.forks.load() == 0;
  }
  for (size_t i = 0; i < move.parts && may_move; ++i) {
    may_move = MoveRuns(move.part[i], uffd, &report->done[i], report);
    NoteSlots(out ? move.part[i].target : move.part[i].source, report->done[i], out);
  }
  if (out) EndMoveOut(kept_);
  TellStaged();
  return true;
}

bool Staging::IsSlab(Address slab) const {
  return slab >= range_.start && slab + kChunkBytes <= range_.end &&
         (slab - range_.start) % kChunkBytes == 0;
}

void Staging::NoteSlots(Address slab, const wire::PageSet& pages, bool hold) {
  wire::PageSet& slots = occupied_[(slab - range_.start) / kChunkBytes];
  slots = hold ? slots.Or(pages) : slots.Without(pages);
}

void Staging::TellStaged() {
  bool staged = false;
  for (const wire::PageSet& each : occupied_) staged |= !each.empty();
  bell_.staged.store(staged);
}

bool Staging::MoveRuns(const wire::MovePart& part, int uffd, wire::PageSet* done,
                       wire::Report* report) {
  int retries = 0;
  bool unlocked = false;
  size_t page = part.pages.Next(0, true);
  while (page < kPagesPerChunk) {
    size_t end = part.pages.Next(page, false);
    size_t moved = 0;
    int error = MovePages(uffd, part.target + page * kPageBytes, part.source + page * kPageBytes,
                          end - page, &moved);
    done->AddRange(page, page + moved);
    page += moved;
    if (moved > 0) retries = 0;
    if (page < end && moved == 0) {
      if (error == EAGAIN) {
        if (++retries < kMoveRetries) continue;
        return false;
      }
      if (error == EINVAL && !unlocked) {
        // The program may have locked all its memory (mlockall), and the staging area with it.
        Unlock();
        unlocked = true;
        continue;
      }
      if (error == EBUSY) {
        ++report->busy;
      } else if (error == EINVAL) {
        ++report->invalid;
      } else if (error == ENOENT) {
        ++report->absent;
      } else if (error == EEXIST) {
        ++report->exists;
      } else {
        ++report->other;
        report->last_errno = error;
      }
      retries = 0;
      ++page;  // judged alone; the rest of the run is tried again
    }
    if (page >= end || !part.pages.Has(page)) page = part.pages.Next(page, true);
  }
  return true;
}

void Staging::Advise(Address start, const wire::PageSet& pages, int advice, wire::PageSet* done,
                     wire::Report* report) {
  size_t page = pages.Next(0, true);
  while (page < kPagesPerChunk) {
    size_t end = pages.Next(page, false);
    long at = static_cast<long>(start + page * kPageBytes);
    long bytes = static_cast<long>((end - page) * kPageBytes);
    long result = Syscall(SYS_madvise, at, bytes, advice);
    if (result == -EINVAL && range_.Contains(start)) {
      Unlock();
      result = Syscall(SYS_madvise, at, bytes, advice);
    }
    if (result == 0) {
      done->AddRange(page, end);
    } else {
      ++report->other;
      report->last_errno = static_cast<int32_t>(-result);
    }
    page = pages.Next(end, true);
  }
}

bool Staging::Discard(const wire::Discard& discard, wire::Report* report) {
  if (discard.parts > wire::kMaxParts) return false;
  for (size_t i = 0; i < discard.parts; ++i) {
    const wire::DiscardPart& part = discard.part[i];
    // Nothing but the staging area is ever dropped, whatever a message says.
    if (!IsSlab(part.slab)) return false;
    Advise(part.slab, part.pages, MADV_DONTNEED, &report->done[i], report);
    NoteSlots(part.slab, report->done[i], false);
  }
  TellStaged();
  return true;
}

void Staging::Populate(const wire::Populate& populate, wire::Report* report) {
  constexpr int kMadvPopulateWrite = 23;  // Linux 5.14
  Advise(populate.chunk, populate.pages, kMadvPopulateWrite, &report->done[0], report);
}

}  // namespace zmem
