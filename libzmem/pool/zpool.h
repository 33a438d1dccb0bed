// Where compressed pages are kept: a slab allocator for objects of 1..kPageBytes bytes in one
// shared region. Objects of a size class lie side by side in spans of a few pages; a span whose
// last object is freed goes back to the kernel at once.
// Thread-safe; Put and Free take one lock per size class, never across a system call or a copy of
// an object. Offsets, never pointers, so that the region can outlive the process.
// Source of the layout: mm/zsmalloc.c.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "absl/status/statusor.h"
#include "libzmem/base/page.h"

namespace zmem {

// Names a stored object: its offset in the region in units of kPoolGranuleBytes. 36 bits, so that
// it fits a page entry; they reach 1 TiB.
struct ZHandle {
  uint64_t granule = 0;
  friend bool operator==(ZHandle, ZHandle) = default;
};
inline constexpr size_t kPoolGranuleBytes = 16;
inline constexpr unsigned kZHandleBits = 36;

// The region is cut into slots of address space, each for one span, which uses its first pages.
// An offset's upper bits thus name its span, and a free slot fits a span of any class.
inline constexpr unsigned kSpanSlotShift = 15;
inline constexpr size_t kSpanSlotBytes = size_t{1} << kSpanSlotShift;

class Zpool {
 public:
  struct Options {
    uint64_t limit_bytes = 0;     // cap on held_bytes; may be changed later
    uint64_t reserved_bytes = 0;  // address space; a multiple of kSpanSlotBytes, at most 1 TiB.
                                  // A span takes a whole slot of it: give 8 times the limit.
  };

  struct Stats {
    uint64_t objects = 0;         // objects stored
    uint64_t live_bytes = 0;      // sum of the sizes given to Put
    uint64_t held_bytes = 0;      // pages of all spans, what the pool takes from the host
    uint64_t metadata_bytes = 0;  // memory taken for the pool's own bookkeeping
    uint64_t limit_bytes = 0;
    uint64_t limit_rejects = 0;  // Put calls refused, in all
  };

  // Errors: InvalidArgument for sizes out of bounds; what SharedRegion::Create says.
  static absl::StatusOr<std::unique_ptr<Zpool>> Create(const Options& options);
  ~Zpool();

  // Copies `object` (1..kPageBytes bytes) into the pool.
  // Returns its handle, or nullopt when a new span would pass limit_bytes or finds no slot left in
  // reserved_bytes, which is counted.
  std::optional<ZHandle> Put(std::span<const std::byte> object);

  // The bytes of a stored object; `object_bytes` is what was given to Put. They stay until Free.
  std::span<const std::byte> Get(ZHandle handle, size_t object_bytes) const;

  // Ends the life of an object; `object_bytes` is what was given to Put. May call the kernel to
  // give a span back, after unlocking. Until the kernel has it, the span counts as held.
  void Free(ZHandle handle, size_t object_bytes);

  // Takes effect at the next Put; objects above a lowered limit stay.
  void set_limit_bytes(uint64_t limit_bytes);

  // Each figure is exact; while others put and free, they are not all of the same instant.
  Stats stats() const;

 private:
  class Impl;
  explicit Zpool(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace zmem
