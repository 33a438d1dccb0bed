#include "tests/error.h"

#include <cerrno>
#include <cstring>
#include <thread>

#include "absl/strings/str_format.h"

namespace zmem {

HarnessError ErrnoError(const std::string& what) {
  return HarnessError(what + ": " + std::strerror(errno));
}

void WaitUntil(const std::string& what, std::chrono::milliseconds timeout,
               const std::function<bool()>& done, std::chrono::milliseconds interval) {
  auto deadline = std::chrono::steady_clock::now() + timeout;
  while (!done()) {
    if (std::chrono::steady_clock::now() >= deadline) {
      throw HarnessError(absl::StrFormat("waited %.1f s for %s", timeout.count() / 1e3, what));
    }
    std::this_thread::sleep_for(interval);
  }
}

}  // namespace zmem
