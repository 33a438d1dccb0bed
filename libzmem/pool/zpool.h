// Where compressed pages are kept: a slab allocator for objects of 1..kPageBytes bytes in one
// shared region. Objects of a size class lie side by side in spans of a few pages. A span whose
// last object is freed goes back to the kernel: at once, or with the next GiveBackEmpty, as fresh
// memory for the next span costs more than copying its objects. Sparse spans are emptied in rounds
// of compaction, in which the objects' holders take part, as the pool does not know them.
// Thread-safe; Put, Free and Move take a lock per size class, never across a system call or a copy
// of an object. Offsets, never pointers, so that the region can outlive the process.
//
// What is lost: on average 8 bytes an object, by rounding sizes up to 16; behind the last object of
// a span 0.7 % of it on average of sizes and 4 % at most (up to 3/4 of a page; 7.5 % above); and
// less than one span in each size class after compaction. The worst of that, all 153 classes nearly
// died out, is one sparse span each: 3.5 MiB.
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
inline constexpr unsigned kSpanSlotShift = 16;
inline constexpr size_t kSpanSlotBytes = size_t{1} << kSpanSlotShift;

class Zpool {
 public:
  struct Options {
    uint64_t limit_bytes = 0;     // cap on held_bytes; may be changed later
    uint64_t reserved_bytes = 0;  // address space; a multiple of kSpanSlotBytes, at most 1 TiB.
                                  // A span takes a whole slot of it: give 16 times the limit, and
                                  // more by the slots that are emptied in a round of compaction.
    // Empty spans may be kept until GiveBackEmpty: for those that are needed next, and so that a
    // fault does not wait while its page's old place goes back to the kernel. Of limit_bytes as it
    // is at the time, one in so many; 0: none.
    uint64_t keep_divisor = 0;
  };

  struct Stats {
    uint64_t objects = 0;            // objects stored
    uint64_t live_bytes = 0;         // sum of the sizes given to Put
    uint64_t held_bytes = 0;         // pages of all spans, what the pool takes from the host
    uint64_t max_held_bytes = 0;     // the most that this ever was
    uint64_t kept_bytes = 0;         // of held_bytes: empty spans that are kept
    uint64_t reclaimable_bytes = 0;  // of these, what compaction that starts now could free
    uint64_t metadata_bytes = 0;     // memory taken for the pool's own bookkeeping
    uint64_t limit_bytes = 0;
    uint64_t limit_rejects = 0;  // Put calls refused, in all
  };

  // Errors: InvalidArgument for sizes out of bounds; what SharedRegion::Create says.
  static absl::StatusOr<std::unique_ptr<Zpool>> Create(const Options& options);
  ~Zpool();

  // Whether Put may pass limit_bytes: only for bytes that have no other place to stay.
  enum class Limit { kRespect, kExceed };

  // Copies `object` (1..kPageBytes bytes) into the pool.
  // Returns its handle, or nullopt, which is counted, when more than limit_bytes is held already,
  // or when a new span is needed that would pass limit_bytes or finds no slot in reserved_bytes.
  std::optional<ZHandle> Put(std::span<const std::byte> object, Limit limit = Limit::kRespect);

  // The bytes of a stored object; `object_bytes` is what was given to Put. They stay until Free.
  std::span<const std::byte> Get(ZHandle handle, size_t object_bytes) const;

  // Ends the life of an object; `object_bytes` is what was given to Put. May call the kernel to
  // give a span back, after unlocking. Until the kernel has it, the span counts as held.
  void Free(ZHandle handle, size_t object_bytes);

  // Gives empty spans that were kept back to the kernel, neighbours with one call: as many as there
  // are at the beginning.
  void GiveBackEmpty();

  // Compaction. A round goes from ChooseVictims to EndRound; for each object in a victim that a
  // holder finds in between, it
  //   1. asks Move for a copy elsewhere, and puts the copy's handle in the place of the old one if
  //      that is still there (compare-and-swap of the page's entry);
  //   2. frees the old object if it was, else the copy.
  // A victim is given back as soon as its last object is freed. In a round nothing new appears at a
  // victim's addresses, not even after it was given back: a handle in one names the object that it
  // named when the round began, or none, and so a swap that finds it unchanged is right although
  // the copy was made without any lock.
  // What is required of holders:
  //   * A handle is read from its entry after ChooseVictims has returned, with acquire order.
  //   * EndRound is called when every Move of the round, and the swap that follows it, is over.
  //   * An object that several entries name is left alone, or all of them change at once.

  // Begins a round, or goes on with it: makes victims of up to `most_spans` spans, the sparsest
  // first, and only as many of a size class as its other spans have free places for. Victims stay
  // readable; no object is put into them. Takes time proportional to the victims.
  // Returns how many were chosen: 0 when there is nothing to gain, and a round has begun all the
  // same.
  size_t ChooseVictims(size_t most_spans);

  // Whether the object lies in a victim now. Reads one word; takes no lock. Any handle that was
  // ever given out may be asked for.
  bool IsVictim(ZHandle handle) const;

  // Copies an object of a victim into a free place of another span. Never takes a new span, and so
  // no memory. The old object may be freed by its holder during the call: the copy's bytes are
  // unspecified then, and it is to be freed like any other.
  // Returns the copy's handle, or nullopt when the object is in no victim (any more), or no free
  // place is left because others Put meanwhile: it stays where it is.
  std::optional<ZHandle> Move(ZHandle handle, size_t object_bytes);

  // Ends the round: victims that were not emptied are ordinary spans again. Takes time
  // proportional to the victims.
  void EndRound();

  // Takes effect at the next Put; objects above a lowered limit stay.
  void set_limit_bytes(uint64_t limit_bytes);

  // stats().held_bytes, that without kept_bytes, and stats().limit_bytes, for the price of a load
  // or two.
  uint64_t held_bytes() const;
  uint64_t used_bytes() const;
  uint64_t limit_bytes() const;

  // Each figure is exact; while others put and free, they are not all of the same instant.
  Stats stats() const;

 private:
  class Impl;
  explicit Zpool(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace zmem
