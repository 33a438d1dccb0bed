// A sparse stretch of memory on a memfd, so that what it holds can outlive the process that wrote
// it. Contents are addressed by offset; pointers are good for this process only.
// Thread-safe: distinct byte ranges may be used and discarded at the same time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libzmem/base/sys.h"

namespace zmem {

class SharedRegion {
 public:
  // Reserves `reserved_bytes` (a multiple of kPageBytes) of address space. Memory is taken page by
  // page as it is first written. `name` shows in /proc/PID/maps.
  // Errors: ResourceExhausted or what memfd_create, ftruncate and mmap say.
  static absl::StatusOr<SharedRegion> Create(const std::string& name, uint64_t reserved_bytes);

  SharedRegion() = default;
  SharedRegion(SharedRegion&& other) noexcept;
  SharedRegion& operator=(SharedRegion&& other) noexcept;
  ~SharedRegion();

  std::byte* data() const { return data_; }
  uint64_t reserved_bytes() const { return reserved_bytes_; }

  // Gives the memory of [offset, offset + bytes), both multiples of kPageBytes, back to the kernel;
  // it reads as zeros afterwards. A failure (which only costs memory) is returned as negative
  // errno, success as 0.
  int Discard(uint64_t offset, uint64_t bytes) const;

 private:
  UniqueFd fd_;
  std::byte* data_ = nullptr;
  uint64_t reserved_bytes_ = 0;
};

}  // namespace zmem
