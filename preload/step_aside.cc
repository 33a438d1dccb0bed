#include "preload/step_aside.h"

#include <dlfcn.h>
#include <errno.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include "libzmem/base/kernel_abi.h"
#include "preload/raw_syscall.h"

#define ZMEM_EXPORTED extern "C" __attribute__((visibility("default")))

namespace zmem {

AgentState* g_agent = nullptr;
bool g_sandboxed = false;

namespace {

using raw::NowMs;
using raw::Syscall;

// Every page has to come back first. A program that waits for longer than this has waited in vain:
// zmemd is gone.
constexpr int64_t kPatienceMs = 60'000;
// An agent that has said so leaves at once, unless its zmemd was killed: then it never does.
constexpr int64_t kEndPatienceMs = 2'000;

long SetErrno(long result) {
  if (result >= 0 || result < -4095) return result;
  errno = static_cast<int>(-result);
  return -1;
}

// Keeps the agent away while it lives. Of threads that do so at once the last calls it back.
class Absence {
 public:
  Absence() : bell_(g_agent->bell) {
    bool kept_away = bell_.absences.fetch_add(1) > 0;
    if (bell_.agent_tid.load() == 0) {
      achieved_ = kept_away;
    } else {
      if (!kept_away) bell_.dismissals.fetch_add(1);
      achieved_ =
          Ask(bell_, wire::Wish::kLeave, kPatienceMs) && AwaitAgentEnd(bell_, kEndPatienceMs);
    }
  }
  ~Absence() {
    bool last = bell_.absences.fetch_sub(1) == 1;
    if (last && achieved_ && !g_sandboxed) StartAgentThread(g_agent);
  }
  Absence(const Absence&) = delete;
  Absence& operator=(const Absence&) = delete;

  // There was an agent and it is gone.
  bool achieved() const { return achieved_; }

 private:
  Bell& bell_;
  bool achieved_;
};

// Makes a call that the kernel may refuse because of the agent, if need be once more without it.
// What the agent's end takes away is gone a little later: the call is made for up to `patience_ms`.
// `call` must change nothing when it fails.
template <typename Call>
long WithoutAgent(long refusal, int64_t patience_ms, Call call) {
  long result = call();
  if (result != refusal || g_agent == nullptr) return result;
  Absence absence;
  int64_t until_ms = NowMs() + patience_ms;
  result = call();  // in any case: another thread may have had the agent away meanwhile
  while (result == refusal && absence.achieved() && NowMs() < until_ms) {
    timespec pause{0, 50'000};
    Syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, raw::AsLong(&pause), 0);
    result = call();
  }
  return result;
}

// The same for calls that are refused with EINVAL while there is a second thread, which the kernel
// counts for some microseconds after it has told of its end.
template <typename Call>
long Alone(Call call) {
  constexpr int64_t kThreadGoneMs = 20;
  return WithoutAgent(-EINVAL, kThreadGoneMs, call);
}

long Unshare(long flags) {
  constexpr long kAlone = CLONE_NEWUSER | CLONE_THREAD | CLONE_SIGHAND | CLONE_VM;
  if ((flags & kAlone) == 0) return Syscall(SYS_unshare, flags);
  return Alone([flags] { return Syscall(SYS_unshare, flags); });
}

long Setns(long fd, long type) {
  return Alone([fd, type] { return Syscall(SYS_setns, fd, type); });
}

long Seccomp(long operation, long flags, long arguments) {
  long result = Syscall(SYS_seccomp, operation, flags, arguments);
  bool filter = operation == SECCOMP_SET_MODE_FILTER || operation == SECCOMP_SET_MODE_STRICT;
  if (filter && result == 0) g_sandboxed = true;
  return result;
}

long WatchedSeccomp(long operation, long flags, long arguments) {
  bool all_threads = operation == SECCOMP_SET_MODE_FILTER &&
                     (flags & SECCOMP_FILTER_FLAG_TSYNC) != 0 && g_agent != nullptr;
  if (!all_threads) return Seccomp(operation, flags, arguments);
  Absence absence;
  return Seccomp(operation, flags, arguments);
}

// A mapping has room for one userfaultfd. Ours lets go of it when zmemd, after the agent's end, has
// closed its copy. A range that is refused after that is somebody else's.
long RegisterWithUserfaultfd(long fd, long range) {
  constexpr int64_t kClosedMs = 1000;
  return WithoutAgent(-EBUSY, kClosedMs,
                      [=] { return Syscall(SYS_ioctl, fd, UFFDIO_REGISTER, range); });
}

using IoctlFunction = int (*)(int, unsigned long, ...);

// libc's, or that of a library preloaded behind us. Looked for at the start, since dlsym must not
// be called from signal handlers, where ioctl may be.
IoctlFunction g_next_ioctl = nullptr;

__attribute__((constructor)) void FindNextIoctl() {
  g_next_ioctl = reinterpret_cast<IoctlFunction>(dlsym(RTLD_NEXT, "ioctl"));
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

// The kernel looks at 32 bits of the request, and so do we.
ZMEM_EXPORTED int ioctl(int fd, unsigned long request, ...) noexcept {
  va_list list;
  va_start(list, request);
  void* argument = va_arg(list, void*);
  va_end(list);
  if (static_cast<uint32_t>(request) == UFFDIO_REGISTER) {
    return static_cast<int>(
        zmem::SetErrno(zmem::RegisterWithUserfaultfd(fd, zmem::raw::AsLong(argument))));
  }
  if (zmem::g_next_ioctl != nullptr) return zmem::g_next_ioctl(fd, request, argument);
  return static_cast<int>(zmem::SetErrno(
      zmem::Syscall(SYS_ioctl, fd, static_cast<long>(request), zmem::raw::AsLong(argument))));
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
    case SYS_ioctl:
      return zmem::SetErrno(zmem::RegisterWithUserfaultfd(a, c));
    case SYS_seccomp:
      return zmem::SetErrno(zmem::WatchedSeccomp(a, b, c));
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
  cmpq $16, %rdi  # ioctl
  je 2f
0:
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
2:
  cmpl $0xc020aa00, %edx  # UFFDIO_REGISTER
  je zmem_watched_syscall
  jmp 0b
  .size syscall, . - syscall
)");

static_assert(SYS_seccomp == 317 && SYS_unshare == 272 && SYS_setns == 308 && SYS_prctl == 157 &&
              SYS_ioctl == 16 && UFFDIO_REGISTER == 0xc020aa00);
