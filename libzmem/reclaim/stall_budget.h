// How fast a program's pages may go out so that its threads wait no longer for them than was
// promised: additive up, multiplicative down, and doubled while nobody waits at all, as TCP's
// congestion window (RFC 5681). A rate, not a count of pages that are out, since what a page costs
// is seen only when it comes back.
// Not thread-safe; makes no system call.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace zmem {

class StallBudget {
 public:
  // A decision is made once in a window, by the stalls of the last kWindows.
  static constexpr int64_t kWindowNs = 250'000'000;
  static constexpr size_t kWindows = 4;
  // Pages a second. Begins with 64 MiB/s; one that nobody can do without waiting is the most.
  static constexpr double kFirstRate = 16'384;
  static constexpr double kLeastRate = 4;
  static constexpr double kMostRate = 262'144;
  // It rises in a window whose pages were all used while the stalls were below kRaiseBelow of the
  // target: to twice what it was if there were none, else by this part of what it was after the
  // last cut.
  static constexpr double kRaisePart = 1.0 / 16;
  static constexpr double kRaiseBelow = 0.75;

  enum class Decision { kNone, kRaised, kCut };

  explicit StallBudget(int64_t now_ns) : window_start_ns_(now_ns), filled_ns_(now_ns) {}

  // `total_stall_ns` is what threads have waited in all; `target_percent` of wall time.
  Decision Update(uint64_t total_stall_ns, double target_percent, int64_t now_ns);
  // Whether pages may go out now. A whole chunk may, though fewer are left: then it takes longer
  // until the next.
  bool Allows(int64_t now_ns);
  void Spend(size_t pages) { pages_left_ -= static_cast<double>(pages); }

  double pages_per_second() const { return rate_; }
  // Of wall time, in the last windows.
  double actual_percent() const { return actual_percent_; }

 private:
  struct Window {
    uint64_t stall_ns = 0;
    int64_t wall_ns = 0;
  };

  double rate_ = kFirstRate;
  double rate_after_cut_ = kFirstRate;
  double pages_left_ = 0;
  double actual_percent_ = 0;
  bool is_over_ = false;    // the last window was above the target: nothing goes out
  bool was_short_ = false;  // more would have gone out in this window
  int64_t window_start_ns_;
  int64_t filled_ns_;
  uint64_t stall_at_start_ns_ = 0;
  std::array<Window, kWindows> windows_{};
  size_t next_window_ = 0;
};

}  // namespace zmem
