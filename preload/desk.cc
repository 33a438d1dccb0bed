#include "preload/desk.h"

#include <errno.h>
#include <linux/futex.h>
#include <time.h>

#include "preload/raw_syscall.h"

namespace zmem {
namespace {

using raw::AsLong;
using raw::NowMs;
using raw::Syscall;

constexpr int64_t kPatienceMs = 1000;
// The agent may end, which wakes nobody here, so waits are cut into pieces.
constexpr int64_t kPieceMs = 20;

void Pause(int64_t ms) {
  timespec pause{0, ms * 1'000'000};
  Syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, AsLong(&pause), 0);
}

bool Change(Desk::Place& place, uint32_t from, uint32_t to) {
  return place.state.compare_exchange_strong(from, to);
}

// A place of the calling thread's own, or null if none was free until `deadline_ms`.
Desk::Place* TakePlace(Desk& desk, int64_t deadline_ms) {
  do {
    for (Desk::Place& place : desk.places) {
      if (Change(place, Desk::kFree, Desk::kTaken)) return &place;
    }
    Pause(1);
  } while (NowMs() < deadline_ms);
  return nullptr;
}

// Makes sure that the agent `*rung`, the last that was rung, is the one there is now. False if
// there is none: of a process that was forked without libc, the agent is its parent's.
bool Ring(const Desk& desk, const Bell& bell, uint32_t* rung) {
  uint32_t tid = bell.agent_tid.load();
  if (tid == 0 || desk.open.load() == 0) return false;
  if (tid == *rung) return true;
  long result = Syscall(SYS_tgkill, Syscall(SYS_getpid), tid, kBellSignal);
  if (result == 0) *rung = tid;  // a user may have too many signals waiting: then it is rung again
  return result != -ESRCH;
}

int Await(const Desk& desk, const Bell& bell, Desk::Place& place, int64_t deadline_ms) {
  uint32_t rung = 0;
  for (;;) {
    uint32_t state = place.state.load();
    if (state == Desk::kAnswered) return 0;
    // Who gives a place up may find that its answer has just come.
    if (state == Desk::kAsked && !Ring(desk, bell, &rung)) {
      if (Change(place, Desk::kAsked, Desk::kFree)) return -ENOTCONN;
      continue;
    }
    if (NowMs() >= deadline_ms) {
      uint32_t given_up = state == Desk::kAsked ? Desk::kFree : Desk::kAbandoned;
      if (Change(place, state, given_up)) return -ETIMEDOUT;
      continue;
    }
    timespec timeout{0, kPieceMs * 1'000'000};
    Syscall(SYS_futex, AsLong(&place.state), FUTEX_WAIT_PRIVATE, state, AsLong(&timeout));
  }
}

// The agent's end of a place that it has taken up; no other is touched.
void Finish(Desk::Place& place, const wire::Answer& answer) {
  constexpr long kAll = 0x7fffffff;
  uint32_t state = place.state.load();
  if (state != Desk::kSent && state != Desk::kAbandoned) return;
  place.answer = answer;
  if (!Change(place, Desk::kSent, Desk::kAnswered)) {
    Change(place, Desk::kAbandoned, Desk::kFree);
    return;
  }
  Syscall(SYS_futex, AsLong(&place.state), FUTEX_WAKE_PRIVATE, kAll);
}

}  // namespace

int Consult(Desk& desk, Bell& bell, const wire::Query& query, wire::Answer* answer) {
  if (desk.open.load() == 0) return -ENOTCONN;
  int64_t deadline_ms = NowMs() + kPatienceMs;
  Desk::Place* place = TakePlace(desk, deadline_ms);
  if (place == nullptr) return -ETIMEDOUT;
  place->query = query;
  place->query.header.sequence =
      place->uses++ * Desk::kPlaces + static_cast<uint32_t>(place - desk.places);
  place->state.store(Desk::kAsked);
  int result = Await(desk, bell, *place, deadline_ms);
  if (result != 0) return result;
  *answer = place->answer;
  place->state.store(Desk::kFree);
  return 0;
}

void OpenDesk(Desk& desk) {
  desk.openings.fetch_add(1);
  desk.open.store(1);
}

void CloseDesk(Desk& desk) {
  desk.open.store(0);
  wire::Answer nobody{};
  nobody.error = ENOTCONN;
  for (Desk::Place& place : desk.places) {
    Change(place, Desk::kAsked, Desk::kSent);
    Finish(place, nobody);
  }
}

const wire::Query* NextQuery(Desk& desk) {
  for (Desk::Place& place : desk.places) {
    if (Change(place, Desk::kAsked, Desk::kSent)) return &place.query;
  }
  return nullptr;
}

void Deliver(Desk& desk, const wire::Answer& answer) {
  Desk::Place& place = desk.places[answer.header.sequence % Desk::kPlaces];
  if (place.query.header.sequence == answer.header.sequence) Finish(place, answer);
}

}  // namespace zmem
