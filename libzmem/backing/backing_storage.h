// The disk space behind a backing file: a nameless file beside a lock file, or a block device, open
// for direct I/O and for this process alone. What is wrong with a path is found out, and said,
// here. Thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libzmem/base/sys.h"

namespace zmem {

// All transfers are aligned to this in memory and in the file. No disk needs more.
inline constexpr size_t kDiskBlockBytes = 4096;

class BackingStorage {
 public:
  struct Request {
    std::string path;
    uint64_t size_bytes = 0;     // 0: the whole of a device
    uint64_t unit_bytes = 0;     // the size is rounded down to these
    uint64_t minimum_units = 0;  // less is an error
    uint64_t maximum_bytes = 0;  // of a larger device the rest is not used
    bool preallocate = false;
  };

  // Errors: see BackingFile::Open.
  static absl::StatusOr<BackingStorage> Open(const Request& request);

  BackingStorage(BackingStorage&&) noexcept = default;
  // Gives the disk space back.
  ~BackingStorage();

  int fd() const { return data_.get(); }
  uint64_t size_bytes() const { return size_bytes_; }

  // Whether Discard is of use.
  bool can_discard() const { return !is_preallocated_; }
  // Gives the disk space of a stretch back; it reads as zeros or as before. Returns 0 or a negative
  // errno, which costs space and nothing else.
  int Discard(uint64_t offset, uint64_t bytes) const;

 private:
  BackingStorage() = default;
  absl::Status OpenDevice(const Request& request);
  absl::Status OpenFile(const Request& request);
  absl::Status LockFile(const Request& request);
  absl::Status TakeSize(const Request& request, uint64_t available_bytes);
  absl::Status TakeSpace(const Request& request);

  UniqueFd lock_;  // of a file: the one that has the name
  UniqueFd data_;
  uint64_t size_bytes_ = 0;
  bool is_device_ = false;
  bool is_preallocated_ = false;
};

}  // namespace zmem
