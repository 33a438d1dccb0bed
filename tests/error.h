// How whole-system tests, the demo and the benches fail: by an exception, so that every destructor
// on the way ends its child process and removes its files. GoogleTest reports it as a failure;
// other mains catch it and print it. Only code above the daemon uses this; libzmem returns
// statuses.
#pragma once

#include <chrono>
#include <functional>
#include <stdexcept>
#include <string>

namespace zmem {

class HarnessError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A HarnessError that says `what` failed and why, from errno.
HarnessError ErrnoError(const std::string& what);

// `result` unless it is negative: then throws an ErrnoError about `what`.
template <typename Int>
Int CheckErrno(Int result, const std::string& what) {
  if (result < 0) throw ErrnoError(what);
  return result;
}

// Asks `done` every `interval` until it says yes. After `timeout` throws, naming `what` was waited
// for. Asking the daemon starts a process; 20 ms keep that below the noise.
void WaitUntil(const std::string& what, std::chrono::milliseconds timeout,
               const std::function<bool()>& done,
               std::chrono::milliseconds interval = std::chrono::milliseconds(20));

}  // namespace zmem
