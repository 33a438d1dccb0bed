// The thread that has HostPressure look at the host: once a second, and whenever the kernel tells
// that threads wait for memory. Thread-safe.
#pragma once

#include <memory>
#include <thread>

#include "absl/status/statusor.h"
#include "libzmem/base/sys.h"
#include "zmemd/host_pressure.h"

namespace zmem {

class PressureThread {
 public:
  // `pressure` belongs to the thread until this is destroyed.
  // Errors: ResourceExhausted if no thread can be started; what eventfd(2) says.
  static absl::StatusOr<std::unique_ptr<PressureThread>> Start(HostPressure& pressure);
  // Ends the thread, within one turn.
  ~PressureThread();

 private:
  explicit PressureThread(HostPressure& pressure) : pressure_(pressure) {}
  void Run();

  HostPressure& pressure_;
  UniqueFd stop_fd_;
  std::thread thread_;
};

}  // namespace zmem
