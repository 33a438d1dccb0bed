// What a hidden thread and its userfaultfd would break: calls that the kernel refuses to programs
// with more than one thread (unshare and setns of a user namespace), filters for all threads
// (seccomp with TSYNC), which the agent must not come under, and a userfaultfd of the program's own
// on memory that has ours (ioctl with UFFDIO_REGISTER). libzmem.so wraps the calls of libc by which
// programs get there: unshare, setns, prctl, ioctl and syscall. The agent ends before such a call,
// after every page is back, and starts again behind it, unless the program is in a sandbox by then.
// One more is wrapped that the kernel tells nobody of: madvise, for the sake of guards.
// Calls made without libc are not seen: they fail as in any program with a second thread, or with a
// second userfaultfd.
#pragma once

#include "preload/agent.h"

namespace zmem {

// The agent's mapping, of this process or (before the fork hook ran) its parent's; null if there is
// none. Set once.
extern AgentState* g_agent;

// The program has put a seccomp filter around itself, under which no agent may be started.
extern bool g_sandboxed;

}  // namespace zmem
