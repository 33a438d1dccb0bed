// Lock order: append_mutex_, then the table's mutex. A fault takes only the latter.
#include "libzmem/backing/backing_file.h"

#include <errno.h>
#include <sys/random.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "libzmem/backing/aligned_memory.h"
#include "libzmem/backing/backing_core.h"
#include "libzmem/backing/disk_reader_impl.h"
#include "libzmem/backing/disk_record.h"
#include "libzmem/backing/segment_writer.h"
#include "libzmem/base/check.h"
#include "libzmem/base/mutex.h"

namespace zmem {
namespace {

constexpr uint64_t kMinSegments = 4;
constexpr size_t kMinSegmentBytes = size_t{256} << 10;
constexpr size_t kMaxSegmentBytes = size_t{1} << 20;
constexpr uint64_t kMaxFileBytes = kDiskGranuleBytes << kDiskHandleBits;
constexpr int64_t kDayNs = int64_t{24 * 3600} * 1'000'000'000;

// Bytes that may be appended in a day.
class DailyBudget {
 public:
  explicit DailyBudget(uint64_t limit_bytes) : limit_bytes_(limit_bytes) {}

  uint64_t LeftBytes(int64_t now_ns) const {
    if (limit_bytes_ == 0) return UINT64_MAX;
    if (now_ns - day_start_ns_ >= kDayNs) return limit_bytes_;
    return limit_bytes_ - used_bytes_;
  }
  // `bytes`: at most LeftBytes(now_ns).
  void Use(uint64_t bytes, int64_t now_ns) {
    if (now_ns - day_start_ns_ >= kDayNs) {
      day_start_ns_ = now_ns;
      used_bytes_ = 0;
    }
    used_bytes_ += bytes;
  }

 private:
  const uint64_t limit_bytes_;
  int64_t day_start_ns_ = INT64_MIN / 2;  // long ago: the first use begins a day
  uint64_t used_bytes_ = 0;
};

const Clock& SystemClock() {
  static const MonotonicClock clock;
  return clock;
}

absl::Status OutOfMemory(size_t bytes) {
  return absl::ResourceExhaustedError(
      absl::StrCat("no memory for ", bytes, " bytes of buffers of the backing file"));
}

absl::Status CheckOptions(const BackingFile::Options& options) {
  if (options.path.empty()) {
    return absl::InvalidArgumentError("the backing file needs a path: set one");
  }
  if (!std::has_single_bit(options.segment_bytes) || options.segment_bytes < kMinSegmentBytes ||
      options.segment_bytes > kMaxSegmentBytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "segments of the backing file must be 256K, 512K or 1M, not ", options.segment_bytes));
  }
  if (options.size_bytes > kMaxFileBytes) {
    return absl::InvalidArgumentError(absl::StrCat("the backing file ", options.path,
                                                   " may be at most 16T, not ", options.size_bytes,
                                                   " bytes"));
  }
  return absl::OkStatus();
}

}  // namespace

class BackingFile::Impl {
 public:
  Impl(const Options& options, BackingStorage storage, AlignedMemory buffers, uint64_t salt)
      : clock_(options.clock != nullptr ? *options.clock : SystemClock()),
        buffers_(std::move(buffers)),
        core_(std::move(storage), options.segment_bytes, buffers_.data(), salt),
        budget_(options.daily_write_limit_bytes) {}

  absl::Status Start() {
    auto writer = SegmentWriter::Start(core_, buffers_.data());
    if (writer.ok()) writer_ = *std::move(writer);
    return writer.status();
  }

  AppendResult Append(std::span<const std::byte> object, DiskHandle* handle, Purpose purpose) {
    ZMEM_CHECK(!object.empty() && object.size() <= kPageBytes);
    if (writer_->is_suspended()) return AppendResult::kSuspended;
    bool has_queued = false;
    AppendResult result;
    {
      MutexLock lock(append_mutex_);
      result = AppendToSegment(object, handle, purpose, &has_queued);
    }
    if (has_queued) writer_->Wake();
    return result;
  }

