#include "libzmem/base/cpu_latency.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include <utility>

namespace zmem {

CpuLatency::Hold& CpuLatency::Hold::operator=(Hold&& other) noexcept {
  End();
  owner_ = other.owner_;
  device_ = std::move(other.device_);
  since_ns_ = other.since_ns_;
  return *this;
}

void CpuLatency::Hold::End() {
  if (!device_.valid()) return;
  device_.reset();
  owner_->held_ns_.fetch_add(static_cast<uint64_t>(owner_->clock_.now_ns() - since_ns_),
                             std::memory_order_relaxed);
  owner_->holders_.fetch_sub(1, std::memory_order_relaxed);
}

CpuLatency::Hold CpuLatency::Begin() {
  if (is_refused_.load(std::memory_order_relaxed)) return {};
  size_t holders = holders_.load(std::memory_order_relaxed);
  do {
    if (holders >= options_.most_holders) return {};
  } while (!holders_.compare_exchange_weak(holders, holders + 1, std::memory_order_relaxed));
  constexpr int32_t kMostUs = 0;
  UniqueFd device(sys::Open(options_.device.c_str(), O_WRONLY));
  if (!device.valid() || write(device.get(), &kMostUs, sizeof kMostUs) != sizeof kMostUs) {
    bool is_passing = errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == EINTR;
    if (!is_passing) is_refused_.store(true, std::memory_order_relaxed);
    holders_.fetch_sub(1, std::memory_order_relaxed);
    return {};
  }
  holds_.fetch_add(1, std::memory_order_relaxed);
  return Hold(*this, std::move(device), clock_.now_ns());
}

CpuLatency::Stats CpuLatency::stats() const {
  return {.holds = holds_.load(std::memory_order_relaxed),
          .held_ns = held_ns_.load(std::memory_order_relaxed)};
}

}  // namespace zmem
