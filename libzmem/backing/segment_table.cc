#include "libzmem/backing/segment_table.h"

#include <algorithm>

#include "libzmem/backing/disk_record.h"
#include "libzmem/base/check.h"

namespace zmem {

SegmentTable::SegmentTable(uint32_t segments, size_t segment_bytes, std::byte* buffers)
    : segment_count_(segments),
      segment_bytes_(segment_bytes),
      buffers_start_(buffers),
      segments_(new Segment[segments]) {
  MutexLock lock(mutex);
  heads_.fill(kNoSegment);
  // Linked at the front, so that the file is used from its start.
  for (uint32_t segment = segments; segment-- > 0;) LinkLocked(segment, kFreshList);
}

AppendResult SegmentTable::FindPlaceLocked(size_t record_bytes, BackingFile::Purpose purpose,
                                           Place* place, bool* has_queued) {
  if (open_buffer_ != kNoBuffer &&
      buffers_[open_buffer_].committed_bytes + record_bytes > segment_bytes_) {
    CloseLocked();
    *has_queued = true;
  }
  // What cleaning has opened of the reserve is for cleaning alone.
  if (purpose == BackingFile::Purpose::kStoring && FreeSegmentsLocked() < kReservedSegments) {
    return AppendResult::kFull;
  }
  if (open_buffer_ == kNoBuffer) {
    AppendResult result = OpenLocked(purpose);
    if (result != AppendResult::kDone) return result;
  }
  const Buffer& buffer = buffers_[open_buffer_];
  *place = {buffer.segment, buffer.committed_bytes, At(buffer.segment).generation,
            BytesOf(open_buffer_) + buffer.committed_bytes};
  return AppendResult::kDone;
}

AppendResult SegmentTable::OpenLocked(BackingFile::Purpose purpose) {
  uint32_t reserved = purpose == BackingFile::Purpose::kStoring ? kReservedSegments : 0;
  if (FreeSegmentsLocked() <= reserved) return AppendResult::kFull;
  unsigned buffer = IdleBufferLocked();
  if (buffer == kNoBuffer) return AppendResult::kBusy;
  // Used ones first: that saves giving their disk space back and taking it anew.
  uint32_t segment = heads_[kUsedList] != kNoSegment ? heads_[kUsedList] : heads_[kFreshList];
  // The last free segments are just being discarded.
  if (segment == kNoSegment) return AppendResult::kBusy;
  UnlinkLocked(segment);
  At(segment).state.store(SegmentState::kOpen, std::memory_order_release);
  At(segment).buffer = static_cast<uint8_t>(buffer);
  buffers_[buffer] = {.state = BufferState::kFilling, .segment = segment};
  open_buffer_ = buffer;
  return AppendResult::kDone;
}

void SegmentTable::CommitLocked(size_t record_bytes) {
  Buffer& buffer = buffers_[open_buffer_];
  buffer.committed_bytes += static_cast<uint32_t>(record_bytes);
  At(buffer.segment).live_bytes += static_cast<uint32_t>(record_bytes);
}

void SegmentTable::CloseLocked() {
  if (open_buffer_ == kNoBuffer || buffers_[open_buffer_].committed_bytes == 0) return;
  Buffer& buffer = buffers_[open_buffer_];
  buffer.state = BufferState::kQueued;
  buffer.queued_as = queued_++;
  At(buffer.segment).state.store(SegmentState::kWriting, std::memory_order_release);
  open_buffer_ = kNoBuffer;
}

bool SegmentTable::FreeLocked(uint32_t number, size_t record_bytes) {
  Segment& segment = At(number);
  ZMEM_CHECK(segment.live_bytes >= record_bytes);
  segment.live_bytes -= static_cast<uint32_t>(record_bytes);
  SegmentState state = segment.state.load(std::memory_order_relaxed);
  if (state == SegmentState::kVictim) victim_live_bytes_ -= record_bytes;
  bool is_on_disk = state == SegmentState::kWritten || state == SegmentState::kVictim;
  if (!is_on_disk) return false;
  if (segment.live_bytes == 0) {
    EmptiedLocked(number);
    return state == SegmentState::kWritten;
  }
  if (state == SegmentState::kWritten && segment.list != GroupOf(segment.live_bytes)) {
    SetStateLocked(number, SegmentState::kWritten, GroupOf(segment.live_bytes));
  }
  return false;
}

std::optional<SegmentTable::Pinned> SegmentTable::PinLocked(uint32_t segment) {
  unsigned buffer = At(segment).buffer;
  if (buffer == kNoBuffer) return std::nullopt;
  ++buffers_[buffer].pins;
  return Pinned{buffer, BytesOf(buffer), buffers_[buffer].committed_bytes};
}

void SegmentTable::UnpinLocked(unsigned number) {
  Buffer& buffer = buffers_[number];
  ZMEM_CHECK(buffer.pins > 0);
  --buffer.pins;
  if (buffer.pins == 0 && buffer.state == BufferState::kDraining) {
    buffer.state = BufferState::kIdle;
  }
}

std::optional<SegmentTable::Write> SegmentTable::TakeWriteLocked() {
  Buffer* oldest = nullptr;
  for (Buffer& buffer : buffers_) {
    if (buffer.state != BufferState::kQueued) continue;
    if (oldest == nullptr || buffer.queued_as < oldest->queued_as) oldest = &buffer;
  }
  if (oldest == nullptr) return std::nullopt;
  oldest->state = BufferState::kTaken;
  auto number = static_cast<unsigned>(oldest - buffers_.data());
  return Write{number, oldest->segment, oldest->committed_bytes, BytesOf(number)};
}

void SegmentTable::WrittenLocked(unsigned number) {
  Buffer& buffer = buffers_[number];
  Segment& segment = At(buffer.segment);
  segment.buffer = kNoBuffer;
  segment.state.store(SegmentState::kWritten, std::memory_order_release);
  LinkLocked(buffer.segment, GroupOf(segment.live_bytes));
  if (segment.live_bytes == 0) EmptiedLocked(buffer.segment);
  buffer.segment = kNoSegment;
  buffer.state = buffer.pins == 0 ? BufferState::kIdle : BufferState::kDraining;
}

bool SegmentTable::HasUnwrittenLocked() const {
  return std::any_of(buffers_.begin(), buffers_.end(), [](const Buffer& buffer) {
    return buffer.state == BufferState::kQueued || buffer.state == BufferState::kTaken;
  });
}

uint32_t SegmentTable::TakeDiscardLocked() {
  uint32_t segment = heads_[kUsedList];
  if (segment == kNoSegment) return kNoSegment;
  UnlinkLocked(segment);
  At(segment).state.store(SegmentState::kDiscarding, std::memory_order_release);
  ++discarding_;
  return segment;
}

void SegmentTable::DiscardedLocked(uint32_t segment) {
  --discarding_;
  At(segment).state.store(SegmentState::kFree, std::memory_order_release);
  LinkLocked(segment, kFreshList);
}

size_t SegmentTable::ChooseVictimsLocked(size_t most_segments) {
  // Every segment may end in a gap that the next record does not fit.
  uint64_t room = FreeSegmentsLocked() * (segment_bytes_ - kMaxRecordBytes);
  size_t chosen = 0;
  for (unsigned group = 0; group < kVictimGroups; ++group) {
    while (chosen < most_segments && heads_[group] != kNoSegment) {
      uint32_t segment = heads_[group];
      if (victim_live_bytes_ + At(segment).live_bytes > room) return chosen;
      victim_live_bytes_ += At(segment).live_bytes;
      SetStateLocked(segment, SegmentState::kVictim, kVictimList);
      ++chosen;
    }
  }
  return chosen;
}

void SegmentTable::EndRoundLocked() {
  while (heads_[kVictimList] != kNoSegment) {
    uint32_t segment = heads_[kVictimList];
    SetStateLocked(segment, SegmentState::kWritten, GroupOf(At(segment).live_bytes));
  }
  while (heads_[kEmptyVictimList] != kNoSegment) {
    SetStateLocked(heads_[kEmptyVictimList], SegmentState::kFree, kUsedList);
  }
  victim_live_bytes_ = 0;
}

SegmentTable::Counts SegmentTable::CountsLocked() const {
  return {.free_segments = FreeSegmentsLocked(),
          .victim_segments = lengths_[kVictimList] + lengths_[kEmptyVictimList],
          .cleaned_segments = cleaned_segments_};
}

unsigned SegmentTable::GroupOf(uint32_t live_bytes) const {
  return std::min<unsigned>(
      static_cast<unsigned>(uint64_t{live_bytes} * kLiveGroups / segment_bytes_), kLiveGroups - 1);
}

uint32_t SegmentTable::FreeSegmentsLocked() const {
  return lengths_[kFreshList] + lengths_[kUsedList] + discarding_;
}

unsigned SegmentTable::IdleBufferLocked() const {
  unsigned buffer = 0;
  while (buffer < kSegmentBuffers && buffers_[buffer].state != BufferState::kIdle) ++buffer;
  return buffer;
}

// The segment is on disk, on a list, and nothing in it lives.
void SegmentTable::EmptiedLocked(uint32_t segment) {
  ++At(segment).generation;
  if (At(segment).state.load(std::memory_order_relaxed) == SegmentState::kVictim) {
    ++cleaned_segments_;
    SetStateLocked(segment, SegmentState::kEmptyVictim, kEmptyVictimList);
  } else {
    SetStateLocked(segment, SegmentState::kFree, kUsedList);
  }
}

void SegmentTable::SetStateLocked(uint32_t segment, SegmentState state, unsigned list) {
  UnlinkLocked(segment);
  At(segment).state.store(state, std::memory_order_release);
  LinkLocked(segment, list);
}

void SegmentTable::LinkLocked(uint32_t number, unsigned list) {
  Segment& segment = At(number);
  segment.list = static_cast<uint8_t>(list);
  segment.prev = kNoSegment;
  segment.next = heads_[list];
  if (segment.next != kNoSegment) At(segment.next).prev = number;
  heads_[list] = number;
  ++lengths_[list];
}

void SegmentTable::UnlinkLocked(uint32_t number) {
  Segment& segment = At(number);
  (segment.prev != kNoSegment ? At(segment.prev).next : heads_[segment.list]) = segment.next;
  if (segment.next != kNoSegment) At(segment.next).prev = segment.prev;
  --lengths_[segment.list];
}

}  // namespace zmem
