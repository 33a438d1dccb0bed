// A request that no idle CPU of the host sleeps: they poll for work, which costs power and makes
// waking a thread cheap, where a CPU that sleeps takes 1 to 50 µs to wake up. The kernel's PM QoS,
// /dev/cpu_dma_latency: requests are the process's own, and end with it however it ends.
// Thread-safe: no lock, one system call or two for each request's beginning and end.
// Source: Documentation/power/pm_qos_interface.rst.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "libzmem/base/clock.h"
#include "libzmem/base/sys.h"

namespace zmem {

class CpuLatency {
 public:
  struct Options {
    size_t most_holders = 0;  // at a time
    std::string device = "/dev/cpu_dma_latency";
  };

  struct Stats {
    uint64_t holds = 0;    // requests begun
    uint64_t held_ns = 0;  // sum of the lengths of those that ended
  };

  // A request, which its destruction ends. The CpuLatency outlives it.
  class Hold {
   public:
    Hold() = default;
    Hold(Hold&&) = default;
    Hold& operator=(Hold&& other) noexcept;
    ~Hold() { End(); }
    bool valid() const { return device_.valid(); }

   private:
    friend class CpuLatency;
    Hold(CpuLatency& owner, UniqueFd device, int64_t since_ns)
        : owner_(&owner), device_(std::move(device)), since_ns_(since_ns) {}
    void End();

    CpuLatency* owner_ = nullptr;
    UniqueFd device_;
    int64_t since_ns_ = 0;
  };

  CpuLatency(const Clock& clock, const Options& options) : clock_(clock), options_(options) {}

  // Begins a request. It is not valid if there are as many as may be, or the device cannot be had;
  // where it cannot be had at all, that is not tried again.
  Hold Begin();

  Stats stats() const;

 private:
  const Clock& clock_;
  const Options options_;
  std::atomic<size_t> holders_{0};
  std::atomic<bool> is_refused_{false};
  std::atomic<uint64_t> holds_{0};
  std::atomic<uint64_t> held_ns_{0};
};

}  // namespace zmem
