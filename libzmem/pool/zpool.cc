// Invariants:
//  1. A live object's bytes are its owner's alone; a free one's belong to its class's lock.
//  2. A span is on its class's list exactly when it is partial, in the group its fullness says.
//  3. A free slot holds no memory. Its pages are discarded before it is put on the free list, as a
//     later discard would wipe the objects of the next span there.
//  4. held_bytes counts a span from before its first page is touched until after its pages are
//  gone.
// Lock order: a class's mutex, then slots_mutex_.
#include "libzmem/pool/zpool.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "libzmem/base/check.h"
#include "libzmem/base/mutex.h"
#include "libzmem/base/shared_region.h"
#include "libzmem/pool/size_class.h"

namespace zmem {
namespace {

constexpr uint64_t kMaxReservedBytes = uint64_t{1} << 40;
constexpr size_t kGranulesPerSlot = kSpanSlotBytes / kPoolGranuleBytes;
constexpr uint32_t kNoSlot = ~uint32_t{0};
constexpr uint16_t kNoGranule = 0xffff;

// Partial spans are grouped by eighths of fullness, and the fullest group is used up first, so that
// sparse spans drain. Groups, not an order, keep it O(1).
constexpr unsigned kFullnessGroups = 8;

static_assert(kSizeStepBytes == kPoolGranuleBytes);
static_assert(kMaxSpanPages * kPageBytes == kSpanSlotBytes);
static_assert(kMaxReservedBytes / kPoolGranuleBytes == uint64_t{1} << kZHandleBits);
static_assert(kMaxReservedBytes / kSpanSlotBytes < kNoSlot);
static_assert(kGranulesPerSlot < kNoGranule);

// What a slot holds, and who may touch its Span.
enum class SpanState : uint8_t {
  kUnused = 0,  // never a span, all zeros; slots_mutex_
  kFreeSlot,    // linked into the free slots; slots_mutex_
  kEmpty,       // no live object, on no list; the thread that took it or freed its last object
  kPartial,     // live and free objects, on a list of its class; the class's mutex
  kFull,        // live objects only, on no list; the class's mutex
};

// The metadata of a slot. Free objects are linked through their first two bytes, by the granule in
// the span at which the next one starts.
struct Span {
  uint32_t next;         // slot after this one on its list
  uint32_t prev;         // slot before this one; not used on the list of free slots
  uint16_t live;         // objects
  uint16_t first_free;   // granule of the object freed last, or kNoGranule
  uint16_t first_fresh;  // granule from which on no object ever was; its pages are untouched
  uint8_t class_number;
  SpanState state;
};
static_assert(sizeof(Span) == 16);

uint64_t MetadataBytes(uint64_t slots) {
  return (slots * sizeof(Span) + kPageBytes - 1) / kPageBytes * kPageBytes;
}

// The group of a span with `live` objects; kFullnessGroups if it is full.
unsigned FullnessGroup(const SizeClass& shape, unsigned live) {
  return live * kFullnessGroups / shape.objects_per_span;
}

SpanState StateOf(const SizeClass& shape, unsigned live) {
  if (live == 0) return SpanState::kEmpty;
  return live == shape.objects_per_span ? SpanState::kFull : SpanState::kPartial;
}

}  // namespace

class Zpool::Impl {
 public:
  Impl(SharedRegion objects, SharedRegion spans, uint64_t limit_bytes)
      : objects_(std::move(objects)),
        spans_(std::move(spans)),
        slots_(static_cast<uint32_t>(objects_.reserved_bytes() >> kSpanSlotShift)),
        limit_bytes_(limit_bytes) {}

  std::optional<ZHandle> Put(std::span<const std::byte> object) {
    ZMEM_CHECK(!object.empty() && object.size() <= kPageBytes);
    std::optional<uint64_t> granule = TakeObject(object.size());
    if (!granule) {
      limit_rejects_.fetch_add(1, std::memory_order_relaxed);
      return std::nullopt;
    }
    std::memcpy(BytesAt(*granule), object.data(), object.size());
    return ZHandle{*granule};
  }

  std::span<const std::byte> Get(ZHandle handle, size_t object_bytes) const {
    return {BytesAt(handle.granule), object_bytes};
  }

  void Free(ZHandle handle, size_t object_bytes) {
    ZMEM_CHECK(object_bytes >= 1 && object_bytes <= kPageBytes);
    auto slot = static_cast<uint32_t>(handle.granule / kGranulesPerSlot);
    ZMEM_CHECK(slot < slots_);
    size_t number = SizeClassOf(object_bytes);
    bool is_empty;
    {
      Class& own = classes_[number];
      MutexLock lock(own.mutex);
      ReturnObjectLocked(own, number, handle.granule);
      --own.objects;
      own.live_bytes -= object_bytes;
      is_empty = SpanAt(slot).state == SpanState::kEmpty;
    }
    if (is_empty) GiveBack(slot, kSizeClassTable.classes[number]);
  }

