// The sessions there are, and what those that have ended had counted.
// Thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "libzmem/base/histogram.h"
#include "libzmem/base/mutex.h"
#include "zmemd/session.h"

namespace zmem {

class SessionList {
 public:
  void Add(std::shared_ptr<Session> session);
  // In the order in which they came; some may have ended.
  std::vector<std::shared_ptr<Session>> All() const;
  // Takes out those that have ended, and keeps what they counted. To destroy one joins a thread.
  std::vector<std::shared_ptr<Session>> TakeEnded();

  // Of all sessions that there ever were.
  uint64_t faults_total() const;
  void MergeFaultLatency(LatencyHistogram& latency) const;
  // The sum of one counter over those that are there.
  uint64_t Sum(std::atomic<uint64_t> ProcessCounters::*counter) const;

 private:
  mutable Mutex mutex_;
  std::vector<std::shared_ptr<Session>> sessions_ ABSL_GUARDED_BY(mutex_);
  uint64_t past_faults_ ABSL_GUARDED_BY(mutex_) = 0;
  LatencyHistogram past_latency_;
};

}  // namespace zmem
