// How objects come back from the disk: without waiting, several at a time (DiskReader), or one by
// one in the calling thread (ReadNow). What both promise: attempts are bounded, and bytes are given
// out only if their checksum is that of the record, in the use of its segment that was current when
// the read began.
// A DiskReader::Impl belongs to one thread at a time; the functions are thread-safe.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "libzmem/backing/aligned_memory.h"
#include "libzmem/backing/backing_core.h"
#include "libzmem/backing/io_ring.h"

namespace zmem {

// As BackingFile::CanReadTogether.
bool StretchIsReadable(const BackingCore& core, DiskObject first, DiskObject last);

// As BackingFile::ReadNow; the object lies in the file, and `out` is long enough.
DiskReadStatus ReadNow(BackingCore& core, DiskObject object, std::span<std::byte> out, int* error);

class DiskReader::Impl {
 public:
  static constexpr unsigned kSlots = kMostReads;
  // The longest stretch can begin at the last granule of a block.
  static constexpr size_t kSlotBytes = kMaxDiskReadBytes + kDiskBlockBytes;
  static constexpr size_t kBuffersBytes = kSlots * kSlotBytes;

  static absl::StatusOr<std::unique_ptr<IoRing>> NewRing(const BackingCore& core,
                                                         const AlignedMemory& buffers);

  Impl(BackingCore& core, AlignedMemory buffers, std::unique_ptr<IoRing> ring);
  ~Impl();

  int fd() const { return ring_->fd(); }
  BeginResult Begin(const DiskReadRequest& request);
  size_t Complete(absl::FunctionRef<void(const DiskReadResult&)> take);
  size_t in_flight() const;

 private:
  enum class SlotState : uint8_t {
    kIdle,
    kReading,  // a transfer is under way
    kReady,    // over, for Complete to give out
  };

  // One read.
  struct Slot {
    SlotState state = SlotState::kIdle;
    DiskReadRequest request;
    uint32_t segment = 0;
    uint32_t generation = 0;  // of the segment when the read began
    uint64_t start = 0;       // offset in the file, of a block
    size_t length = 0;        // whole blocks
    size_t done_bytes = 0;
    unsigned failures = 0;
    bool is_second_reading = false;
    DiskReadStatus status = DiskReadStatus::kOk;
    int error = 0;
  };

  std::byte* BytesOf(const Slot& slot) const {
    return buffers_.data() + static_cast<size_t>(&slot - slots_.data()) * kSlotBytes;
  }
  void StartTransfer(Slot& slot);
  void OnTransfer(Slot& slot, int result);
  void OnFailure(Slot& slot, int error);
  void JudgeReading(Slot& slot);
  void CopyFromMemory(Slot& slot, const SegmentTable::Pinned& pinned) const;
  bool IsWantedIntact(const Slot& slot) const;
  void MakeReady(Slot& slot, DiskReadStatus status, int error);
  DiskReadResult ResultOf(const Slot& slot) const;

  BackingCore& core_;
  const AlignedMemory buffers_;
  const std::unique_ptr<IoRing> ring_;
  std::array<Slot, kSlots> slots_;
};

}  // namespace zmem