  void set_limit_bytes(uint64_t limit_bytes) {
    limit_bytes_.store(limit_bytes, std::memory_order_relaxed);
  }

  Stats stats() const {
    Stats stats;
    for (const Class& own : classes_) {
      MutexLock lock(own.mutex);
      stats.objects += own.objects;
      stats.live_bytes += own.live_bytes;
    }
    {
      MutexLock lock(slots_mutex_);
      stats.metadata_bytes = sizeof *this + MetadataBytes(slots_used_);
    }
    stats.held_bytes = held_bytes_.load(std::memory_order_relaxed);
    stats.limit_bytes = limit_bytes_.load(std::memory_order_relaxed);
    stats.limit_rejects = limit_rejects_.load(std::memory_order_relaxed);
    return stats;
  }

 private:
  struct alignas(64) Class {
    Class() { partial.fill(kNoSlot); }

    mutable Mutex mutex;
    // The first span of each fullness group.
    std::array<uint32_t, kFullnessGroups> partial ABSL_GUARDED_BY(mutex);
    uint64_t objects ABSL_GUARDED_BY(mutex) = 0;
    uint64_t live_bytes ABSL_GUARDED_BY(mutex) = 0;
  };

  Span& SpanAt(uint32_t slot) const { return reinterpret_cast<Span*>(spans_.data())[slot]; }
  std::byte* BytesAt(uint64_t granule) const {
    return objects_.data() + granule * kPoolGranuleBytes;
  }

  // Reserves room for one object and returns its granule, or nullopt if there is none.
  std::optional<uint64_t> TakeObject(size_t object_bytes) {
    size_t number = SizeClassOf(object_bytes);
    Class& own = classes_[number];
    MutexLock lock(own.mutex);
    uint32_t slot = FullestPartialLocked(own);
    if (slot == kNoSlot) slot = NewSpan(number);
    if (slot == kNoSlot) return std::nullopt;
    Span& span = SpanAt(slot);
    uint64_t slot_granule = uint64_t{slot} * kGranulesPerSlot;
    uint16_t granule = span.first_free;
    if (granule != kNoGranule) {
      std::memcpy(&span.first_free, BytesAt(slot_granule + granule), sizeof span.first_free);
    } else {
      granule = span.first_fresh;
      span.first_fresh += kSizeClassTable.classes[number].object_bytes / kPoolGranuleBytes;
    }
    SetLiveLocked(own, slot, span.live + 1u);
    ++own.objects;
    own.live_bytes += object_bytes;
    return slot_granule + granule;
  }

  void ReturnObjectLocked(Class& own, size_t number, uint64_t object_granule)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(own.mutex) {
    auto slot = static_cast<uint32_t>(object_granule / kGranulesPerSlot);
    auto granule = static_cast<uint16_t>(object_granule % kGranulesPerSlot);
    Span& span = SpanAt(slot);
    ZMEM_CHECK(span.state == SpanState::kPartial || span.state == SpanState::kFull);
    ZMEM_CHECK(span.class_number == number);
    size_t step = kSizeClassTable.classes[number].object_bytes / kPoolGranuleBytes;
    ZMEM_CHECK(granule < span.first_fresh && granule % step == 0);
    std::memcpy(BytesAt(object_granule), &span.first_free, sizeof span.first_free);
    span.first_free = granule;
    SetLiveLocked(own, slot, span.live - 1u);
  }

  static uint32_t FullestPartialLocked(const Class& own) ABSL_EXCLUSIVE_LOCKS_REQUIRED(own.mutex) {
    auto has_span = [](uint32_t first) { return first != kNoSlot; };
    auto fullest = std::find_if(own.partial.rbegin(), own.partial.rend(), has_span);
    return fullest == own.partial.rend() ? kNoSlot : *fullest;
  }

  // The one way in which a span changes between empty, partial and full, and between groups.
  void SetLiveLocked(Class& own, uint32_t slot, unsigned live)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(own.mutex) {
    Span& span = SpanAt(slot);
    const SizeClass& shape = kSizeClassTable.classes[span.class_number];
    ZMEM_CHECK(span.state == StateOf(shape, span.live) && live <= shape.objects_per_span);
    unsigned old_group = FullnessGroup(shape, span.live);
    unsigned group = FullnessGroup(shape, live);
    SpanState state = StateOf(shape, live);
    bool moves = old_group != group || span.state != state;
    if (moves && span.state == SpanState::kPartial) UnlinkLocked(own, slot, old_group);
    if (moves && state == SpanState::kPartial) LinkLocked(own, slot, group);
    span.live = static_cast<uint16_t>(live);
    span.state = state;
  }

  void LinkLocked(Class& own, uint32_t slot, unsigned group)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(own.mutex) {
    uint32_t& first = own.partial[group];
    SpanAt(slot).prev = kNoSlot;
    SpanAt(slot).next = first;
    if (first != kNoSlot) SpanAt(first).prev = slot;
    first = slot;
  }

