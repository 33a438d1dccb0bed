#include "libzmem/reclaim/stall_budget.h"

#include <algorithm>

namespace zmem {
namespace {

double Percent(uint64_t part_ns, int64_t wall_ns) {
  return wall_ns <= 0 ? 0 : 100.0 * static_cast<double>(part_ns) / static_cast<double>(wall_ns);
}

}  // namespace

StallBudget::Decision StallBudget::Update(uint64_t total_stall_ns, double target_percent,
                                          int64_t now_ns) {
  int64_t wall_ns = now_ns - window_start_ns_;
  if (wall_ns < kWindowNs) return Decision::kNone;
  Window last{total_stall_ns - stall_at_start_ns_, wall_ns};
  windows_[next_window_++ % kWindows] = last;
  stall_at_start_ns_ = total_stall_ns;
  window_start_ns_ = now_ns;
  Window sum;
  for (const Window& window : windows_) {
    sum.stall_ns += window.stall_ns;
    sum.wall_ns += window.wall_ns;
  }
  actual_percent_ = Percent(sum.stall_ns, sum.wall_ns);
  bool was_short = was_short_;
  was_short_ = false;
  // The last window tells first that it gets worse, all of them that it is not better yet.
  is_over_ = target_percent <= 0 || Percent(last.stall_ns, last.wall_ns) > target_percent ||
             actual_percent_ > target_percent;
  if (is_over_) {
    pages_left_ = std::min(pages_left_, 0.0);
    if (rate_ <= kLeastRate) return Decision::kNone;
    rate_ = std::max(rate_ / 2, kLeastRate);
    rate_after_cut_ = rate_;
    return Decision::kCut;
  }
  if (!was_short || actual_percent_ > kRaiseBelow * target_percent || rate_ >= kMostRate) {
    return Decision::kNone;
  }
  rate_ += sum.stall_ns == 0 ? rate_ : rate_after_cut_ * kRaisePart;
  rate_ = std::min(rate_, kMostRate);
  return Decision::kRaised;
}

bool StallBudget::Allows(int64_t now_ns) {
  constexpr double kNsPerSecond = 1e9;
  // What was not used in one window is not saved up for later.
  double most = rate_ * static_cast<double>(kWindowNs) / kNsPerSecond;
  double elapsed_s = static_cast<double>(now_ns - filled_ns_) / kNsPerSecond;
  pages_left_ = std::min(pages_left_ + rate_ * elapsed_s, most);
  filled_ns_ = now_ns;
  if (!is_over_ && pages_left_ > 0) return true;
  was_short_ = true;
  return false;
}

}  // namespace zmem
