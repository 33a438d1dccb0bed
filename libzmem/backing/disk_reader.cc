#include <errno.h>
#include <poll.h>

#include <algorithm>
#include <cstring>

#include "libzmem/backing/disk_reader_impl.h"
#include "libzmem/backing/disk_record.h"
#include "libzmem/base/check.h"
#include "libzmem/base/sys.h"

namespace zmem {
namespace {

// A disk that fails four times in a row is not going to do better while a program waits.
constexpr unsigned kReadAttempts = 4;

uint64_t BlockStart(uint64_t offset) { return offset & ~uint64_t{kDiskBlockBytes - 1}; }
uint64_t BlockEnd(uint64_t offset) { return BlockStart(offset + kDiskBlockBytes - 1); }

uint64_t EndOf(const BackingCore& core, DiskObject object) {
  return core.OffsetOf(object.handle) + RecordBytes(object.bytes);
}

// Reads whole blocks in this thread. Returns 0 or the errno of the last attempt.
int ReadBlocks(BackingCore& core, uint64_t start, std::span<std::byte> blocks) {
  size_t done = 0;
  unsigned failures = 0;
  while (done < blocks.size()) {
    ssize_t got =
        sys::Pread(core.storage.fd(), blocks.data() + done, blocks.size() - done, start + done);
    size_t got_bytes = got > 0 ? BlockStart(static_cast<uint64_t>(got)) : 0;
    done += got_bytes;
    core.bytes_read.Add(got_bytes);
    if (got_bytes > 0) continue;
    core.io_errors_read.Add(1);
    if (++failures == kReadAttempts) return got < 0 ? static_cast<int>(-got) : EIO;
  }
  return 0;
}

}  // namespace

bool StretchIsReadable(const BackingCore& core, DiskObject first, DiskObject last) {
  uint64_t start = core.OffsetOf(first.handle);
  uint64_t end = EndOf(core, last);
  return end >= EndOf(core, first) && end - start <= kMaxDiskReadBytes &&
         end <= core.storage.size_bytes() &&
         core.SegmentOf(first.handle) == core.SegmentOf(last.handle);
}

DiskReadStatus ReadNow(BackingCore& core, DiskObject object, std::span<std::byte> out, int* error) {
  uint32_t segment = core.SegmentOf(object.handle);
  uint64_t start = core.OffsetOf(object.handle);
  alignas(kDiskBlockBytes) std::byte blocks[2 * kDiskBlockBytes];
  static_assert(kMaxRecordBytes + kDiskBlockBytes - kDiskGranuleBytes <= sizeof blocks);
  uint32_t generation;
  std::optional<SegmentTable::Pinned> pinned;
  {
    MutexLock lock(core.table.mutex);
    generation = core.table.GenerationLocked(segment);
    pinned = core.table.PinLocked(segment);
  }
  auto take = [&](const std::byte* record) {
    if (!IsIntactRecord(record, object.bytes, core.SeedOf(object.handle, generation))) {
      return false;
    }
    std::memcpy(out.data(), record + kRecordHeaderBytes, object.bytes);
    core.reads.Add(1);
    return true;
  };
  if (pinned) {
    bool is_intact = EndOf(core, object) - core.SegmentStart(segment) <= pinned->committed_bytes &&
                     take(pinned->bytes + (start - core.SegmentStart(segment)));
    MutexLock lock(core.table.mutex);
    core.table.UnpinLocked(pinned->buffer);
    if (is_intact) return DiskReadStatus::kOk;
    core.stale_reads.Add(1);
    return DiskReadStatus::kStale;
  }
  DiskReadStatus status = DiskReadStatus::kOk;
  for (int reading = 0; reading < 2; ++reading) {
    auto span = std::span(blocks).first(BlockEnd(EndOf(core, object)) - BlockStart(start));
    if (int failure = ReadBlocks(core, BlockStart(start), span)) {
      if (error != nullptr) *error = failure;
      return DiskReadStatus::kFailed;
    }
    if (take(blocks + (start - BlockStart(start)))) return DiskReadStatus::kOk;
    status = core.JudgeWrongChecksum(segment, generation);
    if (status == DiskReadStatus::kStale) break;
  }
  return status;
}

absl::StatusOr<std::unique_ptr<IoRing>> DiskReader::Impl::NewRing(const BackingCore& core,
                                                                  const AlignedMemory& buffers) {
  std::array<iovec, kSlots> vectors;
  for (unsigned slot = 0; slot < kSlots; ++slot) {
    vectors[slot] = {buffers.data() + slot * kSlotBytes, kSlotBytes};
  }
  return IoRing::Create(kSlots, core.storage.fd(), vectors);
}

DiskReader::Impl::Impl(BackingCore& core, AlignedMemory buffers, std::unique_ptr<IoRing> ring)
    : core_(core), buffers_(std::move(buffers)), ring_(std::move(ring)) {
  core_.reader_bytes.Add(sizeof *this + buffers_.bytes());
}

DiskReader::Impl::~Impl() {
  while (std::any_of(slots_.begin(), slots_.end(),
                     [](const Slot& slot) { return slot.state == SlotState::kReading; })) {
    pollfd readable = {.fd = fd(), .events = POLLIN};
    sys::Poll(&readable, 1, -1);
    ring_->Reap([this](uint32_t tag, int) { slots_[tag].state = SlotState::kIdle; });
  }
  core_.reader_bytes.Subtract(sizeof *this + buffers_.bytes());
}

DiskReader::BeginResult DiskReader::Impl::Begin(const DiskReadRequest& request) {
  ZMEM_CHECK(StretchIsReadable(core_, request.first, request.wanted));
  ZMEM_CHECK(StretchIsReadable(core_, request.wanted, request.last));
  ZMEM_CHECK(StretchIsReadable(core_, request.first, request.last));
  auto idle = std::find_if(slots_.begin(), slots_.end(),
                           [](const Slot& slot) { return slot.state == SlotState::kIdle; });
  if (idle == slots_.end()) return BeginResult::kBusy;
  Slot& slot = *idle;
  uint64_t start = BlockStart(core_.OffsetOf(request.first.handle));
  slot = {.request = request,
          .segment = core_.SegmentOf(request.first.handle),
          .start = start,
          .length = BlockEnd(EndOf(core_, request.last)) - start};
  std::optional<SegmentTable::Pinned> pinned;
  {
    MutexLock lock(core_.table.mutex);
    slot.generation = core_.table.GenerationLocked(slot.segment);
    pinned = core_.table.PinLocked(slot.segment);
  }
  if (!pinned) {
    StartTransfer(slot);
    return slot.state == SlotState::kReady ? BeginResult::kReady : BeginResult::kStarted;
  }
  CopyFromMemory(slot, *pinned);
  {
    MutexLock lock(core_.table.mutex);
    core_.table.UnpinLocked(pinned->buffer);
  }
  // Memory is not damaged: what is not there was freed long ago.
  bool is_intact = IsWantedIntact(slot);
  if (!is_intact) core_.stale_reads.Add(1);
  MakeReady(slot, is_intact ? DiskReadStatus::kOk : DiskReadStatus::kStale, 0);
  return BeginResult::kReady;
}

void DiskReader::Impl::CopyFromMemory(Slot& slot, const SegmentTable::Pinned& pinned) const {
  size_t offset = slot.start - core_.SegmentStart(slot.segment);
  size_t there = pinned.committed_bytes > offset ? pinned.committed_bytes - offset : 0;
  size_t copied = std::min(slot.length, there);
  std::memcpy(BytesOf(slot), pinned.bytes + offset, copied);
  std::memset(BytesOf(slot) + copied, 0, slot.length - copied);
}

void DiskReader::Impl::StartTransfer(Slot& slot) {
  slot.state = SlotState::kReading;
  int error = ring_->Read({.buffer = static_cast<unsigned>(&slot - slots_.data()),
                           .bytes = BytesOf(slot) + slot.done_bytes,
                           .length = slot.length - slot.done_bytes,
                           .offset = slot.start + slot.done_bytes,
                           .tag = static_cast<uint32_t>(&slot - slots_.data())});
  if (error != 0) MakeReady(slot, DiskReadStatus::kFailed, -error);
}

void DiskReader::Impl::OnTransfer(Slot& slot, int result) {
  // What is continued has to start at a block.
  size_t got_bytes = result > 0 ? BlockStart(static_cast<uint64_t>(result)) : 0;
  core_.bytes_read.Add(got_bytes);
  slot.done_bytes += got_bytes;
  if (got_bytes == 0) return OnFailure(slot, result < 0 ? -result : EIO);
  if (slot.done_bytes < slot.length) return StartTransfer(slot);
  JudgeReading(slot);
}

void DiskReader::Impl::OnFailure(Slot& slot, int error) {
  core_.io_errors_read.Add(1);
  if (++slot.failures < kReadAttempts) return StartTransfer(slot);
  MakeReady(slot, DiskReadStatus::kFailed, error);
}

void DiskReader::Impl::JudgeReading(Slot& slot) {
  if (IsWantedIntact(slot)) return MakeReady(slot, DiskReadStatus::kOk, 0);
  DiskReadStatus status = core_.JudgeWrongChecksum(slot.segment, slot.generation);
  if (status == DiskReadStatus::kStale || slot.is_second_reading) {
    return MakeReady(slot, status, 0);
  }
  slot.is_second_reading = true;
  slot.done_bytes = 0;
  StartTransfer(slot);
}

bool DiskReader::Impl::IsWantedIntact(const Slot& slot) const {
  DiskObject wanted = slot.request.wanted;
  return IsIntactRecord(BytesOf(slot) + (core_.OffsetOf(wanted.handle) - slot.start), wanted.bytes,
                        core_.SeedOf(wanted.handle, slot.generation));
}

void DiskReader::Impl::MakeReady(Slot& slot, DiskReadStatus status, int error) {
  slot.state = SlotState::kReady;
  slot.status = status;
  slot.error = error;
}

size_t DiskReader::Impl::Complete(absl::FunctionRef<void(const DiskReadResult&)> take) {
  ring_->Reap([this](uint32_t tag, int result) { OnTransfer(slots_[tag], result); });
  size_t given_out = 0;
  for (Slot& slot : slots_) {
    if (slot.state != SlotState::kReady) continue;
    take(ResultOf(slot));
    slot.state = SlotState::kIdle;
    ++given_out;
  }
  return given_out;
}

DiskReadResult DiskReader::Impl::ResultOf(const Slot& slot) const {
  DiskReadResult result;
  result.cookie = slot.request.cookie;
  result.status = slot.status;
  result.error = slot.error;
  result.core_ = &core_;
  result.generation_ = slot.generation;
  if (slot.status == DiskReadStatus::kOk) {
    result.first_granule_ = slot.start / kDiskGranuleBytes;
    result.stretch_ = {BytesOf(slot), slot.length};
  }
  return result;
}

size_t DiskReader::Impl::in_flight() const {
  return static_cast<size_t>(std::count_if(slots_.begin(), slots_.end(), [](const Slot& slot) {
    return slot.state != SlotState::kIdle;
  }));
}

std::optional<std::span<const std::byte>> DiskReadResult::Record(DiskObject object) const {
  if (object.handle.granule < first_granule_) return std::nullopt;
  size_t offset = (object.handle.granule - first_granule_) * kDiskGranuleBytes;
  if (offset >= stretch_.size() || RecordBytes(object.bytes) > stretch_.size() - offset) {
    return std::nullopt;
  }
  const std::byte* record = stretch_.data() + offset;
  if (!IsIntactRecord(record, object.bytes, core_->SeedOf(object.handle, generation_))) {
    return std::nullopt;
  }
  core_->reads.Add(1);
  return std::span(record + kRecordHeaderBytes, object.bytes);
}

DiskReader::DiskReader(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
DiskReader::~DiskReader() = default;
int DiskReader::fd() const { return impl_->fd(); }
DiskReader::BeginResult DiskReader::Begin(const DiskReadRequest& request) {
  return impl_->Begin(request);
}
size_t DiskReader::Complete(absl::FunctionRef<void(const DiskReadResult&)> take) {
  return impl_->Complete(take);
}
size_t DiskReader::in_flight() const { return impl_->in_flight(); }

}  // namespace zmem
