#include "zmemd/session_list.h"

#include <algorithm>
#include <utility>

namespace zmem {

void SessionList::Add(std::shared_ptr<Session> session) {
  MutexLock lock(mutex_);
  sessions_.push_back(std::move(session));
}

std::vector<std::shared_ptr<Session>> SessionList::All() const {
  MutexLock lock(mutex_);
  return sessions_;
}

std::vector<std::shared_ptr<Session>> SessionList::TakeEnded() {
  std::vector<std::shared_ptr<Session>> ended;
  MutexLock lock(mutex_);
  auto first_ended = std::stable_partition(
      sessions_.begin(), sessions_.end(),
      [](const std::shared_ptr<Session>& session) { return !session->ended(); });
  for (auto at = first_ended; at != sessions_.end(); ++at) {
    past_faults_ += (*at)->process().counters.faults_total;
    past_latency_.Merge((*at)->process().fault_latency);
    ended.push_back(std::move(*at));
  }
  sessions_.erase(first_ended, sessions_.end());
  return ended;
}

uint64_t SessionList::faults_total() const {
  uint64_t faults = Sum(&ProcessCounters::faults_total);
  MutexLock lock(mutex_);
  return faults + past_faults_;
}

void SessionList::MergeFaultLatency(LatencyHistogram& latency) const {
  for (const std::shared_ptr<Session>& session : All()) {
    latency.Merge(session->process().fault_latency);
  }
  latency.Merge(past_latency_);
}

uint64_t SessionList::Sum(std::atomic<uint64_t> ProcessCounters::*counter) const {
  uint64_t sum = 0;
  for (const std::shared_ptr<Session>& session : All()) {
    sum += session->process().counters.*counter;
  }
  return sum;
}

}  // namespace zmem
