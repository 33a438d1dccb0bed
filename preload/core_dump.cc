#include "preload/core_dump.h"

#include <signal.h>

#include "preload/raw_syscall.h"
#include "preload/step_aside.h"

namespace zmem {
namespace {

// Those whose default action is to dump core (signal(7)).
constexpr int kSignals[] = {SIGQUIT, SIGILL,  SIGTRAP, SIGABRT, SIGBUS,
                            SIGFPE,  SIGSEGV, SIGXCPU, SIGXFSZ, SIGSYS};

// Gigabytes may have to come back.
constexpr int64_t kPatienceMs = 60'000;

void OnFatalSignal(int signal, siginfo_t* info, void*) {
  Ask(g_agent->bell, wire::Wish::kThaw, kPatienceMs);
  struct sigaction fatal {};
  fatal.sa_handler = SIG_DFL;
  sigaction(signal, &fatal, nullptr);
  // What an instruction has raised it raises again when we return, with the registers of then.
  // What was sent is sent again, and comes when we return.
  if (info->si_code > 0 && signal != SIGTRAP) return;
  raw::Syscall(SYS_tgkill, raw::Syscall(SYS_getpid), raw::Syscall(SYS_gettid), signal);
}

}  // namespace

void CatchCoreDumps() {
  for (int signal : kSignals) {
    struct sigaction now {};
    if (sigaction(signal, nullptr, &now) != 0) continue;
    if ((now.sa_flags & SA_SIGINFO) != 0 || now.sa_handler != SIG_DFL) continue;
    struct sigaction caught {};
    caught.sa_sigaction = OnFatalSignal;
    caught.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(signal, &caught, nullptr);
  }
}

}  // namespace zmem
