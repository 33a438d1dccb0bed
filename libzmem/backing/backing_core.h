// What the parts of a backing file share: the disk space, the table of segments, and the counters.
// Thread-safe.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "libzmem/backing/backing_file.h"
#include "libzmem/backing/backing_storage.h"
#include "libzmem/backing/segment_table.h"

namespace zmem {

// Counts what threads add up without a lock.
class Counter {
 public:
  void Add(uint64_t count) { value_.fetch_add(count, std::memory_order_relaxed); }
  void Subtract(uint64_t count) { value_.fetch_sub(count, std::memory_order_relaxed); }
  uint64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_{0};
};

struct BackingCore {
  BackingCore(BackingStorage space, size_t segment_bytes, std::byte* buffers, uint64_t random)
      : storage(std::move(space)),
        table(static_cast<uint32_t>(storage.size_bytes() / segment_bytes), segment_bytes, buffers),
        salt(random) {}

  uint64_t OffsetOf(DiskHandle handle) const { return handle.granule * kDiskGranuleBytes; }
  uint32_t SegmentOf(DiskHandle handle) const {
    return static_cast<uint32_t>(OffsetOf(handle) / table.segment_bytes());
  }
  uint64_t SegmentStart(uint32_t segment) const { return segment * table.segment_bytes(); }

  // The seed of a record's checksum. The salt tells apart what an earlier process left on a device.
  uint64_t SeedOf(DiskHandle handle, uint32_t generation) const {
    return salt ^ (handle.granule | uint64_t{generation} << kDiskHandleBits);
  }

  // Tells a wrong checksum of a record that was freed meanwhile from one that was damaged, and
  // counts it. `generation`: of its segment when the read began.
  DiskReadStatus JudgeWrongChecksum(uint32_t segment, uint32_t generation) {
    MutexLock lock(table.mutex);
    if (table.GenerationLocked(segment) != generation || !table.HasLiveLocked(segment)) {
      stale_reads.Add(1);
      return DiskReadStatus::kStale;
    }
    checksum_errors.Add(1);
    return DiskReadStatus::kDamaged;
  }

  const BackingStorage storage;
  SegmentTable table;
  const uint64_t salt;

  // As BackingFile::Stats.
  Counter reads;
  Counter bytes_read;
  Counter bytes_written;
  Counter io_errors_read;
  Counter io_errors_write;
  Counter checksum_errors;
  Counter stale_reads;
  Counter reader_bytes;
};

}  // namespace zmem
