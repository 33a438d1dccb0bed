// Takes programs' pages out again and again while they do something else, and counts what that did.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
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

struct EvictorOptions {
  // The only program, which is then not looked at; else all that are managed at the time.
  std::optional<pid_t> pid;
  std::chrono::milliseconds pause{0};  // between two rounds
};

// Runs on a thread of its own from its construction to Stop or its end; everything that it starts
// has ended then. Its counts may be read from any thread. A program that is not managed, or no
// more, is passed over.
class Evictor {
 public:
  // `daemon` must outlive it.
  explicit Evictor(const Daemon& daemon, const EvictorOptions& options = {});
  ~Evictor();
  Evictor(const Evictor&) = delete;
  Evictor& operator=(const Evictor&) = delete;

  // How often everything of a program was taken out so far.
  int evictions() const { return evictions_; }
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
  void Evict(pid_t pid);
  void Count(const nlohmann::json& process);

  const Daemon& daemon_;
  const EvictorOptions options_;
  std::map<pid_t, Seen> seen_;
  std::atomic<int> evictions_{0};
  std::atomic<int64_t> programs_{0};
  std::atomic<int64_t> evicted_pages_{0};
  std::atomic<int64_t> faults_{0};
  std::atomic<int64_t> poisoned_pages_{0};
  std::string error_;  // written by the thread before it ends
  std::atomic<bool> stop_{false};
  std::thread thread_;  // the last member: it uses the others
};

}  // namespace zmem
