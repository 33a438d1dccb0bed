// How fast pages are wanted back, by whom, and whether looking out for the next fault is worth it.
// Belongs to the fault thread.
#pragma once

#include <sys/types.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace zmem {

class FaultPace {
 public:
  // None for so long is quiet.
  static constexpr int64_t kQuietNs = 20'000'000;

  // Call for each fault that brought a page back.
  void OnFault(int64_t now_ns) { Add(1, now_ns); }
  // Call for what was brought back of a stream of faults.
  void OnStream(size_t pages, int64_t now_ns) {
    Add(static_cast<int64_t>(pages / kStreamPages), now_ns);
  }

  // A tenth of the program's time and more goes into waiting for pages.
  bool IsFast(int64_t now_ns) const { return is_fast_ && now_ns - last_ns_ <= kQuietNs; }

 private:
  static constexpr int64_t kFaults = 64;
  // So many pages of a stream are waited for as long as one alone, at least.
  static constexpr size_t kStreamPages = 16;
  static constexpr int64_t kFastNs = 100'000;  // from one to the next
  static constexpr int64_t kSlowNs = 400'000;

  void Add(int64_t faults, int64_t now_ns) {
    if (faults == 0) return;
    if (now_ns - last_ns_ > kQuietNs) {
      is_fast_ = false;
      faults_ = 0;
      since_ns_ = now_ns;
    }
    last_ns_ = now_ns;
    faults_ += faults;
    if (faults_ < kFaults) return;
    int64_t fault_ns = (now_ns - since_ns_) / faults_;
    faults_ = 0;
    since_ns_ = now_ns;
    if (fault_ns < kFastNs) is_fast_ = true;
    if (fault_ns > kSlowNs) is_fast_ = false;
  }

  int64_t faults_ = 0;
  int64_t since_ns_ = 0;
  int64_t last_ns_ = 0;
  bool is_fast_ = false;
};

// Whether one thread alone faults, so that nobody else waits while its pages are brought.
class LoneFaulter {
 public:
  void OnFault(pid_t thread) {
    faults_ = thread == thread_ ? std::min(faults_ + 1, kCertain) : 0;
    thread_ = thread;
  }
  bool is_alone() const { return faults_ == kCertain; }

 private:
  static constexpr int kCertain = 32;

  pid_t thread_ = 0;
  int faults_ = 0;  // that followed each other
};

// Looks are given up for a while when most of them find nothing: the CPU is wanted by others then.
class LookCredit {
 public:
  // Whether to look this time.
  bool Take() {
    if (credit_ >= 0) return true;
    ++credit_;
    return false;
  }
  void OnLook(bool found) {
    credit_ = found ? std::min(credit_ + 1, kMost) : credit_ - 2;
    if (credit_ < 0) credit_ = -kPause;
  }

 private:
  static constexpr int kMost = 16;
  static constexpr int kPause = 256;  // faults

  int credit_ = kMost;
};

}  // namespace zmem
