// How fast pages are wanted back, and whether looking out for the next fault is worth it.
// Belongs to the fault thread.
#pragma once

#include <algorithm>
#include <cstdint>

namespace zmem {

class FaultPace {
 public:
  // None for so long is quiet.
  static constexpr int64_t kQuietNs = 20'000'000;

  // Call for each fault that brought a page back.
  void OnFault(int64_t now_ns) {
    if (now_ns - last_ns_ > kQuietNs) {
      is_fast_ = false;
      faults_ = 0;
      since_ns_ = now_ns;
    }
    last_ns_ = now_ns;
    if (++faults_ < kFaults) return;
    int64_t taken_ns = now_ns - since_ns_;
    faults_ = 0;
    since_ns_ = now_ns;
    if (taken_ns < kFaults * kFastNs) is_fast_ = true;
    if (taken_ns > kFaults * kSlowNs) is_fast_ = false;
  }

  // A tenth of the program's time and more goes into waiting for pages.
  bool IsFast(int64_t now_ns) const { return is_fast_ && now_ns - last_ns_ <= kQuietNs; }

 private:
  static constexpr int64_t kFaults = 64;
  static constexpr int64_t kFastNs = 100'000;  // from one to the next
  static constexpr int64_t kSlowNs = 400'000;

  int64_t faults_ = 0;
  int64_t since_ns_ = 0;
  int64_t last_ns_ = 0;
  bool is_fast_ = false;
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
