#include "libzmem/pool/class_spans.h"

#include "libzmem/base/check.h"
#include "libzmem/pool/zpool.h"

namespace zmem {
namespace {

constexpr size_t kGranulesPerSlot = kSpanSlotBytes / kPoolGranuleBytes;

static_assert(kSizeStepBytes == kPoolGranuleBytes);
static_assert(kMaxSpanPages * kPageBytes <= kSpanSlotBytes);
static_assert(kGranulesPerSlot < kNoGranule);

}  // namespace

uint32_t ClassSpans::FullestLocked() const {
  for (unsigned group = kFullnessGroups; group-- > 0;) {
    if (lists_[group] != kNoSlot) return lists_[group];
  }
  return kNoSlot;
}

void ClassSpans::AddSpanLocked(uint32_t slot) {
  Span& span = table_.At(slot);
  span.next = kNoSlot;
  span.prev = kNoSlot;
  span.live = 0;
  span.first_free = kNoGranule;
  span.first_fresh = 0;
  span.class_number = number_;
  span.set_state(SpanState::kEmpty);
  free_places_ += shape().objects_per_span;
}

uint64_t ClassSpans::TakePlaceLocked(uint32_t slot, size_t object_bytes) {
  Span& span = table_.At(slot);
  uint64_t slot_granule = uint64_t{slot} * kGranulesPerSlot;
  uint16_t granule = span.first_free;
  if (granule != kNoGranule) {
    std::byte* place = region_ + (slot_granule + granule) * kPoolGranuleBytes;
    span.first_free = FreeLinkAt(place).load(std::memory_order_relaxed);
  } else {
    granule = span.first_fresh;
    span.first_fresh += shape().object_bytes / kPoolGranuleBytes;
  }
  SetLiveLocked(slot, span.live + 1u);
  --free_places_;
  ++objects_;
  live_bytes_ += object_bytes;
  return slot_granule + granule;
}

bool ClassSpans::ReturnPlaceLocked(uint64_t granule, size_t object_bytes) {
  auto slot = static_cast<uint32_t>(granule / kGranulesPerSlot);
  auto in_span = static_cast<uint16_t>(granule % kGranulesPerSlot);
  Span& span = table_.At(slot);
  SpanState state = span.state();
  bool is_victim = state == SpanState::kVictim;
  ZMEM_CHECK(is_victim || state == SpanState::kPartial || state == SpanState::kFull);
  ZMEM_CHECK(span.class_number == number_);
  ZMEM_CHECK(in_span < span.first_fresh &&
             in_span % (shape().object_bytes / kPoolGranuleBytes) == 0);
  FreeLinkAt(region_ + granule * kPoolGranuleBytes)
      .store(span.first_free, std::memory_order_relaxed);
  span.first_free = in_span;
  --objects_;
  live_bytes_ -= object_bytes;
  if (is_victim) return LeaveVictimLocked(slot);
  ++free_places_;
  SetLiveLocked(slot, span.live - 1u);
  if (span.live > 0) return false;
  free_places_ -= shape().objects_per_span;
  return true;
}

void ClassSpans::PinVictimLocked(uint32_t slot) {
  Span& span = table_.At(slot);
  ZMEM_CHECK(span.state() == SpanState::kVictim && span.class_number == number_);
  ++span.live;
  ++victim_objects_;
}

bool ClassSpans::UnpinVictimLocked(uint32_t slot) { return LeaveVictimLocked(slot); }

size_t ClassSpans::ChooseVictimsLocked(unsigned group, size_t most_spans) {
  size_t chosen = 0;
  uint32_t& first = lists_[group];
  for (; chosen < most_spans && first != kNoSlot; ++chosen) {
    // A span's own free places are lost with it, and its objects need as many as are left:
    // victim_objects_ + live <= free_places_ - (objects_per_span - live), in which live cancels.
    if (victim_objects_ + shape().objects_per_span > free_places_) break;
    uint32_t slot = first;
    Span& span = table_.At(slot);
    UnlinkLocked(slot, group);
    LinkLocked(slot, kVictimList);
    span.set_state(SpanState::kVictim);
    free_places_ -= shape().objects_per_span - span.live;
    victim_objects_ += span.live;
  }
  return chosen;
}

size_t ClassSpans::RestoreVictimsLocked(size_t most_spans) {
  size_t restored = 0;
  for (; restored < most_spans && lists_[kVictimList] != kNoSlot; ++restored) {
    uint32_t slot = lists_[kVictimList];
    Span& span = table_.At(slot);
    ZMEM_CHECK(OrdinaryState(span.live) == SpanState::kPartial);
    UnlinkLocked(slot, kVictimList);
    LinkLocked(slot, GroupOf(span.live));
    span.set_state(SpanState::kPartial);
    free_places_ += shape().objects_per_span - span.live;
    victim_objects_ -= span.live;
  }
  return restored;
}

ClassSpans::Stats ClassSpans::StatsLocked() const {
  uint64_t spare_spans = 0;
  if (free_places_ > victim_objects_) {
    spare_spans = (free_places_ - victim_objects_) / shape().objects_per_span;
  }
  return {.objects = objects_,
          .live_bytes = live_bytes_,
          .reclaimable_bytes = spare_spans * span_bytes()};
}

SpanState ClassSpans::OrdinaryState(unsigned live) const {
  if (live == 0) return SpanState::kEmpty;
  return live == shape().objects_per_span ? SpanState::kFull : SpanState::kPartial;
}

// The one way in which a span changes between empty, partial and full, and between groups.
void ClassSpans::SetLiveLocked(uint32_t slot, unsigned live) {
  Span& span = table_.At(slot);
  SpanState old_state = span.state();
  ZMEM_CHECK(old_state == OrdinaryState(span.live) && live <= shape().objects_per_span);
  unsigned old_group = GroupOf(span.live);
  unsigned group = GroupOf(live);
  SpanState state = OrdinaryState(live);
  bool moves = old_group != group || old_state != state;
  if (moves && old_state == SpanState::kPartial) UnlinkLocked(slot, old_group);
  if (moves && state == SpanState::kPartial) LinkLocked(slot, group);
  span.live = static_cast<uint16_t>(live);
  if (state != old_state) span.set_state(state);
}

// An object of a victim is freed, or the copy of one is made. True if the victim is empty now.
bool ClassSpans::LeaveVictimLocked(uint32_t slot) {
  Span& span = table_.At(slot);
  --span.live;
  --victim_objects_;
  if (span.live > 0) return false;
  UnlinkLocked(slot, kVictimList);
  span.set_state(SpanState::kEmptyVictim);
  return true;
}

void ClassSpans::LinkLocked(uint32_t slot, unsigned list) {
  uint32_t& first = lists_[list];
  table_.At(slot).prev = kNoSlot;
  table_.At(slot).next = first;
  if (first != kNoSlot) table_.At(first).prev = slot;
  first = slot;
}

void ClassSpans::UnlinkLocked(uint32_t slot, unsigned list) {
  const Span& span = table_.At(slot);
  if (span.next != kNoSlot) table_.At(span.next).prev = span.prev;
  (span.prev != kNoSlot ? table_.At(span.prev).next : lists_[list]) = span.next;
}

}  // namespace zmem
