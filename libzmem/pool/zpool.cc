// Invariants:
//  1. A live object's bytes are its owner's alone; a free one's belong to its class's lock.
//  2. A span is on a list of its class exactly when it is partial, in the group its fullness says,
//     or a victim.
//  3. A free slot holds no memory. Its pages are discarded before the table gets it back, as a
//     later discard would wipe the objects of the next span there. A kept span's slot holds the
//     memory of its last span, with whatever bytes.
//  4. held_bytes counts a span from before its first page is touched until after its pages are
//     gone.
//  5. Between ChooseVictims and EndRound no byte of a victim is written but the links of objects
//     that are freed, and its slot is not used again.
// Lock order: a class's mutex, then the table's; giving_back_, then the table's.
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
#include "libzmem/pool/class_spans.h"
#include "libzmem/pool/size_class.h"
#include "libzmem/pool/span_table.h"

namespace zmem {
namespace {

constexpr uint64_t kMaxReservedBytes = uint64_t{1} << 40;
// Victims that are chosen or restored under one lock, so that faults do not wait for long.
constexpr size_t kSpansPerLock = 64;

static_assert(kMaxReservedBytes / kPoolGranuleBytes == uint64_t{1} << kZHandleBits);
static_assert(kMaxReservedBytes / kSpanSlotBytes < kNoSlot);

uint32_t SlotOf(ZHandle handle) {
  return static_cast<uint32_t>(handle.granule / (kSpanSlotBytes / kPoolGranuleBytes));
}

// Copies an object that may be freed meanwhile, which writes its link and nothing else.
void CopyVictimObject(std::byte* object, size_t object_bytes, std::byte* copy) {
  uint16_t start = FreeLinkAt(object).load(std::memory_order_relaxed);
  size_t start_bytes = std::min(sizeof start, object_bytes);
  std::memcpy(copy, &start, start_bytes);
  std::memcpy(copy + start_bytes, object + start_bytes, object_bytes - start_bytes);
}

}  // namespace

class Zpool::Impl {
 public:
  Impl(SharedRegion objects, std::unique_ptr<SpanTable> table, const Options& options)
      : keep_divisor_(options.keep_divisor),
        objects_(std::move(objects)),
        table_(std::move(table)),
        classes_(MakeClasses(std::make_index_sequence<kSizeClasses>())),
        limit_bytes_(options.limit_bytes) {}

  std::optional<ZHandle> Put(std::span<const std::byte> object, Limit limit) {
    ZMEM_CHECK(!object.empty() && object.size() <= kPageBytes);
    std::optional<uint64_t> granule = TakeObject(object.size(), limit);
    // What is kept may be in the way, or another thread is just giving it back.
    for (bool is_kept = keep_divisor_ != 0; !granule && is_kept;) {
      is_kept = GiveBackSome() != 0;
      granule = TakeObject(object.size(), limit);
    }
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
    ZMEM_CHECK(SlotOf(handle) < table_->slots());
    ClassSpans& own = classes_[SizeClassOf(object_bytes)];
    bool is_empty;
    {
      MutexLock lock(own.mutex);
      is_empty = own.ReturnPlaceLocked(handle.granule, object_bytes);
    }
    uint32_t pages = own.shape().span_pages;
    if (is_empty && !table_->Keep(SlotOf(handle), pages, most_kept_pages())) {
      GiveBack({{{SlotOf(handle), pages}}});
    }
  }

  void GiveBackEmpty() {
    uint64_t most_pages = table_->kept_pages();
    for (uint64_t given_pages = 0; given_pages < most_pages;) {
      uint64_t pages = GiveBackSome();
      if (pages == 0) return;
      given_pages += pages;
    }
  }

  size_t ChooseVictims(size_t most_spans) {
    table_->StartRound();
    size_t chosen = 0;
    for (unsigned group = 0; group < kFullnessGroups; ++group) {
      for (ClassSpans& own : classes_) {
        chosen += InBatches(most_spans - chosen, [&](size_t most) {
          MutexLock lock(own.mutex);
          return own.ChooseVictimsLocked(group, most);
        });
      }
    }
    return chosen;
  }

  bool IsVictim(ZHandle handle) const {
    ZMEM_CHECK(SlotOf(handle) < table_->slots());
    return table_->At(SlotOf(handle)).state() == SpanState::kVictim;
  }

