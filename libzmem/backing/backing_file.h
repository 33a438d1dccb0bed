// The tier on an SSD: stored objects of 1..kPageBytes bytes in a file or on a block device of
// zmem's own, whose contents end with the process. Objects are appended to segments, which are
// written whole, with direct I/O, by one thread; freed segments are used again, and sparse ones are
// emptied in rounds of cleaning, in which the objects' holders take part, as the file does not know
// them. Thread-safe. Only ReadNow and Flush wait for the disk. Append, Free and DiskReader hold no
// lock across a system call or a copy that a Free or a Begin could wait for.
//
// Never loses what was appended because a write fails: it stays in memory, readable, until a later
// attempt succeeds. Never returns wrong bytes: a record carries a checksum over its bytes, its
// place and how often the place was used before. What is lost: 8 bytes of checksum and on average 8
// of rounding an object; up to one object at the end of a segment.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "libzmem/base/clock.h"
#include "libzmem/base/page.h"

namespace zmem {

// Names a stored object: its record's offset in the file in units of kDiskGranuleBytes. 40 bits
// reach 16 TiB.
struct DiskHandle {
  uint64_t granule = 0;
  friend bool operator==(DiskHandle, DiskHandle) = default;
};
inline constexpr size_t kDiskGranuleBytes = 16;
inline constexpr unsigned kDiskHandleBits = 40;

// An object and the size that was given to Append.
struct DiskObject {
  DiskHandle handle;
  size_t bytes = 0;
  friend bool operator==(DiskObject, DiskObject) = default;
};

// The longest stretch of the file that one read covers, from the first byte of the first record to
// the last of the last one.
inline constexpr size_t kMaxDiskReadBytes = size_t{64} << 10;

enum class AppendResult {
  kDone,
  kBusy,       // every segment buffer waits for the disk: not now
  kFull,       // no free segment
  kLimited,    // daily_write_limit_bytes is used up
  kSuspended,  // writing fails again and again; lifted by itself when an attempt succeeds
};

enum class DiskReadStatus {
  kOk,
  kStale,    // the object was freed, and its place emptied, since the read began
  kDamaged,  // not the bytes that were written, at the second reading too
  kFailed,   // the disk reports an error, at the last attempt too
};

class DiskReader;
struct BackingCore;

class BackingFile {
 public:
  struct Options {
    // A block device, or a file in a directory on a disk. The file stays empty and is a lock; the
    // data go into one without a name beside it, of which nothing is left when the process ends.
    std::string path;
    uint64_t size_bytes = 0;   // rounded down to whole segments; 0 is the whole of a device
    bool preallocate = false;  // take all disk space at once, and keep it
    // Bytes appended, cleaning included, in each period of 24 hours since Open; 0 is no limit.
    uint64_t daily_write_limit_bytes = 0;
    size_t segment_bytes = size_t{512} << 10;  // a power of two, 256 KiB..1 MiB
    const Clock* clock = nullptr;              // of the daily limit; nullptr is the system's
  };

  // For whom an object is appended. The last free segment is kept for kCleaning, so that a full
  // file can be cleaned.
  enum class Purpose { kStoring, kCleaning };

  struct Stats {
    uint64_t objects = 0;           // live, that is appended and not freed
    uint64_t live_bytes = 0;        // sum of their sizes as given to Append
    uint64_t held_bytes = 0;        // segments that are not free, whole
    uint64_t reads = 0;             // objects given out with a right checksum
    uint64_t writes = 0;            // objects appended
    uint64_t bytes_read = 0;        // from the disk, in whole pages
    uint64_t bytes_written = 0;     // to the disk, in whole pages
    uint64_t io_errors_read = 0;    // attempts that the disk failed or cut short at nothing
    uint64_t io_errors_write = 0;   // the same
    uint64_t checksum_errors = 0;   // readings of a live object with a wrong checksum
    uint64_t stale_reads = 0;       // readings that ended in kStale
    uint64_t segments = 0;          // of the file
    uint64_t free_segments = 0;     // of these, without live objects and ready to be used
    uint64_t victim_segments = 0;   // of these, victims, emptied ones included until EndRound
    uint64_t cleaned_bytes = 0;     // segments that holders emptied as victims, whole
    uint64_t daily_bytes_left = 0;  // until kLimited; UINT64_MAX without a limit
    uint64_t metadata_bytes = 0;    // memory of its own: buffers, bookkeeping, readers
    bool is_suspended = false;      // Append returns kSuspended
  };

  // Takes the file or device for this process alone. The contents of a device are lost.
  // Errors, each one line with the path and what to do: InvalidArgument (sizes out of bounds, fewer
  // than 4 segments, neither file nor device), NotFound (directory), PermissionDenied,
  // FailedPrecondition (no direct I/O), Unavailable (in use), ResourceExhausted (no space to
  // preallocate, no memory), or what the system says.
  static absl::StatusOr<std::unique_ptr<BackingFile>> Open(const Options& options);
  // Every DiskReader must be gone.
  ~BackingFile();

