// Where threads of the program hand in what zmem.h says and asks, and get zmemd's answers: a few
// places in the agent's memory. A thread fills a place, rings the agent (bell.h) and waits on a
// futex in it; the agent passes on what it finds, and never waits for either side: no more messages
// can be on their way than there are places.
// The program's side is thread-safe and async-signal-safe: no allocation, no errno, no lock.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "libzmem/wire/messages.h"
#include "preload/bell.h"

namespace zmem {

struct Desk {
  enum State : uint32_t {
    kFree,
    kTaken,      // a thread's, which fills it
    kAsked,      // the thread waits; the agent has not seen it
    kSent,       // zmemd is to answer
    kAnswered,   // the thread's again, to read and to free
    kAbandoned,  // as kSent, but the thread has given up: the agent frees it
  };
  struct Place {
    std::atomic<uint32_t> state{kFree};
    uint32_t uses = 0;
    wire::Query query;
    wire::Answer answer;
  };
  // Threads that can be in a call at once; more wait for their turn.
  static constexpr size_t kPlaces = 16;

  // zmemd answers at present.
  std::atomic<uint32_t> open{0};
  // How often it has begun to.
  std::atomic<uint64_t> openings{0};
  Place places[kPlaces];
};

// Hands `query` in and waits for `answer`, for a second at most. Returns 0, or a negative errno:
// ENOTCONN when there is no agent that zmemd answers, ETIMEDOUT when it does not in time.
int Consult(Desk& desk, Bell& bell, const wire::Query& query, wire::Answer* answer);

// The agent's side.

void OpenDesk(Desk& desk);
// Who waits is told that nobody will answer.
void CloseDesk(Desk& desk);
// The next query that was handed in, to be sent; null if there is none.
const wire::Query* NextQuery(Desk& desk);
// An answer to nobody is ignored.
void Deliver(Desk& desk, const wire::Answer& answer);

}  // namespace zmem
