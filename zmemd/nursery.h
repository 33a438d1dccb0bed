// Serves forked children with one thread for all, while they are young: most of them become another
// program at once, and a thread of its own would cost more than the fork. A child that lives on, or
// wants more than a little, gets its own thread.
// Thread-safe.
#pragma once

#include <poll.h>

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "libzmem/base/clock.h"
#include "libzmem/base/mutex.h"
#include "libzmem/base/sys.h"
#include "zmemd/session.h"

namespace zmem {

class Nursery {
 public:
  // Starts the thread. Errors: ResourceExhausted.
  static absl::StatusOr<std::unique_ptr<Nursery>> Start(const Clock& clock);
  ~Nursery();

  // Takes in a session without a thread, which is served from now on.
  void Add(std::shared_ptr<Session> session);

 private:
  struct Child {
    std::shared_ptr<Session> session;
    int64_t since_ns;
    int turns = 0;  // in which it wanted something
  };

  explicit Nursery(const Clock& clock) : clock_(clock) {}
  void Run();
  void TakeArrivals();
  void Wait();
  // False if the child needs no more service from here.
  bool Serve(Child& child, bool has_messages);

  const Clock& clock_;
  UniqueFd wake_fd_;
  std::atomic<bool> stop_{false};
  Mutex mutex_;
  std::vector<std::shared_ptr<Session>> arrivals_ ABSL_GUARDED_BY(mutex_);
  std::vector<Child> children_;  // the thread's own
  std::vector<pollfd> polled_;   // of children_, the wake-up descriptor behind
  std::thread thread_;
};

}  // namespace zmem
