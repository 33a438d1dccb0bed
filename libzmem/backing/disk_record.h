// A record as it lies in the backing file: the XXH3 checksum of the object (8 bytes, this machine's
// order), the object, and padding to the next granule. The checksum's seed says where and when the
// record was written, so that bytes of another place or of an earlier use do not pass.
// Plain functions, no state.
#pragma once

#include <xxhash.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "libzmem/backing/backing_file.h"

namespace zmem {

inline constexpr size_t kRecordHeaderBytes = 8;

// What a record of an object of this size takes of the file.
constexpr size_t RecordBytes(size_t object_bytes) {
  return (kRecordHeaderBytes + object_bytes + kDiskGranuleBytes - 1) & ~(kDiskGranuleBytes - 1);
}
inline constexpr size_t kMaxRecordBytes = RecordBytes(kPageBytes);

// Writes a record to `record`, RecordBytes(object.size()) long.
inline void WriteRecord(std::span<const std::byte> object, uint64_t seed, std::byte* record) {
  uint64_t checksum = XXH3_64bits_withSeed(object.data(), object.size(), seed);
  std::memcpy(record, &checksum, kRecordHeaderBytes);
  std::memcpy(record + kRecordHeaderBytes, object.data(), object.size());
  size_t used = kRecordHeaderBytes + object.size();
  std::memset(record + used, 0, RecordBytes(object.size()) - used);
}

// Whether `record` holds an object of this size with the right checksum.
inline bool IsIntactRecord(const std::byte* record, size_t object_bytes, uint64_t seed) {
  uint64_t checksum;
  std::memcpy(&checksum, record, kRecordHeaderBytes);
  return checksum == XXH3_64bits_withSeed(record + kRecordHeaderBytes, object_bytes, seed);
}

}  // namespace zmem
