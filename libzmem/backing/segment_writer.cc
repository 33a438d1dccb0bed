#include "libzmem/backing/segment_writer.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <vector>

namespace zmem {
namespace {

// Eight failures with their back-off take a quarter of a second, longer than a device's reset.
constexpr unsigned kFailuresToSuspend = 8;
constexpr int64_t kFirstBackOffNs = 1'000'000;
constexpr int64_t kLongestBackOffNs = 1'000'000'000;

int64_t BackOffNs(unsigned failures) {
  unsigned doublings = std::min(failures - 1, 10u);
  return std::min(kFirstBackOffNs << doublings, kLongestBackOffNs);
}

}  // namespace

absl::StatusOr<std::unique_ptr<SegmentWriter>> SegmentWriter::Start(BackingCore& core,
                                                                    std::byte* buffers) {
  size_t segment_bytes = core.table.segment_bytes();
  std::vector<iovec> vectors;
  for (unsigned buffer = 0; buffer < kSegmentBuffers; ++buffer) {
    vectors.push_back({buffers + buffer * segment_bytes, segment_bytes});
  }
  auto ring = IoRing::Create(kSegmentBuffers, core.storage.fd(), vectors);
  if (!ring.ok()) return ring.status();
  UniqueFd wake_fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake_fd.valid()) {
    return sys::ErrnoStatus(errno, "cannot make an eventfd for the backing file");
  }
  std::unique_ptr<SegmentWriter> writer(
      new SegmentWriter(core, std::move(wake_fd), *std::move(ring)));
  writer->can_discard_ = core.storage.can_discard();
  // Signals are other threads' business; one that tells of a file size limit would be fatal.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  writer->thread_ = std::thread([&writer = *writer] { writer.Run(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return writer;
}

SegmentWriter::~SegmentWriter() {
  should_stop_.store(true);
  Wake();
  if (thread_.joinable()) thread_.join();
}

void SegmentWriter::Wake() {
  uint64_t one = 1;
  // Fails only when the count is at its top, and then the thread is awake.
  [[maybe_unused]] ssize_t written = write(wake_fd_.get(), &one, sizeof one);
}

bool SegmentWriter::WaitUntilWritten() {
  MutexLock lock(core_.table.mutex);
  while (core_.table.HasUnwrittenLocked() && !is_suspended()) progress_.wait(core_.table.mutex);
  return !is_suspended();
}

void SegmentWriter::Run() {
  pthread_setname_np(pthread_self(), "zmem-writer");
  while (!should_stop_.load() || IsInFlight()) {
    bool has_more_work = false;
    if (!should_stop_.load()) {
      TakeJobs();
      StartJobs();
      has_more_work = !IsInFlight() && DiscardOne();
    }
    Wait(has_more_work);
    ring_->Reap([this](uint32_t tag, int result) { OnResult(jobs_[tag], result); });
  }
}

bool SegmentWriter::IsInFlight() const {
  return std::any_of(jobs_.begin(), jobs_.end(), [](const Job& job) { return job.is_in_flight; });
}

void SegmentWriter::TakeJobs() {
  for (;;) {
    std::optional<SegmentTable::Write> write;
    {
      MutexLock lock(core_.table.mutex);
      write = core_.table.TakeWriteLocked();
    }
    if (!write) return;
    size_t used = write->committed_bytes;
    size_t length = (used + kDiskBlockBytes - 1) & ~(kDiskBlockBytes - 1);
    // Nobody reads behind the last record.
    std::memset(write->bytes + used, 0, length - used);
    jobs_[write->buffer] = {.write = *write, .length = length};
  }
}

void SegmentWriter::StartJobs() {
  int64_t now_ns = clock_.now_ns();
  for (Job& job : jobs_) {
    if (job.length != 0 && !job.is_in_flight && job.next_try_ns <= now_ns) StartJob(job);
  }
}

void SegmentWriter::StartJob(Job& job) {
  bool is_worthless;
  {
    MutexLock lock(core_.table.mutex);
    is_worthless = core_.table.IsWorthlessLocked(job.write.buffer);
  }
  if (is_worthless) return Finish(job);
  int error = ring_->Write({.buffer = job.write.buffer,
                            .bytes = job.write.bytes + job.written_bytes,
                            .length = job.length - job.written_bytes,
                            .offset = core_.SegmentStart(job.write.segment) + job.written_bytes,
                            .tag = job.write.buffer});
  if (error != 0) return OnFailure(job);
  job.is_in_flight = true;
}

void SegmentWriter::OnResult(Job& job, int result) {
  job.is_in_flight = false;
  // What is continued has to start at a block.
  size_t blocks_bytes = result > 0 ? static_cast<size_t>(result) & ~(kDiskBlockBytes - 1) : 0;
  if (blocks_bytes == 0) return OnFailure(job);
  core_.bytes_written.Add(blocks_bytes);
  job.written_bytes += blocks_bytes;
  job.failures = 0;
  if (job.written_bytes == job.length) return Finish(job);
  UpdateSuspended();
}

void SegmentWriter::OnFailure(Job& job) {
  core_.io_errors_write.Add(1);
  ++job.failures;
  job.next_try_ns = clock_.now_ns() + BackOffNs(job.failures);
  UpdateSuspended();
}

void SegmentWriter::UpdateSuspended() {
  bool is_suspended = std::any_of(jobs_.begin(), jobs_.end(), [](const Job& job) {
    return job.failures >= kFailuresToSuspend;
  });
  MutexLock lock(core_.table.mutex);
  is_suspended_.store(is_suspended, std::memory_order_relaxed);
  progress_.notify_all();
}

void SegmentWriter::Finish(Job& job) {
  {
    MutexLock lock(core_.table.mutex);
    core_.table.WrittenLocked(job.write.buffer);
  }
  job = {};
  UpdateSuspended();
}

bool SegmentWriter::DiscardOne() {
  if (!can_discard_) return false;
  uint32_t segment;
  {
    MutexLock lock(core_.table.mutex);
    segment = core_.table.TakeDiscardLocked();
  }
  if (segment == kNoSegment) return false;
  int error = core_.storage.Discard(core_.SegmentStart(segment), core_.table.segment_bytes());
  // A file system without holes keeps the space; the segment is free all the same.
  if (error == -EOPNOTSUPP) can_discard_ = false;
  MutexLock lock(core_.table.mutex);
  core_.table.DiscardedLocked(segment);
  return true;
}

void SegmentWriter::Wait(bool has_more_work) {
  pollfd fds[2] = {{.fd = wake_fd_.get(), .events = POLLIN}, {.fd = ring_->fd(), .events = POLLIN}};
  sys::Poll(fds, 2, has_more_work ? 0 : MillisecondsToNextTry());
  uint64_t count;
  if (fds[0].revents != 0) {
    [[maybe_unused]] ssize_t got = read(wake_fd_.get(), &count, sizeof count);
  }
}

int SegmentWriter::MillisecondsToNextTry() const {
  int64_t now_ns = clock_.now_ns();
  int64_t next_ns = INT64_MAX;
  for (const Job& job : jobs_) {
    if (job.length != 0 && !job.is_in_flight) next_ns = std::min(next_ns, job.next_try_ns);
  }
  if (next_ns == INT64_MAX) return -1;
  return static_cast<int>(std::max<int64_t>(next_ns - now_ns, 0) / 1'000'000 + 1);
}

}  // namespace zmem
