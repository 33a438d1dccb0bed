// Time, as a dependency: engines take a Clock, tests hand them one that stands still.
// Thread-safe.
#pragma once

#include <cstdint>
#include <ctime>

namespace zmem {

class Clock {
 public:
  virtual ~Clock() = default;
  // Nanoseconds since an arbitrary start; never goes back.
  virtual int64_t now_ns() const = 0;
};

class MonotonicClock final : public Clock {
 public:
  int64_t now_ns() const override {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * int64_t{1'000'000'000} + now.tv_nsec;
  }
};

// Time that the calling thread has spent on a CPU.
class ThreadCpuClock final : public Clock {
 public:
  int64_t now_ns() const override {
    timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return now.tv_sec * int64_t{1'000'000'000} + now.tv_nsec;
  }
};

// For tests; not thread-safe.
class FakeClock final : public Clock {
 public:
  int64_t now_ns() const override { return now_ns_; }
  void Advance(int64_t ns) { now_ns_ += ns; }

 private:
  int64_t now_ns_ = 0;
};

}  // namespace zmem