  void Free(DiskObject object) {
    CheckHandle(object);
    bool has_discard;
    {
      MutexLock lock(core_.table.mutex);
      has_discard =
          core_.table.FreeLocked(core_.SegmentOf(object.handle), RecordBytes(object.bytes));
      --objects_;
      live_bytes_ -= object.bytes;
    }
    if (has_discard) writer_->Wake();
  }

  bool Flush() {
    {
      MutexLock append_lock(append_mutex_);
      MutexLock lock(core_.table.mutex);
      core_.table.CloseLocked();
    }
    writer_->Wake();
    return writer_->WaitUntilWritten();
  }

  DiskReadStatus ReadNow(DiskObject object, std::span<std::byte> out, int* error) {
    CheckHandle(object);
    ZMEM_CHECK(out.size() >= object.bytes);
    return zmem::ReadNow(core_, object, out, error);
  }

  void CheckHandle(DiskObject object) const {
    ZMEM_CHECK(object.bytes >= 1 && object.bytes <= kPageBytes);
    ZMEM_CHECK(core_.OffsetOf(object.handle) + RecordBytes(object.bytes) <=
               core_.storage.size_bytes());
  }

  size_t ChooseVictims(size_t most_segments) {
    MutexLock lock(core_.table.mutex);
    return core_.table.ChooseVictimsLocked(most_segments);
  }

  void EndRound() {
    {
      MutexLock lock(core_.table.mutex);
      core_.table.EndRoundLocked();
    }
    writer_->Wake();
  }

  Stats stats() const {
    Stats stats;
    uint64_t segment_bytes = core_.table.segment_bytes();
    {
      MutexLock lock(core_.table.mutex);
      SegmentTable::Counts counts = core_.table.CountsLocked();
      stats.objects = objects_;
      stats.live_bytes = live_bytes_;
      stats.writes = writes_;
      stats.free_segments = counts.free_segments;
      stats.victim_segments = counts.victim_segments;
      stats.cleaned_bytes = counts.cleaned_segments * segment_bytes;
      stats.daily_bytes_left = budget_.LeftBytes(clock_.now_ns());
    }
    stats.segments = core_.table.segments();
    stats.held_bytes = (stats.segments - stats.free_segments) * segment_bytes;
    stats.reads = core_.reads.value();
    stats.bytes_read = core_.bytes_read.value();
    stats.bytes_written = core_.bytes_written.value();
    stats.io_errors_read = core_.io_errors_read.value();
    stats.io_errors_write = core_.io_errors_write.value();
    stats.checksum_errors = core_.checksum_errors.value();
    stats.stale_reads = core_.stale_reads.value();
    stats.metadata_bytes =
        sizeof *this + buffers_.bytes() + core_.table.metadata_bytes() + core_.reader_bytes.value();
    stats.is_suspended = writer_->is_suspended();
    return stats;
  }

  BackingCore& core() { return core_; }
  const BackingCore& core() const { return core_; }

 private:
  AppendResult AppendToSegment(std::span<const std::byte> object, DiskHandle* handle,
                               Purpose purpose, bool* has_queued)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(append_mutex_) {
    size_t record_bytes = RecordBytes(object.size());
    int64_t now_ns = clock_.now_ns();
    SegmentTable::Place place;
    {
      MutexLock lock(core_.table.mutex);
      if (budget_.LeftBytes(now_ns) < record_bytes) return AppendResult::kLimited;
      AppendResult result = core_.table.FindPlaceLocked(record_bytes, purpose, &place, has_queued);
      if (result != AppendResult::kDone) return result;
    }
    *handle = {(core_.SegmentStart(place.segment) + place.offset) / kDiskGranuleBytes};
    WriteRecord(object, core_.SeedOf(*handle, place.generation), place.bytes);
    MutexLock lock(core_.table.mutex);
    core_.table.CommitLocked(record_bytes);
    budget_.Use(record_bytes, now_ns);
    ++objects_;
    ++writes_;
    live_bytes_ += object.size();
    return AppendResult::kDone;
  }

