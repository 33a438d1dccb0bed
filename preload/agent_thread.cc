// A bare thread: raw clone, not pthread_create, so that glibc keeps its single-threaded fast paths
// and never counts, cancels or signals it (FACTS 30).

#include <errno.h>
#include <linux/sched.h>
#include <signal.h>

#include "preload/agent.h"
#include "preload/raw_syscall.h"

namespace zmem {
namespace {

// The descriptor table is the program's until the agent needs one: copying it would cost a program
// that ends or executes another at once. CLONE_FS is missing, with which the program could not
// enter another mount namespace, and so is CLONE_SETTLS: the thread never uses thread-local
// storage.
constexpr unsigned long kCloneFlags = CLONE_VM | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM |
                                      CLONE_FILES | CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID;

// Calls clone, and in the new thread RunAgent(state) on `stack_top`, whose stack holds no return
// address to come back to.
long CloneInto(void* stack_top, AgentState* state) {
  long result;
  std::atomic<uint32_t>* tid = &state->bell.agent_tid;
  register std::atomic<uint32_t>* r10 asm("r10") = tid;
  register long r8 asm("r8") = 0;
  register AgentState* kept asm("r12") = state;
  register auto body asm("r13") = &RunAgent;
  asm volatile(
      "syscall\n\t"
      "test %%rax, %%rax\n\t"
      "jnz 1f\n\t"
      "xor %%ebp, %%ebp\n\t"
      "mov %%r12, %%rdi\n\t"
      "call *%%r13\n\t"
      "hlt\n"
      "1:"
      : "=a"(result)
      : "a"(SYS_clone), "D"(kCloneFlags), "S"(stack_top), "d"(tid), "r"(r10), "r"(r8), "r"(kept),
        "r"(body)
      : "rcx", "r11", "memory");
  return result;
}

}  // namespace

int StartAgentThread(AgentState* state) {
  // The stack is for one.
  uint32_t none = 0;
  if (!state->bell.agent_tid.compare_exchange_strong(none, Bell::kStarting)) return 0;
  // All signals are blocked around the clone, and the thread inherits the mask.
  uint64_t all = ~uint64_t{0};
  uint64_t before = 0;
  raw::Syscall(SYS_rt_sigprocmask, SIG_SETMASK, raw::AsLong(&all), raw::AsLong(&before), 8);
  long result = CloneInto(reinterpret_cast<void*>(state->mapping.end - 64), state);
  raw::Syscall(SYS_rt_sigprocmask, SIG_SETMASK, raw::AsLong(&before), 0, 8);
  if (result < 0) state->bell.agent_tid.store(0);
  return result < 0 ? static_cast<int>(result) : 0;
}

}  // namespace zmem
