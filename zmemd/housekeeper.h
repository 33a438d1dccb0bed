// The thread that keeps what is stored in good order (store/upkeep.h), beside all that programs
// wait for. Thread-safe.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <thread>
#include <utility>

#include "absl/status/statusor.h"
#include "libzmem/base/mutex.h"
#include "libzmem/pool/zpool.h"
#include "libzmem/store/upkeep.h"

namespace zmem {

class Housekeeper {
 public:
  // `processes` is called from the thread. `pool` is the one that `upkeep` keeps, and keeps empty
  // spans of up to `keep_bytes` itself.
  // Errors: ResourceExhausted if no thread can be started.
  static absl::StatusOr<std::unique_ptr<Housekeeper>> Start(Upkeep& upkeep, Zpool& pool,
                                                            uint64_t keep_bytes,
                                                            Upkeep::ProcessesFn processes);
  // Looks for work now. Returns at once.
  void Wake();
  // The pool keeps many empty spans: they are given back when no more have come for a moment, or
  // half of what may be kept is. Returns at once.
  void OnManyKept();
  // Ends the thread, within one chunk's work.
  ~Housekeeper();

 private:
  Housekeeper(Upkeep& upkeep, Zpool& pool, uint64_t keep_bytes, Upkeep::ProcessesFn processes)
      : upkeep_(upkeep), pool_(pool), keep_bytes_(keep_bytes), processes_(std::move(processes)) {}
  void Run();
  // Waits for something to do. Returns whether it is time for upkeep.
  bool Await(std::chrono::steady_clock::time_point upkeep_due);

  Upkeep& upkeep_;
  Zpool& pool_;
  const uint64_t keep_bytes_;
  const Upkeep::ProcessesFn processes_;
  std::atomic<bool> stop_{false};
  Mutex mutex_;
  CondVar changed_;
  bool woken_ ABSL_GUARDED_BY(mutex_) = false;
  bool many_kept_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace zmem
