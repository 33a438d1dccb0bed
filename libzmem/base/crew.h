// Threads that share the work of whoever asks for help, one at a time: compressing many pages while
// a program waits for room, decoding many that it is about to read. Thread-safe.
#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"
#include "libzmem/base/mutex.h"

namespace zmem {

class Crew {
 public:
  // So many threads beside the caller's; 0: the caller does it all. Each calls `on_start` first.
  // `is_wanted` is asked whether a caller is to be helped now; it must be thread-safe.
  Crew(
      size_t helpers, const std::function<void()>& on_start,
      std::function<bool()> is_wanted = [] { return true; });
  // Nobody may be in Run.
  ~Crew();
  Crew(const Crew&) = delete;
  Crew& operator=(const Crew&) = delete;

  // How many threads work at most, with the caller's.
  size_t threads() const { return threads_.size() + 1; }

  // Calls work(task) for each task below `tasks`, once, in the caller's thread and in those that
  // get to it; only in the caller's if they help somebody else, or are not wanted. Returns when all
  // are done. `work` must not call Run.
  void Run(size_t tasks, absl::FunctionRef<void(size_t task)> work);

 private:
  struct Job {
    absl::FunctionRef<void(size_t)> work;
    const size_t tasks;
    std::atomic<size_t> next{0};
  };
  void Help();
  static void Take(Job& job);

  const std::function<bool()> is_wanted_;
  Mutex busy_;  // held by whoever is being helped
  Mutex mutex_;
  CondVar changed_;
  Job* job_ ABSL_GUARDED_BY(mutex_) = nullptr;
  size_t helping_ ABSL_GUARDED_BY(mutex_) = 0;  // helpers that may look at job_
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace zmem
