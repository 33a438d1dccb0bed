// Takes the pages of everything a daemon manages out, again and again, and counts what that did.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <map>
#include <string>
#include <thread>

#include "tests/harness.h"

namespace zmem {

// What was seen of all programs together. Programs are looked at once a round, so what happens to
// one in its last moments is missing: every number is a lower bound.
struct EvictionTotals {
  int64_t programs = 0;        // processes that were managed
  int64_t evicted_pages = 0;   // moved out
  int64_t faults = 0;          // answered with a page's bytes
  int64_t poisoned_pages = 0;  // must stay 0
};

// Runs from its construction to Stop or its end. Its totals may be read from any thread.
class Evictor {
 public:
  // `daemon` must outlive it.
  explicit Evictor(const Daemon& daemon);
  ~Evictor();
  Evictor(const Evictor&) = delete;
  Evictor& operator=(const Evictor&) = delete;

  EvictionTotals totals() const;
  // Ends it after the round it is in. Throws if the daemon could not be asked.
  void Stop();

 private:
  // The counters of one process as the last round saw them. They start afresh when it attaches
  // anew, or when its number is used again.
  struct Seen {
    int64_t evicted_pages = 0;
    int64_t poisoned_pages = 0;
  };

  void Run();
  void Round();
  void Count(const nlohmann::json& process);

  const Daemon& daemon_;
  std::map<pid_t, Seen> seen_;
  std::atomic<int64_t> programs_{0};
  std::atomic<int64_t> evicted_pages_{0};
  std::atomic<int64_t> faults_{0};
  std::atomic<int64_t> poisoned_pages_{0};
  std::string error_;  // written by the thread before it ends
  std::atomic<bool> stop_{false};
  std::thread thread_;  // the last member: it uses the others
};

}  // namespace zmem