  std::optional<ZHandle> Move(ZHandle handle, size_t object_bytes) {
    ZMEM_CHECK(object_bytes >= 1 && object_bytes <= kPageBytes);
    ClassSpans& own = classes_[SizeClassOf(object_bytes)];
    uint32_t victim = SlotOf(handle);
    uint64_t granule;
    {
      MutexLock lock(own.mutex);
      uint32_t slot = own.FullestLocked();
      if (slot == kNoSlot || !IsVictim(handle)) return std::nullopt;
      // Reading a page that the kernel has back would take it anew, for nobody.
      own.PinVictimLocked(victim);
      granule = own.TakePlaceLocked(slot, object_bytes);
    }
    CopyVictimObject(BytesAt(handle.granule), object_bytes, BytesAt(granule));
    bool is_empty;
    {
      MutexLock lock(own.mutex);
      is_empty = own.UnpinVictimLocked(victim);
    }
    if (is_empty) GiveBack({{{victim, own.shape().span_pages}}});
    return ZHandle{granule};
  }

  void EndRound() {
    for (ClassSpans& own : classes_) {
      InBatches(table_->slots(), [&](size_t most) {
        MutexLock lock(own.mutex);
        return own.RestoreVictimsLocked(most);
      });
    }
    table_->EndRound();
  }

  void set_limit_bytes(uint64_t limit_bytes) {
    limit_bytes_.store(limit_bytes, std::memory_order_relaxed);
  }

  uint64_t held_bytes() const { return held_bytes_.load(std::memory_order_relaxed); }
  uint64_t used_bytes() const {
    uint64_t held = held_bytes();
    return held - std::min(table_->kept_pages() * kPageBytes, held);
  }
  uint64_t limit_bytes() const { return limit_bytes_.load(std::memory_order_relaxed); }

  Stats stats() const {
    Stats stats;
    for (const ClassSpans& own : classes_) {
      MutexLock lock(own.mutex);
      ClassSpans::Stats own_stats = own.StatsLocked();
      stats.objects += own_stats.objects;
      stats.live_bytes += own_stats.live_bytes;
      stats.reclaimable_bytes += own_stats.reclaimable_bytes;
    }
    stats.held_bytes = held_bytes_.load(std::memory_order_relaxed);
    stats.max_held_bytes = max_held_bytes_.load(std::memory_order_relaxed);
    stats.kept_bytes = table_->kept_pages() * kPageBytes;
    stats.metadata_bytes = sizeof *this + table_->metadata_bytes();
    stats.limit_bytes = limit_bytes_.load(std::memory_order_relaxed);
    stats.limit_rejects = limit_rejects_.load(std::memory_order_relaxed);
    return stats;
  }

 private:
  template <size_t... kNumbers>
  std::array<ClassSpans, kSizeClasses> MakeClasses(std::index_sequence<kNumbers...>) {
    return {ClassSpans(kNumbers, *table_, objects_.data())...};
  }

  std::byte* BytesAt(uint64_t granule) const {
    return objects_.data() + granule * kPoolGranuleBytes;
  }

  // Calls `work` with how many spans it may do at most, until it does fewer or `most_spans` are
  // done. Returns how many are.
  template <typename Work>
  static size_t InBatches(size_t most_spans, Work work) {
    size_t done = 0;
    while (done < most_spans) {
      size_t batch = std::min(most_spans - done, kSpansPerLock);
      size_t done_now = work(batch);
      done += done_now;
      if (done_now < batch) break;
    }
    return done;
  }

  // Takes a place for one object and returns its granule, or nullopt if there is none.
  std::optional<uint64_t> TakeObject(size_t object_bytes, Limit limit) {
    if (limit == Limit::kRespect && held_bytes_.load(std::memory_order_relaxed) >
                                        limit_bytes_.load(std::memory_order_relaxed)) {
      return std::nullopt;
    }
    ClassSpans& own = classes_[SizeClassOf(object_bytes)];
    MutexLock lock(own.mutex);
    uint32_t slot = own.FullestLocked();
    if (slot == kNoSlot) {
      slot = table_->TakeKept(own.shape().span_pages);
      if (slot == kNoSlot) slot = TakeSlot(own.span_bytes(), limit);
      if (slot == kNoSlot) return std::nullopt;
      own.AddSpanLocked(slot);
    }
    return own.TakePlaceLocked(slot, object_bytes);
  }

  // A slot for a span that counts as held from now on; kNoSlot if there is no room.
  uint32_t TakeSlot(uint64_t span_bytes, Limit limit) {
    if (limit == Limit::kExceed) {
      NoteHeld(held_bytes_.fetch_add(span_bytes, std::memory_order_relaxed) + span_bytes);
    } else if (!ReserveHeld(span_bytes)) {
      return kNoSlot;
    }
    uint32_t slot = table_->Take();
    if (slot == kNoSlot) held_bytes_.fetch_sub(span_bytes, std::memory_order_relaxed);
    return slot;
  }

