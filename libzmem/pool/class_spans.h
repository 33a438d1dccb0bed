// The spans of one size class: which of them has room for an object, which are victims of
// compaction, and how many places are left in them. Every operation takes constant time, or a time
// proportional to the spans it names.
// Thread-safe under `mutex`, which the caller holds. Touches no bytes of live objects.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "libzmem/base/mutex.h"
#include "libzmem/pool/size_class.h"
#include "libzmem/pool/span_table.h"

namespace zmem {

// Spans with room are grouped by eighths of fullness, and the fullest group is used up first, so
// that sparse spans drain. Groups, not an order, keep it O(1).
inline constexpr unsigned kFullnessGroups = 8;

// The link in a free object. A copy may be under way that has lost its race against the Free
// (Zpool::Move), so both access these two bytes, and only these can be in use by two, atomically.
inline std::atomic_ref<uint16_t> FreeLinkAt(std::byte* place) {
  return std::atomic_ref<uint16_t>(*reinterpret_cast<uint16_t*>(place));
}

class alignas(64) ClassSpans {
 public:
  // `region`: the first byte of slot 0.
  ClassSpans(uint8_t class_number, SpanTable& table, std::byte* region)
      : number_(class_number), table_(table), region_(region) {
    lists_.fill(kNoSlot);
  }

  // What Zpool::Stats sums up.
  struct Stats {
    uint64_t objects = 0;
    uint64_t live_bytes = 0;
    uint64_t reclaimable_bytes = 0;
  };

  const SizeClass& shape() const { return kSizeClassTable.classes[number_]; }
  size_t span_bytes() const { return shape().span_pages * kPageBytes; }

  // The slot of a span with room, of the fullest group that there is, or kNoSlot.
  uint32_t FullestLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  // Makes the slot, fresh from the table, an empty span of this class. Take a place in it before
  // unlocking.
  void AddSpanLocked(uint32_t slot) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);

  // Takes a place for an object in a span with room; returns its granule in the region.
  uint64_t TakePlaceLocked(uint32_t slot, size_t object_bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  // Takes the place at `granule` back. True if its span is empty now, on no list, and the caller's
  // to give back.
  bool ReturnPlaceLocked(uint64_t granule, size_t object_bytes)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);

  // Keeps the memory of a victim while one of its objects is being copied.
  void PinVictimLocked(uint32_t slot) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  // The reverse. True as for ReturnPlaceLocked.
  bool UnpinVictimLocked(uint32_t slot) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);

  // Makes victims of up to `most_spans` spans of a fullness group, as long as what lives in all
  // victims fits the free places of the other spans. Returns how many.
  size_t ChooseVictimsLocked(unsigned group, size_t most_spans)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  // Makes up to `most_spans` victims ordinary again. Returns how many.
  size_t RestoreVictimsLocked(size_t most_spans) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);

  Stats StatsLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);

  mutable Mutex mutex;

 private:
  static constexpr unsigned kVictimList = kFullnessGroups;

  unsigned GroupOf(unsigned live) const {
    return live * kFullnessGroups / shape().objects_per_span;
  }
  SpanState OrdinaryState(unsigned live) const;
  void SetLiveLocked(uint32_t slot, unsigned live) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  bool LeaveVictimLocked(uint32_t slot) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void LinkLocked(uint32_t slot, unsigned list) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void UnlinkLocked(uint32_t slot, unsigned list) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);

  const uint8_t number_;
  SpanTable& table_;
  std::byte* const region_;

  // The first span of each fullness group, then the first victim.
  std::array<uint32_t, kFullnessGroups + 1> lists_ ABSL_GUARDED_BY(mutex);
  uint64_t free_places_ ABSL_GUARDED_BY(mutex) = 0;     // in spans that are no victims
  uint64_t victim_objects_ ABSL_GUARDED_BY(mutex) = 0;  // in victims, with the copies being made
  uint64_t objects_ ABSL_GUARDED_BY(mutex) = 0;
  uint64_t live_bytes_ ABSL_GUARDED_BY(mutex) = 0;
};

}  // namespace zmem
