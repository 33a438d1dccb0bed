// The thread that brings full segments to the disk and gives the disk space of empty ones back. A
// write that fails is repeated at the same place, with back-off, for as long as something in the
// segment lives: handles name the place. Its bytes stay in their buffer until then.
// Thread-safe.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <thread>

#include "absl/status/statusor.h"
#include "libzmem/backing/backing_core.h"
#include "libzmem/backing/io_ring.h"
#include "libzmem/base/clock.h"
#include "libzmem/base/sys.h"

namespace zmem {

class SegmentWriter {
 public:
  // `buffers`: those of core.table. `core` outlives the writer.
  // Errors: what io_uring and eventfd say.
  static absl::StatusOr<std::unique_ptr<SegmentWriter>> Start(BackingCore& core,
                                                              std::byte* buffers);
  // Waits for what is in flight and writes no more.
  ~SegmentWriter();

  // There is a segment to write or to discard.
  void Wake();
  // Whether writes have failed kFailuresToSuspend times in a row.
  bool is_suspended() const { return is_suspended_.load(std::memory_order_relaxed); }
  // Waits until every queued segment is on disk. False if writing is suspended.
  bool WaitUntilWritten();

 private:
  // The write of one buffer.
  struct Job {
    SegmentTable::Write write;
    bool is_in_flight = false;
    size_t length = 0;  // whole blocks
    size_t written_bytes = 0;
    unsigned failures = 0;  // in a row
    int64_t next_try_ns = 0;
  };

  SegmentWriter(BackingCore& core, UniqueFd wake_fd, std::unique_ptr<IoRing> ring)
      : core_(core), wake_fd_(std::move(wake_fd)), ring_(std::move(ring)) {}

  void Run();
  bool IsInFlight() const;
  void TakeJobs();
  void StartJobs();
  void StartJob(Job& job);
  void OnResult(Job& job, int result);
  void OnFailure(Job& job);
  void UpdateSuspended();
  void Finish(Job& job);
  bool DiscardOne();
  void Wait(bool has_more_work);
  int MillisecondsToNextTry() const;

  BackingCore& core_;
  const UniqueFd wake_fd_;
  const std::unique_ptr<IoRing> ring_;
  const MonotonicClock clock_;
  std::atomic<bool> should_stop_{false};
  std::atomic<bool> is_suspended_{false};
  CondVar progress_;  // with core_.table.mutex: something was written, or suspended

  // The writing thread's own.
  std::array<Job, kSegmentBuffers> jobs_;
  bool can_discard_ = true;

  std::thread thread_;
};

}  // namespace zmem
