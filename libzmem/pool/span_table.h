// What the pool knows of each slot of its region, and which slots are free.
// Thread-safe, except that a Span belongs to whom its state says.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "absl/status/statusor.h"
#include "libzmem/base/mutex.h"
#include "libzmem/base/shared_region.h"
#include "libzmem/pool/size_class.h"

namespace zmem {

inline constexpr uint32_t kNoSlot = ~uint32_t{0};
inline constexpr uint16_t kNoGranule = 0xffff;

// What a slot holds, and who may touch its Span. Anybody may read the state itself.
enum class SpanState : uint8_t {
  kUnused = 0,   // never a span, all zeros; the table
  kFreeSlot,     // no memory, to be used again; the table
  kKept,         // no live object, but memory, for the next span of its pages; the table
  kEmpty,        // no live object, on no list; the thread that took it or freed its last object
  kEmptyVictim,  // the same; was a victim, so that its slot may have to rest
  kPartial,      // live and free objects, on a list of its class; the class's mutex
  kFull,         // live objects only, on no list; the class's mutex
  kVictim,       // to be emptied by its objects' holders, on a list of its class; the class's mutex
};

// The metadata of a slot. Free objects are linked through their first two bytes, by the granule in
// the span at which the next one starts.
struct Span {
  uint32_t next;         // slot after this one on its list
  uint32_t prev;         // slot before this one; not used on the table's lists
  uint16_t live;         // objects, and in a victim the copies that are being made of some
  uint16_t first_free;   // granule of the object freed last, or kNoGranule
  uint16_t first_fresh;  // granule from which on no object ever was; its pages are untouched
  uint8_t class_number;
  std::atomic<SpanState> atomic_state;

  SpanState state() const { return atomic_state.load(std::memory_order_acquire); }
  void set_state(SpanState state) { atomic_state.store(state, std::memory_order_release); }
};
static_assert(sizeof(Span) == 16);

class SpanTable {
 public:
  // Errors: what SharedRegion::Create says.
  static absl::StatusOr<std::unique_ptr<SpanTable>> Create(uint32_t slots);

  uint32_t slots() const { return slots_; }
  Span& At(uint32_t slot) const { return reinterpret_cast<Span*>(spans_.data())[slot]; }

  // A slot without memory, or kNoSlot. The caller sets its Span up, whole.
  uint32_t Take();
  // Takes an empty span's slot back; its memory is gone already. That of a victim is not given out
  // again before the round ends.
  void Return(uint32_t slot);

  // Keeps an empty span that has memory of `pages` pages, unless it was a victim or more than
  // `most_pages` would be kept: then it returns false.
  bool Keep(uint32_t slot, size_t pages, uint64_t most_pages);
  // A kept span of so many pages, or kNoSlot.
  uint32_t TakeKept(size_t pages);
  struct KeptSpan {
    uint32_t slot;
    uint32_t pages;
  };
  // Takes as many kept spans as there are and `out` has places for; returns their number.
  size_t TakeKept(std::span<KeptSpan> out);
  // Pages of all of them.
  uint64_t kept_pages() const { return kept_pages_.load(std::memory_order_relaxed); }

  void StartRound();
  void EndRound();

  uint64_t metadata_bytes() const;

 private:
  SpanTable(SharedRegion spans, uint32_t slots) : spans_(std::move(spans)), slots_(slots) {
    first_kept_.fill(kNoSlot);
  }
  uint32_t PopKeptLocked(size_t pages) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const SharedRegion spans_;  // one Span per slot
  const uint32_t slots_;

  mutable Mutex mutex_;
  uint32_t used_ ABSL_GUARDED_BY(mutex_) = 0;  // slots from here on never were spans
  uint32_t first_free_ ABSL_GUARDED_BY(mutex_) = kNoSlot;
  uint32_t first_resting_ ABSL_GUARDED_BY(mutex_) = kNoSlot;
  std::array<uint32_t, kMaxSpanPages + 1> first_kept_ ABSL_GUARDED_BY(mutex_);  // by pages
  std::atomic<uint64_t> kept_pages_{0};  // written under the mutex
  bool in_round_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace zmem
