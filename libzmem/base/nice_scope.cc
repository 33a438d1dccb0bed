#include "libzmem/base/nice_scope.h"

#include <sys/resource.h>

#include <algorithm>
#include <system_error>
#include <thread>

namespace zmem {
namespace {

// A step is 1.25 times the share.
constexpr int kSteps = 10;
constexpr int kNicest = 19;

// Of the calling thread alone, as Linux has it.
bool SetNice(int nice) { return setpriority(PRIO_PROCESS, 0, nice) == 0; }

// Tried in a thread that ends with it.
bool CanReturn() {
  bool can = false;
  try {
    std::thread([&can] {
      int before = getpriority(PRIO_PROCESS, 0);
      can = SetNice(std::min(before + kSteps, kNicest)) && SetNice(before);
    }).join();
  } catch (const std::system_error&) {
    // Threads are scarce: another reason to be done soon.
  }
  return can;
}

}  // namespace

NiceScope::NiceScope(bool wanted) {
  static const bool can_return = CanReturn();
  if (!wanted || !can_return) return;
  before_ = getpriority(PRIO_PROCESS, 0);
  is_nice_ = SetNice(std::min(before_ + kSteps, kNicest));
}

NiceScope::~NiceScope() {
  if (is_nice_) SetNice(before_);
}

}  // namespace zmem