  // Copies `object` (1..kPageBytes bytes) and names it in `*handle`, which is set on kDone alone.
  // It can be read at once, before it is on the disk. Never waits for the disk.
  AppendResult Append(std::span<const std::byte> object, DiskHandle* handle,
                      Purpose purpose = Purpose::kStoring);

  // Ends the life of an object. Constant time; may wake the writing thread, which gives the disk
  // space of an empty segment back.
  void Free(DiskObject object);

  // Hands the segment being filled to the disk, although it is not full (what is left of it stays
  // unused), and waits until all is written. False if writing is suspended.
  bool Flush();

  // Copies an object to the front of `out`, at least object.bytes long. Waits for the disk: for
  // cleaning and forks. `*error`, if given, is the errno of kFailed.
  DiskReadStatus ReadNow(DiskObject object, std::span<std::byte> out, int* error = nullptr);

  // For a thread that must never wait. Errors: ResourceExhausted, or what io_uring says.
  absl::StatusOr<std::unique_ptr<DiskReader>> NewReader();

  // Whether one read can cover everything from `first` to the end of `last`: same segment, in this
  // order, at most kMaxDiskReadBytes.
  bool CanReadTogether(DiskObject first, DiskObject last) const;

  // Cleaning, as compaction in pool/zpool.h. A round goes from ChooseVictims to EndRound; for each
  // object in a victim that a holder finds in between, it reads the object, Appends it with
  // kCleaning, puts the new handle in the place of the old one if that is still there
  // (compare-and-swap of the page's entry), and frees the old object if it was, else the new one.
  // Nothing new appears at a victim's place during the round, not even after it was emptied, so a
  // swap that finds the handle unchanged is right.
  // What is required of holders:
  //   * A handle is read from its entry after ChooseVictims has returned, with acquire order.
  //   * EndRound is called when every Append of the round, and the swap that follows it, is over.

  // Begins a round, or goes on with it: makes victims of up to `most_segments` segments on disk,
  // the sparsest first, each less than half live, and only as many as the free segments can take
  // the objects of. Takes time proportional to the victims. Returns how many were chosen.
  size_t ChooseVictims(size_t most_segments);
  // Whether the object lies in a victim now. Reads one word; takes no lock.
  bool IsVictim(DiskHandle handle) const;
  // Ends the round: emptied victims are free, the others ordinary again.
  void EndRound();

  // While others work, the figures are not all of the same instant.
  Stats stats() const;

 private:
  class Impl;
  explicit BackingFile(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// One read: `wanted` is what somebody waits for, checked by the reader; `first`..`last` is the
// stretch that is read with it, for its neighbours' sake.
struct DiskReadRequest {
  DiskObject wanted;
  DiskObject first;
  DiskObject last;
  uint64_t cookie = 0;  // the caller's own

  static DiskReadRequest Of(DiskObject object, uint64_t cookie) {
    return {object, object, object, cookie};
  }
};

// What became of one read; valid during the callback only.
class DiskReadResult {
 public:
  uint64_t cookie = 0;
  DiskReadStatus status = DiskReadStatus::kOk;  // of the wanted object
  int error = 0;                                // errno of kFailed

  // The bytes of an object within the stretch, or nullopt unless they are those that were appended:
  // also for a handle that names something else by now. Nothing unless status is kOk.
  std::optional<std::span<const std::byte>> Record(DiskObject object) const;

 private:
  friend class DiskReader;
  BackingCore* core_ = nullptr;
  std::span<const std::byte> stretch_;
  uint64_t first_granule_ = 0;
  uint32_t generation_ = 0;
};

// Reads without waiting, a few reads at a time. For one thread at a time.
class DiskReader {
 public:
  // Reads in flight at once. A fault thread has rarely more than one object on the way; the others
  // are for reading ahead.
  static constexpr size_t kMostReads = 4;

  enum class BeginResult {
    kStarted,  // Complete gives it out once fd() is readable
    kReady,    // Complete gives it out now: it was in memory, or could not even be started
    kBusy,     // too many reads are in flight; nothing was begun
  };

  // Waits for the reads in flight.
  ~DiskReader();

  // Readable (POLLIN) when a read that was kStarted can be taken up.
  int fd() const;

  // Begins a read. CanReadTogether must hold for first..wanted and wanted..last. Never waits for
  // the disk.
  BeginResult Begin(const DiskReadRequest& request);

  // Calls `take` for every read that is over, once each. Attempts that failed are repeated without
  // further ado. Returns how many were given out.
  size_t Complete(absl::FunctionRef<void(const DiskReadResult&)> take);

  // Reads begun and not given out yet.
  size_t in_flight() const;

 private:
  friend class BackingFile;
  class Impl;
  explicit DiskReader(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace zmem