  void UnlinkLocked(Class& own, uint32_t slot, unsigned group)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(own.mutex) {
    const Span& span = SpanAt(slot);
    if (span.next != kNoSlot) SpanAt(span.next).prev = span.prev;
    (span.prev != kNoSlot ? SpanAt(span.prev).next : own.partial[group]) = span.next;
  }

  // An empty span of class `number`, counted as held; kNoSlot at the limit.
  uint32_t NewSpan(size_t number) {
    uint64_t span_bytes = kSizeClassTable.classes[number].span_pages * kPageBytes;
    if (!ReserveHeld(span_bytes)) return kNoSlot;
    uint32_t slot = TakeSlot();
    if (slot == kNoSlot) {
      held_bytes_.fetch_sub(span_bytes, std::memory_order_relaxed);
      return kNoSlot;
    }
    SpanAt(slot) = {.next = kNoSlot,
                    .prev = kNoSlot,
                    .live = 0,
                    .first_free = kNoGranule,
                    .first_fresh = 0,
                    .class_number = static_cast<uint8_t>(number),
                    .state = SpanState::kEmpty};
    return slot;
  }

  // Gives an empty span's memory back, then its slot.
  void GiveBack(uint32_t slot, const SizeClass& shape) {
    uint64_t span_bytes = shape.span_pages * kPageBytes;
    // If the kernel keeps the pages, they stay counted and the slot stays out of use: the pool
    // shrinks, and its figures stay true.
    if (objects_.Discard(uint64_t{slot} << kSpanSlotShift, span_bytes) != 0) return;
    held_bytes_.fetch_sub(span_bytes, std::memory_order_relaxed);
    ReturnSlot(slot);
  }

  bool ReserveHeld(uint64_t bytes) {
    uint64_t held = held_bytes_.load(std::memory_order_relaxed);
    do {
      uint64_t limit = limit_bytes_.load(std::memory_order_relaxed);
      if (held > limit || bytes > limit - held) return false;
    } while (!held_bytes_.compare_exchange_weak(held, held + bytes, std::memory_order_relaxed));
    return true;
  }

  uint32_t TakeSlot() {
    MutexLock lock(slots_mutex_);
    if (first_free_slot_ != kNoSlot) {
      uint32_t slot = first_free_slot_;
      ZMEM_CHECK(SpanAt(slot).state == SpanState::kFreeSlot);
      first_free_slot_ = SpanAt(slot).next;
      return slot;
    }
    return slots_used_ < slots_ ? slots_used_++ : kNoSlot;
  }

  void ReturnSlot(uint32_t slot) {
    MutexLock lock(slots_mutex_);
    ZMEM_CHECK(SpanAt(slot).state == SpanState::kEmpty);
    SpanAt(slot).state = SpanState::kFreeSlot;
    SpanAt(slot).next = first_free_slot_;
    first_free_slot_ = slot;
  }

  const SharedRegion objects_;
  const SharedRegion spans_;  // one Span per slot
  const uint32_t slots_;
  std::array<Class, kSizeClasses> classes_;

  mutable Mutex slots_mutex_;
  uint32_t first_free_slot_ ABSL_GUARDED_BY(slots_mutex_) = kNoSlot;
  uint32_t slots_used_ ABSL_GUARDED_BY(slots_mutex_) = 0;  // slots from here on never were spans

  std::atomic<uint64_t> held_bytes_{0};
  std::atomic<uint64_t> limit_bytes_;
  std::atomic<uint64_t> limit_rejects_{0};
};

absl::StatusOr<std::unique_ptr<Zpool>> Zpool::Create(const Options& options) {
  uint64_t reserved_bytes = options.reserved_bytes;
  if (reserved_bytes == 0 || reserved_bytes % kSpanSlotBytes != 0 ||
      reserved_bytes > kMaxReservedBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("the pool's reserved space must be a multiple of ", kSpanSlotBytes,
                     " bytes and at most ", kMaxReservedBytes, ", not ", reserved_bytes));
  }
  auto objects = SharedRegion::Create("zmem-pool", reserved_bytes);
  if (!objects.ok()) return objects.status();
  auto spans = SharedRegion::Create("zmem-spans", MetadataBytes(reserved_bytes >> kSpanSlotShift));
  if (!spans.ok()) return spans.status();
  return std::unique_ptr<Zpool>(new Zpool(
      std::make_unique<Impl>(*std::move(objects), *std::move(spans), options.limit_bytes)));
}

Zpool::Zpool(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Zpool::~Zpool() = default;

std::optional<ZHandle> Zpool::Put(std::span<const std::byte> object) { return impl_->Put(object); }
std::span<const std::byte> Zpool::Get(ZHandle handle, size_t object_bytes) const {
  return impl_->Get(handle, object_bytes);
}
void Zpool::Free(ZHandle handle, size_t object_bytes) { impl_->Free(handle, object_bytes); }
void Zpool::set_limit_bytes(uint64_t limit_bytes) { impl_->set_limit_bytes(limit_bytes); }
Zpool::Stats Zpool::stats() const { return impl_->stats(); }

}  // namespace zmem
