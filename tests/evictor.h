// Takes a program's pages out again and again, as fast as zmemctl does it, while a test asks the
// program for something else.
// Starts a thread of its own; everything it starts has ended when it is destroyed.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <string>
#include <thread>

#include "tests/harness.h"

namespace zmem {

class Evictor {
 public:
  // The daemon must outlive it. A program that is not managed at times is tried again.
  Evictor(const Daemon& daemon, pid_t pid)
      : thread_([this, &daemon, pid] {
          while (!stop_) {
            if (daemon.Ctl({"evict", std::to_string(pid)}).status.Succeeded()) ++evictions_;
          }
        }) {}
  ~Evictor() {
    stop_ = true;
    thread_.join();
  }
  Evictor(const Evictor&) = delete;
  Evictor& operator=(const Evictor&) = delete;

  // How often everything was taken out so far.
  int evictions() const { return evictions_; }

 private:
  std::atomic<bool> stop_{false};
  std::atomic<int> evictions_{0};
  std::thread thread_;  // the last member: it uses the others
};

}  // namespace zmem