  const Clock& clock_;
  const AlignedMemory buffers_;
  BackingCore core_;
  // One record is put in its place at a time; so what is committed is a prefix of the segment.
  Mutex append_mutex_ ABSL_ACQUIRED_BEFORE(core_.table.mutex);
  DailyBudget budget_ ABSL_GUARDED_BY(core_.table.mutex);
  uint64_t objects_ ABSL_GUARDED_BY(core_.table.mutex) = 0;
  uint64_t live_bytes_ ABSL_GUARDED_BY(core_.table.mutex) = 0;
  uint64_t writes_ ABSL_GUARDED_BY(core_.table.mutex) = 0;
  std::unique_ptr<SegmentWriter> writer_;  // last: its thread uses all of the above
};

absl::StatusOr<std::unique_ptr<BackingFile>> BackingFile::Open(const Options& options) {
  absl::Status status = CheckOptions(options);
  if (!status.ok()) return status;
  auto storage = BackingStorage::Open({.path = options.path,
                                       .size_bytes = options.size_bytes,
                                       .unit_bytes = options.segment_bytes,
                                       .minimum_units = kMinSegments,
                                       .maximum_bytes = kMaxFileBytes,
                                       .preallocate = options.preallocate});
  if (!storage.ok()) return storage.status();
  AlignedMemory buffers(kSegmentBuffers * options.segment_bytes);
  if (buffers.data() == nullptr) return OutOfMemory(buffers.bytes());
  uint64_t salt;
  if (getrandom(&salt, sizeof salt, 0) != sizeof salt) {
    return sys::ErrnoStatus(errno, "cannot get random bytes for the backing file");
  }
  auto impl = std::make_unique<Impl>(options, *std::move(storage), std::move(buffers), salt);
  status = impl->Start();
  if (!status.ok()) return status;
  return std::unique_ptr<BackingFile>(new BackingFile(std::move(impl)));
}

BackingFile::BackingFile(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
BackingFile::~BackingFile() = default;

AppendResult BackingFile::Append(std::span<const std::byte> object, DiskHandle* handle,
                                 Purpose purpose) {
  return impl_->Append(object, handle, purpose);
}
void BackingFile::Free(DiskObject object) { impl_->Free(object); }
bool BackingFile::Flush() { return impl_->Flush(); }
DiskReadStatus BackingFile::ReadNow(DiskObject object, std::span<std::byte> out, int* error) {
  return impl_->ReadNow(object, out, error);
}

absl::StatusOr<std::unique_ptr<DiskReader>> BackingFile::NewReader() {
  AlignedMemory buffers(DiskReader::Impl::kBuffersBytes);
  if (buffers.data() == nullptr) return OutOfMemory(buffers.bytes());
  auto ring = DiskReader::Impl::NewRing(impl_->core(), buffers);
  if (!ring.ok()) return ring.status();
  return std::unique_ptr<DiskReader>(new DiskReader(
      std::make_unique<DiskReader::Impl>(impl_->core(), std::move(buffers), *std::move(ring))));
}

bool BackingFile::CanReadTogether(DiskObject first, DiskObject last) const {
  const BackingCore& core = impl_->core();
  return StretchIsReadable(core, first, last);
}

size_t BackingFile::ChooseVictims(size_t most_segments) {
  return impl_->ChooseVictims(most_segments);
}
bool BackingFile::IsVictim(DiskHandle handle) const {
  const BackingCore& core = impl_->core();
  ZMEM_CHECK(core.OffsetOf(handle) < core.storage.size_bytes());
  return core.table.IsVictim(core.SegmentOf(handle));
}
void BackingFile::EndRound() { impl_->EndRound(); }
BackingFile::Stats BackingFile::stats() const { return impl_->stats(); }

}  // namespace zmem
