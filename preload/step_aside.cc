#include "preload/step_aside.h"

#include <errno.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include "preload/raw_syscall.h"

#define ZMEM_EXPORTED extern "C" __attribute__((visibility("default")))

namespace zmem {

AgentState* g_agent = nullptr;
bool g_sandboxed = false;

namespace {

using raw::Syscall;

// Every page has to come back first. A program that waits for longer than this has waited in vain:
// zmemd is gone.
constexpr int64_t kPatienceMs = 60'000;

long SetErrno(long result) {
  if (result >= 0 || result < -4095) return result;
  errno = static_cast<int>(-result);
  return -1;
}

// True if there was an agent and it is gone.
bool SendAgentAway() {
  if (g_agent == nullptr || g_agent->bell.agent_tid.load() == 0) return false;
  int saved_errno = errno;
  bool left = Ask(g_agent->bell, wire::Wish::kLeave, kPatienceMs) &&
              AwaitAgentEnd(g_agent->bell, kPatienceMs);
  errno = saved_errno;
  return left;
}

void CallAgentBack() {
  if (!g_sandboxed) StartAgentThread(g_agent);
}

// Makes a call that the kernel refuses with EINVAL while there is a second thread. `call` must
// change nothing when it fails.
template <typename Call>
long WithoutAgent(Call call) {
  long result = call();
  if (result != -EINVAL || !SendAgentAway()) return result;
  // The kernel counts a thread for some microseconds after it has told of its end.
  constexpr int kTries = 200;
  for (int tries = 0; tries < kTries && result == -EINVAL; ++tries) {
    timespec pause{0, 50'000};
    if (tries > 0) Syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, raw::AsLong(&pause), 0);
    result = call();
  }
  CallAgentBack();
  return result;
}

long Unshare(long flags) {
  constexpr long kAlone = CLONE_NEWUSER | CLONE_THREAD | CLONE_SIGHAND | CLONE_VM;
  if ((flags & kAlone) == 0) return Syscall(SYS_unshare, flags);
  return WithoutAgent([flags] { return Syscall(SYS_unshare, flags); });
}

long Setns(long fd, long type) {
  return WithoutAgent([fd, type] { return Syscall(SYS_setns, fd, type); });
}

long Seccomp(long operation, long flags, long arguments) {
  bool filter = operation == SECCOMP_SET_MODE_FILTER || operation == SECCOMP_SET_MODE_STRICT;
  bool away = filter && (flags & SECCOMP_FILTER_FLAG_TSYNC) != 0 && SendAgentAway();
  long result = Syscall(SYS_seccomp, operation, flags, arguments);
  if (filter && result == 0) g_sandboxed = true;
  if (away) CallAgentBack();
  return result;
}

long Prctl(long operation, long a, long b, long c, long d) {
  long result = Syscall(SYS_prctl, operation, a, b, c, d);
  if (operation == PR_SET_SECCOMP && result == 0) g_sandboxed = true;
  return result;
}

}  // namespace
}  // namespace zmem

ZMEM_EXPORTED int unshare(int flags) {
  return static_cast<int>(zmem::SetErrno(zmem::Unshare(flags)));
}

ZMEM_EXPORTED int setns(int fd, int type) {
  return static_cast<int>(zmem::SetErrno(zmem::Setns(fd, type)));
}

ZMEM_EXPORTED int prctl(int operation, ...) {
  va_list list;
  va_start(list, operation);
  long a = va_arg(list, long);
  long b = va_arg(list, long);
  long c = va_arg(list, long);
  long d = va_arg(list, long);
  va_end(list);
  return static_cast<int>(zmem::SetErrno(zmem::Prctl(operation, a, b, c, d)));
}

// Guards are put up and taken down without an event (FACTS 11), and behind one that was taken down
// again zeros must be found. Dropping the range as well is an event, and changes nothing else.
ZMEM_EXPORTED int madvise(void* address, size_t bytes, int advice) {
  constexpr int kMadvGuardInstall = 102;  // Linux 6.13
  long start = zmem::raw::AsLong(address);
  long length = static_cast<long>(bytes);
  long result = zmem::Syscall(SYS_madvise, start, length, advice);
  if (advice == kMadvGuardInstall && result == 0) {
    zmem::Syscall(SYS_madvise, start, length, MADV_DONTNEED);
  }
  return static_cast<int>(zmem::SetErrno(result));
}

// The calls above as programs make them through syscall(2). Everything else goes straight to the
// kernel, as in libc, from assembly: a caller may be a few instructions from its limits, and some
// calls (vfork) come back on a stack that must not have changed.
extern "C" __attribute__((used, visibility("hidden"))) long zmem_watched_syscall(long number,
                                                                                 long a, long b,
                                                                                 long c, long d,
                                                                                 long e) {
  switch (number) {
    case SYS_unshare:
      return zmem::SetErrno(zmem::Unshare(a));
    case SYS_setns:
      return zmem::SetErrno(zmem::Setns(a, b));
    case SYS_seccomp:
      return zmem::SetErrno(zmem::Seccomp(a, b, c));
    default:
      return zmem::SetErrno(zmem::Prctl(a, b, c, d, e));
  }
}

extern "C" __attribute__((used, visibility("hidden"))) long zmem_failed_syscall(long result) {
  return zmem::SetErrno(result);
}

asm(R"(
  .text
  .globl syscall
  .type syscall, @function
syscall:
  cmpq $317, %rdi  # seccomp
  je zmem_watched_syscall
  cmpq $272, %rdi  # unshare
  je zmem_watched_syscall
  cmpq $308, %rdi  # setns
  je zmem_watched_syscall
  cmpq $157, %rdi  # prctl
  je zmem_watched_syscall
  movq %rdi, %rax
  movq %rsi, %rdi
  movq %rdx, %rsi
  movq %rcx, %rdx
  movq %r8, %r10
  movq %r9, %r8
  movq 8(%rsp), %r9
  syscall
  cmpq $-4095, %rax
  jae 1f
  ret
1:
  movq %rax, %rdi
  jmp zmem_failed_syscall
  .size syscall, . - syscall
)");

static_assert(SYS_seccomp == 317 && SYS_unshare == 272 && SYS_setns == 308 && SYS_prctl == 157);