  uint64_t most_kept_pages() const {
    return keep_divisor_ == 0 ? 0 : limit_bytes() / keep_divisor_ / kPageBytes;
  }

  // Gives some of the kept spans back, and returns their pages; 0 if none is kept. What another
  // thread has begun is done when it returns.
  uint64_t GiveBackSome() {
    MutexLock lock(giving_back_);
    std::array<SpanTable::KeptSpan, kSpansPerLock> spans;
    auto taken = std::span(spans).first(table_->TakeKept(spans));
    std::sort(taken.begin(), taken.end(),
              [](const auto& a, const auto& b) { return a.slot < b.slot; });
    uint64_t pages = 0;
    for (auto first = taken.begin(); first != taken.end();) {
      auto end = first;
      do {
        pages += end->pages;
        ++end;
      } while (end != taken.end() && end->slot == (end - 1)->slot + 1);
      GiveBack({first, end});
      first = end;
    }
    return pages;
  }

  // Gives the memory of empty spans in neighbouring slots back, then their slots.
  void GiveBack(std::span<const SpanTable::KeptSpan> spans) {
    uint64_t start = uint64_t{spans.front().slot} << kSpanSlotShift;
    uint64_t end =
        (uint64_t{spans.back().slot} << kSpanSlotShift) + spans.back().pages * kPageBytes;
    // If the kernel keeps the pages, they stay counted and the slots stay out of use: the pool
    // shrinks, and its figures stay true.
    if (objects_.Discard(start, end - start) != 0) return;
    for (const SpanTable::KeptSpan& span : spans) {
      held_bytes_.fetch_sub(span.pages * kPageBytes, std::memory_order_relaxed);
      table_->Return(span.slot);
    }
  }

  bool ReserveHeld(uint64_t bytes) {
    uint64_t held = held_bytes_.load(std::memory_order_relaxed);
    do {
      uint64_t limit = limit_bytes_.load(std::memory_order_relaxed);
      if (held > limit || bytes > limit - held) return false;
    } while (!held_bytes_.compare_exchange_weak(held, held + bytes, std::memory_order_relaxed));
    NoteHeld(held + bytes);
    return true;
  }

  void NoteHeld(uint64_t held) {
    uint64_t most = max_held_bytes_.load(std::memory_order_relaxed);
    while (most < held &&
           !max_held_bytes_.compare_exchange_weak(most, held, std::memory_order_relaxed)) {
    }
  }

  const uint64_t keep_divisor_;
  Mutex giving_back_;  // is held while kept spans go back to the kernel

  const SharedRegion objects_;
  const std::unique_ptr<SpanTable> table_;
  std::array<ClassSpans, kSizeClasses> classes_;

  std::atomic<uint64_t> held_bytes_{0};
  std::atomic<uint64_t> max_held_bytes_{0};
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
  auto table = SpanTable::Create(static_cast<uint32_t>(reserved_bytes >> kSpanSlotShift));
  if (!table.ok()) return table.status();
  return std::unique_ptr<Zpool>(
      new Zpool(std::make_unique<Impl>(*std::move(objects), *std::move(table), options)));
}

Zpool::Zpool(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Zpool::~Zpool() = default;

std::optional<ZHandle> Zpool::Put(std::span<const std::byte> object, Limit limit) {
  return impl_->Put(object, limit);
}
std::span<const std::byte> Zpool::Get(ZHandle handle, size_t object_bytes) const {
  return impl_->Get(handle, object_bytes);
}
void Zpool::Free(ZHandle handle, size_t object_bytes) { impl_->Free(handle, object_bytes); }
void Zpool::GiveBackEmpty() { impl_->GiveBackEmpty(); }
size_t Zpool::ChooseVictims(size_t most_spans) { return impl_->ChooseVictims(most_spans); }
bool Zpool::IsVictim(ZHandle handle) const { return impl_->IsVictim(handle); }
std::optional<ZHandle> Zpool::Move(ZHandle handle, size_t object_bytes) {
  return impl_->Move(handle, object_bytes);
}
void Zpool::EndRound() { impl_->EndRound(); }
uint64_t Zpool::held_bytes() const { return impl_->held_bytes(); }
uint64_t Zpool::used_bytes() const { return impl_->used_bytes(); }
uint64_t Zpool::limit_bytes() const { return impl_->limit_bytes(); }
void Zpool::set_limit_bytes(uint64_t limit_bytes) { impl_->set_limit_bytes(limit_bytes); }
Zpool::Stats Zpool::stats() const { return impl_->stats(); }

}  // namespace zmem
