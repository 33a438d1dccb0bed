// When the epochs of a process's page ages began (store/page_ages.h).
// Not thread-safe.
#pragma once

#include <array>
#include <cstdint>
#include <limits>

#include "libzmem/store/page_ages.h"

namespace zmem {

class EpochClock {
 public:
  // Of pages that are older than can be told.
  static constexpr int64_t kAncientNs = std::numeric_limits<int64_t>::max();

  explicit EpochClock(int64_t now_ns) { starts_ns_[now_] = now_ns; }

  Epoch now() const { return now_; }
  // Begins the next one. Whoever keeps ages forgets those of half a round ago in time (Expire).
  void Advance(int64_t now_ns) {
    now_ = NextEpoch(now_);
    starts_ns_[now_] = now_ns;
    ++advances_;
  }
  int64_t start_ns() const { return starts_ns_[now_]; }
  // How long ago `epoch` began.
  int64_t AgeNs(Epoch epoch, int64_t now_ns) const {
    return epoch == 0 ? kAncientNs : now_ns - starts_ns_[epoch];
  }
  // The epoch of `time_ns`; 0 if that is more than half a round ago.
  Epoch At(int64_t time_ns) const {
    Epoch epoch = now_;
    for (unsigned back = 0; back < kExpiryEpochs; ++back) {
      if (starts_ns_[epoch] <= time_ns) return epoch;
      epoch = epoch == 1 ? kLastEpoch : epoch - 1;
      if (starts_ns_[epoch] == 0) return 0;
    }
    return 0;
  }

  // Ages of more epochs are to be forgotten, each time that IsExpiryDue says so: before a round is
  // over and they look young.
  static constexpr unsigned kExpiryEpochs = kLastEpoch / 2;
  bool IsExpiryDue() {
    if (advances_ < kExpiryEpochs / 2) return false;
    advances_ = 0;
    return true;
  }

 private:
  Epoch now_ = 1;
  unsigned advances_ = 0;
  std::array<int64_t, kLastEpoch + 1> starts_ns_{};
};

}  // namespace zmem
