// Takes programs' pages out again and again, as fast as zmemctl does it, while a test asks them for
// something else.
// Starts a thread of its own; everything it starts has ended when it is destroyed.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/harness.h"

namespace zmem {

class Evictor {
 public:
  // Of one program, or of all that are managed at the time. A program that is not managed, or no
  // more, is passed over. The daemon must outlive the evictor.
  Evictor(const Daemon& daemon, pid_t pid) : Evictor(daemon, [pid] { return std::vector{pid}; }) {}
  explicit Evictor(const Daemon& daemon) : Evictor(daemon, [&daemon] { return Managed(daemon); }) {}
  ~Evictor() {
    stop_ = true;
    thread_.join();
  }
  Evictor(const Evictor&) = delete;
  Evictor& operator=(const Evictor&) = delete;

  // How often everything of a program was taken out so far.
  int evictions() const { return evictions_; }

 private:
  Evictor(const Daemon& daemon, std::function<std::vector<pid_t>()> pids)
      : thread_([this, &daemon, pids = std::move(pids)] {
          while (!stop_) {
            for (pid_t pid : pids()) {
              if (daemon.Ctl({"evict", std::to_string(pid)}).status.Succeeded()) ++evictions_;
            }
          }
        }) {}

  static std::vector<pid_t> Managed(const Daemon& daemon) {
    std::vector<pid_t> pids;
    for (const nlohmann::json& process : daemon.CtlJson({"ps", "--json"})) {
      if (process.at("state") == "attached") pids.push_back(process.at("pid"));
    }
    return pids;
  }

  std::atomic<bool> stop_{false};
  std::atomic<int> evictions_{0};
  std::thread thread_;  // the last member: it uses the others
};

}  // namespace zmem
