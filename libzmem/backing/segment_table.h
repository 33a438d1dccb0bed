// What the backing file knows of each of its segments: how much of it lives, whether its bytes are
// still in a memory buffer, which segments are free and which are victims of cleaning. Every
// operation takes constant time, or a time proportional to the segments it names.
// Thread-safe under `mutex`, which the caller holds; it is held for no system call and no copy.
//
// Invariants:
//  1. A segment is on a list exactly when its state is kFree, kWritten, kVictim or kEmptyVictim.
//  2. It has a buffer exactly when it is kOpen or kWriting; the disk has its bytes otherwise.
//  3. Its generation changes between two records at the same place.
//  4. A buffer's bytes below committed_bytes do not change while the segment has it or a pin is on.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "libzmem/backing/backing_file.h"
#include "libzmem/base/mutex.h"

namespace zmem {

inline constexpr uint32_t kNoSegment = ~uint32_t{0};

// One is filled while others are written; four keep a disk busy, and cost 2 MiB.
inline constexpr unsigned kSegmentBuffers = 4;
inline constexpr unsigned kNoBuffer = kSegmentBuffers;

// Free segments that only cleaning may use: one takes what lives in two victims.
inline constexpr uint32_t kReservedSegments = 1;

enum class SegmentState : uint8_t {
  kFree = 0,     // no live record; on a list, Append's to take
  kDiscarding,   // as kFree, while its disk space is given back; the writing thread's
  kOpen,         // Append fills its buffer
  kWriting,      // its buffer is on its way to the disk; the writing thread's
  kWritten,      // on disk
  kVictim,       // on disk, to be emptied by its objects' holders
  kEmptyVictim,  // no live record; rests until the round ends
};

class SegmentTable {
 public:
  // Where the next record goes: its place, and where its bytes are to be put.
  struct Place {
    uint32_t segment = kNoSegment;
    uint32_t offset = 0;  // in the segment
    uint32_t generation = 0;
    std::byte* bytes = nullptr;
  };

  // A buffer that cannot be used for something else until Unpin.
  struct Pinned {
    unsigned buffer = kNoBuffer;
    const std::byte* bytes = nullptr;
    uint32_t committed_bytes = 0;
  };

  // What a segment's buffer holds, for the writing thread.
  struct Write {
    unsigned buffer = kNoBuffer;
    uint32_t segment = kNoSegment;
    uint32_t committed_bytes = 0;
    std::byte* bytes = nullptr;
  };

  struct Counts {
    uint64_t free_segments = 0;
    uint64_t victim_segments = 0;
    uint64_t cleaned_segments = 0;
  };

  // `buffers`: kSegmentBuffers times segment_bytes.
  SegmentTable(uint32_t segments, size_t segment_bytes, std::byte* buffers);

  uint32_t segments() const { return segment_count_; }
  size_t segment_bytes() const { return segment_bytes_; }
  bool IsVictim(uint32_t segment) const {
    SegmentState state = At(segment).state.load(std::memory_order_acquire);
    return state == SegmentState::kVictim || state == SegmentState::kEmptyVictim;
  }

