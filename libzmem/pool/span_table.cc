#include "libzmem/pool/span_table.h"

#include "libzmem/base/check.h"
#include "libzmem/base/page.h"

namespace zmem {
namespace {

uint64_t WholePages(uint64_t slots) {
  return (slots * sizeof(Span) + kPageBytes - 1) / kPageBytes * kPageBytes;
}

}  // namespace

absl::StatusOr<std::unique_ptr<SpanTable>> SpanTable::Create(uint32_t slots) {
  auto spans = SharedRegion::Create("zmem-spans", WholePages(slots));
  if (!spans.ok()) return spans.status();
  return std::unique_ptr<SpanTable>(new SpanTable(*std::move(spans), slots));
}

uint32_t SpanTable::Take() {
  MutexLock lock(mutex_);
  if (first_free_ == kNoSlot) return used_ < slots_ ? used_++ : kNoSlot;
  uint32_t slot = first_free_;
  ZMEM_CHECK(At(slot).state() == SpanState::kFreeSlot);
  first_free_ = At(slot).next;
  return slot;
}

void SpanTable::Return(uint32_t slot) {
  MutexLock lock(mutex_);
  Span& span = At(slot);
  bool was_victim = span.state() == SpanState::kEmptyVictim;
  ZMEM_CHECK(was_victim || span.state() == SpanState::kEmpty);
  span.set_state(SpanState::kFreeSlot);
  uint32_t& first = was_victim && in_round_ ? first_resting_ : first_free_;
  span.next = first;
  first = slot;
}

bool SpanTable::Keep(uint32_t slot, size_t pages, uint64_t most_pages) {
  MutexLock lock(mutex_);
  Span& span = At(slot);
  if (span.state() != SpanState::kEmpty || kept_pages() + pages > most_pages) return false;
  span.set_state(SpanState::kKept);
  span.next = first_kept_[pages];
  first_kept_[pages] = slot;
  kept_pages_.store(kept_pages() + pages, std::memory_order_relaxed);
  return true;
}

uint32_t SpanTable::TakeKept(size_t pages) {
  if (kept_pages() == 0) return kNoSlot;
  MutexLock lock(mutex_);
  return PopKeptLocked(pages);
}

size_t SpanTable::TakeKept(std::span<KeptSpan> out) {
  MutexLock lock(mutex_);
  size_t taken = 0;
  for (size_t pages = 1; pages <= kMaxSpanPages; ++pages) {
    while (taken < out.size() && first_kept_[pages] != kNoSlot) {
      out[taken++] = {PopKeptLocked(pages), static_cast<uint32_t>(pages)};
    }
  }
  return taken;
}

uint32_t SpanTable::PopKeptLocked(size_t pages) {
  uint32_t slot = first_kept_[pages];
  if (slot == kNoSlot) return kNoSlot;
  ZMEM_CHECK(At(slot).state() == SpanState::kKept);
  first_kept_[pages] = At(slot).next;
  At(slot).set_state(SpanState::kEmpty);
  kept_pages_.store(kept_pages() - pages, std::memory_order_relaxed);
  return slot;
}

void SpanTable::StartRound() {
  MutexLock lock(mutex_);
  in_round_ = true;
}

void SpanTable::EndRound() {
  MutexLock lock(mutex_);
  in_round_ = false;
  while (first_resting_ != kNoSlot) {
    uint32_t slot = first_resting_;
    first_resting_ = At(slot).next;
    At(slot).next = first_free_;
    first_free_ = slot;
  }
}

uint64_t SpanTable::metadata_bytes() const {
  MutexLock lock(mutex_);
  return sizeof *this + WholePages(used_);
}

}  // namespace zmem
