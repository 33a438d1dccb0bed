#include "libzmem/store/advice.h"

#include <errno.h>

#include "libzmem/store/chunk_pages.h"

namespace zmem {
namespace {

// Up to the top of a program's address space on x86-64, with five-level page tables too.
constexpr AddressRange kEverything{0, uint64_t{1} << 56};

}  // namespace

int Advice::Take(wire::QueryKind kind, AddressRange range) {
  if (range.start % kPageBytes != 0 || range.end % kPageBytes != 0 || range.start > range.end) {
    return EINVAL;
  }
  range = range.Intersect(kEverything);
  MutexLock lock(mutex_);
  bool brings_back = kind == wire::QueryKind::kWillNeed || kind == wire::QueryKind::kKeep;
  if (brings_back && !wanted_.HasRoomFor(range)) return EAGAIN;
  if (kind == wire::QueryKind::kCold && !cold_.Add(range)) return EAGAIN;
  if (kind == wire::QueryKind::kKeep && !kept_.Add(range)) return ENOMEM;
  if (kind == wire::QueryKind::kNormal && !kept_.Remove(range)) return ENOMEM;
  if (kind == wire::QueryKind::kKeep && !unwatched_.Add(range)) unwatched_.Add(kEverything);
  // What was said last counts.
  if (kind != wire::QueryKind::kCold) cold_.Cut(range);
  if (brings_back) {
    wanted_.Add(range);
  } else {
    wanted_.Cut(range);
  }
  NoteCounts();
  return 0;
}

std::vector<AddressRange> Advice::TakeCold() {
  MutexLock lock(mutex_);
  std::vector<AddressRange> cold = cold_.ranges();
  cold_.Cut(kEverything);
  return cold;
}

std::vector<AddressRange> Advice::TakeUnwatched() {
  if (kept_count_.load(std::memory_order_acquire) == 0) return {};
  MutexLock lock(mutex_);
  std::vector<AddressRange> unwatched;
  for (AddressRange range : unwatched_.ranges()) {
    for (AddressRange part : kept_.In(range)) unwatched.push_back(part);
  }
  unwatched_.Cut(kEverything);
  return unwatched;
}

std::optional<AddressRange> Advice::TakeWanted() {
  MutexLock lock(mutex_);
  std::optional<AddressRange> wanted = wanted_.Pop();
  NoteCounts();
  return wanted;
}

std::vector<AddressRange> Advice::kept() const {
  if (kept_count_.load(std::memory_order_acquire) == 0) return {};
  MutexLock lock(mutex_);
  return kept_.ranges();
}

uint64_t Advice::kept_bytes() const {
  MutexLock lock(mutex_);
  return kept_.bytes();
}

bool Advice::Keeps(AddressRange range) const {
  if (kept_count_.load(std::memory_order_acquire) == 0) return false;
  MutexLock lock(mutex_);
  return !kept_.In(range).empty();
}

wire::PageSet Advice::KeptIn(uint64_t chunk_number) const {
  if (kept_count_.load(std::memory_order_acquire) == 0) return {};
  MutexLock lock(mutex_);
  Address start = chunk_number << kChunkShift;
  return PagesIn(chunk_number, kept_.In({start, start + kChunkBytes}));
}

void Advice::Forget(AddressRange range) {
  MutexLock lock(mutex_);
  for (RangeSet* set : {&kept_, &unwatched_, &cold_, &wanted_}) set->Cut(range);
  NoteCounts();
}

void Advice::Move(AddressRange from, Address to) {
  MutexLock lock(mutex_);
  std::vector<AddressRange> parts = kept_.In(from);
  kept_.Cut(from);
  for (AddressRange part : parts) {
    kept_.Add({part.start - from.start + to, part.end - from.start + to});
  }
  NoteCounts();
}

void Advice::NoteCounts() {
  kept_count_.store(kept_.size(), std::memory_order_release);
  wanted_count_.store(wanted_.size(), std::memory_order_release);
}

}  // namespace zmem
