// The thread that keeps what is stored in good order (store/upkeep.h), beside all that programs
// wait for. Thread-safe.
#pragma once

#include <atomic>
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
  // `processes` is called from the thread. `pool` is the one that `upkeep` keeps.
  // Errors: ResourceExhausted if no thread can be started.
  static absl::StatusOr<std::unique_ptr<Housekeeper>> Start(Upkeep& upkeep, const Zpool& pool,
                                                            Upkeep::ProcessesFn processes);
  // Looks for work now. Returns at once.
  void Wake();
  // Ends the thread, within one chunk's work.
  ~Housekeeper();

 private:
  Housekeeper(Upkeep& upkeep, const Zpool& pool, Upkeep::ProcessesFn processes)
      : upkeep_(upkeep), pool_(pool), processes_(std::move(processes)) {}
  void Run();

  Upkeep& upkeep_;
  const Zpool& pool_;
  const Upkeep::ProcessesFn processes_;
  std::atomic<bool> stop_{false};
  Mutex mutex_;
  CondVar changed_;
  bool woken_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace zmem
