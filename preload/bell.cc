#include "preload/bell.h"

#include <linux/futex.h>
#include <time.h>

#include "preload/raw_syscall.h"

namespace zmem {
namespace {

using raw::AsLong;
using raw::NowMs;
using raw::Syscall;

// Returns when `word` is no longer `seen`, was woken, or after `ms`.
void WaitOn(std::atomic<uint32_t>& word, int operation, uint32_t seen, int64_t ms) {
  timespec timeout{ms / 1000, (ms % 1000) * 1'000'000};
  Syscall(SYS_futex, AsLong(&word), operation, seen, AsLong(&timeout));
}

}  // namespace

bool Ask(Bell& bell, wire::Wish wish, int64_t timeout_ms) {
  // The agent may end, which wakes nobody here, so the wait is cut into pieces.
  constexpr int64_t kPieceMs = 20;
  size_t index = static_cast<size_t>(wish);
  uint32_t mine = bell.asked[index].fetch_add(1) + 1;
  int64_t deadline_ms = NowMs() + timeout_ms;
  uint32_t rung = 0;  // a new agent has to be told again
  for (;;) {
    uint32_t granted = bell.granted[index].load();
    if (static_cast<int32_t>(granted - mine) >= 0) return true;
    uint32_t tid = bell.agent_tid.load();
    if (tid == 0) return true;
    // A user's limit of waiting signals may be reached: then the bell is rung again later.
    if (tid != rung && Syscall(SYS_tgkill, Syscall(SYS_getpid), tid, kBellSignal) == 0) rung = tid;
    if (NowMs() >= deadline_ms) return false;
    WaitOn(bell.granted[index], FUTEX_WAIT_PRIVATE, granted, kPieceMs);
  }
}

bool AwaitAgentEnd(Bell& bell, int64_t timeout_ms) {
  constexpr int64_t kPieceMs = 20;
  int64_t deadline_ms = NowMs() + timeout_ms;
  for (uint32_t tid = bell.agent_tid.load(); tid != 0; tid = bell.agent_tid.load()) {
    if (NowMs() >= deadline_ms) return false;
    WaitOn(bell.agent_tid, FUTEX_WAIT, tid, kPieceMs);  // the kernel's wake-up is not a private one
  }
  return true;
}

void GrantUpTo(Bell& bell, wire::Wish wish, uint32_t up_to) {
  size_t index = static_cast<size_t>(wish);
  bell.granted[index].store(up_to);
  constexpr long kAll = 0x7fffffff;
  Syscall(SYS_futex, AsLong(&bell.granted[index]), FUTEX_WAKE_PRIVATE, kAll);
}

}  // namespace zmem
