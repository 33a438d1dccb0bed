#include "preload/lockdown.h"

#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/prctl.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "libzmem/base/kernel_abi.h"
#include "preload/raw_syscall.h"

namespace zmem {
namespace {

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, field))
#define ALLOW BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
#define DENY BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 1 /* EPERM */)
#define ALLOW_CALL(number) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1), ALLOW
// The call is allowed when the low half of argument `index` equals `value`; its number is loaded.
#define ALLOW_CALL_IF(number, index, value)                             \
  BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 4), LOAD(args[index]), \
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<__u32>(value), 0, 1), ALLOW, DENY

// On the thread's own stack when installed; nothing here needs a relocation.
constexpr sock_filter kFilter[] = {
    LOAD(arch),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
    DENY,
    LOAD(nr),
    ALLOW_CALL(SYS_recvmsg),
    ALLOW_CALL(SYS_sendmsg),
    ALLOW_CALL(SYS_madvise),
    ALLOW_CALL(SYS_poll),
    ALLOW_CALL(SYS_clock_nanosleep),
    ALLOW_CALL(SYS_restart_syscall),
    ALLOW_CALL(SYS_clock_gettime),
    ALLOW_CALL(SYS_pread64),      // its own /proc/self/statm
    ALLOW_CALL(SYS_close),        // of its own table
    ALLOW_CALL(SYS_connect),      // to zmemd
    ALLOW_CALL(SYS_pidfd_getfd),  // the program's stderr, for a last message
    ALLOW_CALL(SYS_write),
    ALLOW_CALL(SYS_read),   // of its bell
    ALLOW_CALL(SYS_futex),  // who rang it
    ALLOW_CALL(SYS_munmap),
    ALLOW_CALL(SYS_munlock),
    ALLOW_CALL(SYS_exit),
    ALLOW_CALL(SYS_exit_group),
    ALLOW_CALL(SYS_gettid),
    ALLOW_CALL(SYS_kill),  // this process, when zmemd died and it waits in vain
    ALLOW_CALL_IF(SYS_socket, 0, AF_UNIX),
    ALLOW_CALL_IF(SYS_mmap, 2, PROT_NONE),
    ALLOW_CALL_IF(SYS_mprotect, 2, PROT_READ | PROT_WRITE),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ioctl, 1, 0),
    DENY,
    LOAD(args[1]),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, UFFDIO_MOVE, 2, 0),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, UFFDIO_WAKE, 1, 0),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, USERFAULTFD_IOC_NEW, 0, 1),
    ALLOW,
    DENY,
};

}  // namespace

int LockDownThread() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct none[2] = {};
  long result = raw::Syscall(SYS_capset, raw::AsLong(&header), raw::AsLong(none));
  if (result < 0) return static_cast<int>(result);
  result = raw::Syscall(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  if (result < 0) return static_cast<int>(result);
  sock_fprog program{sizeof kFilter / sizeof kFilter[0], const_cast<sock_filter*>(kFilter)};
  return static_cast<int>(
      raw::Syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, raw::AsLong(&program)));
}

}  // namespace zmem
