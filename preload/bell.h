// How threads of the program get something from the agent: they say what, wake it with a signal to
// its thread (where it is blocked, and stays pending until it is fetched), and wait on a futex.
// The program's side is thread-safe and async-signal-safe: no allocation, no errno, no lock.
#pragma once

#include <atomic>
#include <cstdint>

#include "libzmem/wire/messages.h"

namespace zmem {

// Fetching a signal takes those sent to the whole process as well, so it must be one that no
// program sends or waits for. libc keeps this one to itself (SIGSETXID): it has no name, cannot be
// blocked by a program, and goes to single threads only.
inline constexpr int kBellSignal = 33;

struct Bell {
  // No thread's number, and one that no signal is sent to.
  static constexpr uint32_t kStarting = ~uint32_t{0};

  // The agent's thread, or kStarting; 0 when there is none. The kernel clears it, and wakes who
  // waits on it, when the thread ends.
  std::atomic<uint32_t> agent_tid{0};
  // By wish: how often it was asked for, and up to which asking it was granted.
  std::atomic<uint32_t> asked[wire::kWishes] = {};
  std::atomic<uint32_t> granted[wire::kWishes] = {};
  // Threads between the beginning and the end of a fork. The agent takes no page out meanwhile.
  std::atomic<uint32_t> forks{0};
  // Threads that keep the agent away (step_aside.h), and how often it was sent away.
  std::atomic<uint32_t> absences{0};
  std::atomic<uint32_t> dismissals{0};
  // Whether pages may be in the staging area. Set before `forks` is looked at, as `forks` is set
  // before this is: one of the two sides sees the other.
  std::atomic<bool> staged{false};
};

// Asks for `wish` and waits until it is granted, the agent has ended, or `timeout_ms` have passed.
// False in the last case.
bool Ask(Bell& bell, wire::Wish wish, int64_t timeout_ms);

// Waits until the agent's thread has ended; false after `timeout_ms`.
bool AwaitAgentEnd(Bell& bell, int64_t timeout_ms);

// The agent's side.

// Grants `wish` to whoever asked up to the asking `up_to`.
void GrantUpTo(Bell& bell, wire::Wish wish, uint32_t up_to);

}  // namespace zmem