  // Finds the place for a record; the next call must be CommitLocked, and until then no other
  // Append or Close is made. Opens another segment where the open one is full, which then has been
  // queued for writing: `*has_queued` tells. kDone, kBusy or kFull.
  AppendResult FindPlaceLocked(size_t record_bytes, BackingFile::Purpose purpose, Place* place,
                               bool* has_queued) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  // The record is at its place now, and lives.
  void CommitLocked(size_t record_bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  // Queues the open segment for writing, if there is one that is not empty.
  void CloseLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  // A record lives no more. True if the writing thread has a segment to discard now.
  bool FreeLocked(uint32_t segment, size_t record_bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);

  uint32_t GenerationLocked(uint32_t segment) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    return At(segment).generation;
  }
  bool HasLiveLocked(uint32_t segment) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    return At(segment).live_bytes > 0;
  }
  // The buffer that holds the segment's bytes, or nullopt if they are on disk.
  std::optional<Pinned> PinLocked(uint32_t segment) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void UnpinLocked(unsigned buffer) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);

  // For the writing thread. The oldest buffer that waits for its write, now its own.
  std::optional<Write> TakeWriteLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  // Whether nothing in the buffer lives any more, so that it need not be written.
  bool IsWorthlessLocked(unsigned buffer) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    return At(buffers_[buffer].segment).live_bytes == 0;
  }
  // The segment is on disk, or worthless; the buffer is free when its pins are off.
  void WrittenLocked(unsigned buffer) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  bool HasUnwrittenLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  // A free segment whose disk space has not been given back, now the writing thread's; kNoSegment
  // if there is none.
  uint32_t TakeDiscardLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void DiscardedLocked(uint32_t segment) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);

  // As BackingFile's.
  size_t ChooseVictimsLocked(size_t most_segments) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void EndRoundLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);

  Counts CountsLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  uint64_t metadata_bytes() const { return segment_count_ * sizeof(Segment); }

  mutable Mutex mutex;

 private:
  // Segments on disk are grouped by eighths of what lives in them; the lower half may be victims.
  static constexpr unsigned kLiveGroups = 8;
  static constexpr unsigned kVictimGroups = kLiveGroups / 2;
  // The lists beside those of the groups.
  enum List : unsigned {
    kFreshList = kLiveGroups,  // free, without disk space unless it is preallocated
    kUsedList,                 // free, with disk space
    kVictimList,
    kEmptyVictimList,
    kLists
  };

  struct Segment {
    uint32_t next = kNoSegment;
    uint32_t prev = kNoSegment;
    uint32_t live_bytes = 0;  // of records
    uint32_t generation = 0;
    std::atomic<SegmentState> state{SegmentState::kFree};
    uint8_t list = kFreshList;
    uint8_t buffer = kNoBuffer;
  };

  enum class BufferState : uint8_t {
    kIdle,      // nobody's
    kFilling,   // of the open segment
    kQueued,    // waits for the writing thread
    kTaken,     // the writing thread's
    kDraining,  // of no segment, but pinned
  };

  struct Buffer {
    BufferState state = BufferState::kIdle;
    uint32_t segment = kNoSegment;
    uint32_t committed_bytes = 0;
    uint32_t pins = 0;
    uint64_t queued_as = 0;  // how many were queued before
  };

  Segment& At(uint32_t segment) { return segments_[segment]; }
  const Segment& At(uint32_t segment) const { return segments_[segment]; }
  std::byte* BytesOf(unsigned buffer) const { return buffers_start_ + buffer * segment_bytes_; }
  unsigned GroupOf(uint32_t live_bytes) const;
  uint32_t FreeSegmentsLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  unsigned IdleBufferLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  AppendResult OpenLocked(BackingFile::Purpose purpose) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void EmptiedLocked(uint32_t segment) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void SetStateLocked(uint32_t segment, SegmentState state, unsigned list)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void LinkLocked(uint32_t segment, unsigned list) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void UnlinkLocked(uint32_t segment) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);

  const uint32_t segment_count_;
  const size_t segment_bytes_;
  std::byte* const buffers_start_;
  // Guarded by `mutex`, but for the atomic states.
  const std::unique_ptr<Segment[]> segments_;
  std::array<uint32_t, kLists> heads_ ABSL_GUARDED_BY(mutex);
  std::array<uint32_t, kLists> lengths_ ABSL_GUARDED_BY(mutex){};
  std::array<Buffer, kSegmentBuffers> buffers_ ABSL_GUARDED_BY(mutex);
  unsigned open_buffer_ ABSL_GUARDED_BY(mutex) = kNoBuffer;
  uint64_t queued_ ABSL_GUARDED_BY(mutex) = 0;
  uint64_t victim_live_bytes_ ABSL_GUARDED_BY(mutex) = 0;
  uint64_t cleaned_segments_ ABSL_GUARDED_BY(mutex) = 0;
  uint32_t discarding_ ABSL_GUARDED_BY(mutex) = 0;
};

}  // namespace zmem
