// Where streams of faults have lately passed while room was scarce. A program that reads memory in
// order does not want what it has just read soon again, and if it begins anew once it is through,
// that is what it wants last. So these pages go first (reclaimer_room.cc), and of memory that is
// run through again and again the rest stays in.
// Thread-safe.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "libzmem/base/mutex.h"
#include "libzmem/base/page.h"

namespace zmem {

class PassedPages {
 public:
  // What was passed longer ago may be wanted again for another reason.
  static constexpr int64_t kHorizonNs = 1'000'000'000;

  // The oldest is forgotten where there are too many.
  void Add(AddressRange range, int64_t now_ns) {
    MutexLock lock(mutex_);
    newest_ = (newest_ + 1) % kRanges;
    passed_[newest_] = {range, now_ns};
  }

  // What was passed last, which is not given out again; nullopt if there is nothing.
  std::optional<AddressRange> Take(int64_t now_ns) {
    MutexLock lock(mutex_);
    Passed& newest = passed_[newest_];
    if (newest.range.empty() || now_ns - newest.passed_ns > kHorizonNs) return std::nullopt;
    AddressRange range = newest.range;
    newest = {};
    newest_ = (newest_ + kRanges - 1) % kRanges;
    return range;
  }

 private:
  static constexpr size_t kRanges = 256;
  struct Passed {
    AddressRange range{};
    int64_t passed_ns = 0;
  };

  Mutex mutex_;
  std::array<Passed, kRanges> passed_ ABSL_GUARDED_BY(mutex_){};
  size_t newest_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace zmem
