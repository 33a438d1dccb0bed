// Runs a program whose libzmem.so meets bad luck: of the system calls that the library makes (its
// agent's, and those of the program's threads on its behalf), the Nth fails, or is the program's
// last. Nothing of the library is changed: the calls are caught with ptrace, and known by where in
// memory they are made. With --start-up it is those made before the program itself begins, libc's
// on the library's behalf among them: known by who called it.
//   failing_calls --report FILE [--fail N [--errno K] | --kill N] [--in-child | --start-up]
//     [--begin FILE] -- PROGRAM ARGUMENT...
// The report gets a line for each call, "NUMBER NAME ERRNOS", with how many errors of it there are
// to choose from; "failed NAME with ERROR" or "killed at NAME"; and "end" when the program has
// ended. The program runs under the number that we were started with, and with ZMEM=0 taken away
// from its environment: with it, libzmem.so leaves us alone.
#include <linux/futex.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "libzmem/base/kernel_abi.h"

namespace {

struct Options {
  std::string report;
  std::optional<size_t> fail;
  size_t error = 0;  // which of the call's errors
  std::optional<size_t> kill;
  bool in_child = false;  // count the calls of what the program forks, and of nothing else
  bool start_up = false;  // count the calls of the library's start, and of nothing else
  std::string begin;      // count no call before this file exists
  std::vector<std::string> argv;
};

// A system call that the library makes, and how the kernel may refuse it.
struct Kind {
  long number;
  const char* name;
  std::vector<int> errors = {};
  std::optional<uint64_t> operation = {};  // the argument that tells this kind from others
  size_t operation_at = 1;
  bool done_all_the_same = false;  // close frees the descriptor even when it fails
};

constexpr uint64_t kBell = 33;  // only signals from 32 on are refused when there are too many
constexpr uint64_t kPopulateWrite = 23;  // MADV_POPULATE_WRITE, Linux 5.14

const Kind kKinds[] = {
    {SYS_clone, "clone", {EAGAIN, ENOMEM}},
    {SYS_rt_sigprocmask, "rt_sigprocmask"},
    {SYS_rt_sigtimedwait, "rt_sigtimedwait", {EINTR}},
    {SYS_clock_gettime, "clock_gettime"},
    {SYS_clock_nanosleep, "clock_nanosleep", {EINTR}},
    {SYS_getpid, "getpid"},
    {SYS_gettid, "gettid"},
    {SYS_close_range, "close_range", {ENOMEM, EMFILE}},
    {SYS_prctl, "prctl", {EPERM}},
    {SYS_capset, "capset", {EPERM}},
    {SYS_seccomp, "seccomp", {ENOMEM, EACCES}},
    {SYS_signalfd4, "signalfd4", {EMFILE, ENOMEM}},
    {SYS_pidfd_open, "pidfd_open", {EMFILE, ENOMEM}},
    {SYS_pidfd_getfd, "pidfd_getfd", {EMFILE, EPERM}},
    {SYS_openat, "openat", {EMFILE, ENOENT}},
    {SYS_pread64, "pread64", {EINTR, ENOMEM}},
    {SYS_read, "read", {EAGAIN, EINTR}},
    {SYS_write, "write", {EAGAIN, EPIPE}},
    {SYS_socket, "socket", {EMFILE, ENOBUFS}},
    {SYS_connect, "connect", {EAGAIN, ECONNREFUSED, EACCES}},
    {SYS_sendmsg, "sendmsg", {ENOBUFS, ENOMEM, EAGAIN}},
    {SYS_recvmsg, "recvmsg", {EINTR, EAGAIN, ENOMEM, ECONNRESET}},
    {SYS_poll, "poll", {EINTR, ENOMEM}},
    {SYS_mmap, "mmap", {ENOMEM, EAGAIN}},
    {SYS_munmap, "munmap", {ENOMEM}},
    {SYS_munlock, "munlock", {ENOMEM}},
    {SYS_mprotect, "mprotect", {ENOMEM}},
    {SYS_madvise, "madvise DONTNEED", {EAGAIN, EINVAL}, MADV_DONTNEED, 2},
    {SYS_madvise, "madvise DONTFORK", {ENOMEM}, MADV_DONTFORK, 2},
    {SYS_madvise, "madvise WIPEONFORK", {ENOMEM, EINVAL}, MADV_WIPEONFORK, 2},
    {SYS_madvise, "madvise DONTDUMP", {ENOMEM}, MADV_DONTDUMP, 2},
    {SYS_madvise, "madvise POPULATE_WRITE", {ENOMEM, EFAULT}, kPopulateWrite, 2},
    {SYS_ioctl, "ioctl NEW", {EMFILE, ENOMEM, EPERM}, USERFAULTFD_IOC_NEW},
    {SYS_ioctl, "ioctl MOVE", {EAGAIN, EBUSY, EINVAL, ENOMEM, ENOENT, EEXIST, ESRCH}, UFFDIO_MOVE},
    {SYS_ioctl, "ioctl WAKE", {EINVAL}, UFFDIO_WAKE},
    {SYS_futex, "futex WAIT", {EINTR, EAGAIN, ETIMEDOUT}, FUTEX_WAIT_PRIVATE},
    {SYS_futex, "futex WAIT shared", {EINTR, EAGAIN, ETIMEDOUT}, FUTEX_WAIT},
    {SYS_futex, "futex WAKE", {}, FUTEX_WAKE_PRIVATE},
    {SYS_tgkill, "tgkill of the bell", {EAGAIN}, kBell, 2},
    {SYS_tgkill, "tgkill"},
    {SYS_rt_sigaction, "rt_sigaction"},
    {SYS_kill, "kill"},
    {SYS_close, "close", {EINTR, EIO}, {}, 0, true},
    {SYS_exit, "exit"},
    {SYS_exit_group, "exit_group"},
};

// What libzmem.so passes on for the program: its failing is the program's business.
bool IsPrograms(long number) {
  return number == SYS_unshare || number == SYS_setns || number == SYS_prctl ||
         number == SYS_seccomp || number == SYS_madvise;
}

const Kind* FindKind(const __ptrace_syscall_info& info) {
  for (const Kind& kind : kKinds) {
    if (static_cast<uint64_t>(kind.number) != info.entry.nr) continue;
    if (!kind.operation || info.entry.args[kind.operation_at] == *kind.operation) return &kind;
  }
  return nullptr;
}

// Traces a process and all that it forks until they have ended.
class Tracer {
 public:
  Tracer(const Options& options, pid_t pid)
      : options_(options), pid_(pid), report_(options.report) {}

  // True if the process, which waits meanwhile, is traced from here on.
  bool Seize() {
    constexpr long kFollow =
        PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEEXEC;
    return ptrace(PTRACE_SEIZE, pid_, 0, kFollow) == 0;
  }

  void Run() {
    int status = 0;
    for (pid_t tid; (tid = waitpid(-1, &status, __WALL)) > 0;) {
      if (WIFSTOPPED(status)) Continue(tid, status);
    }
    report_ << "end" << std::endl;
  }

 private:
  void Continue(pid_t tid, int status) {
    int signal = WSTOPSIG(status);
    int event = status >> 16;
    bool stopped_by_signal = event == PTRACE_EVENT_STOP && signal != SIGTRAP;
    if (event == PTRACE_EVENT_EXEC) executed_ = true;
    if (executed_ && signal == (SIGTRAP | 0x80)) OnSystemCall(tid);
    bool delivered = event == 0 && signal != (SIGTRAP | 0x80);
    ptrace(stopped_by_signal ? PTRACE_LISTEN : PTRACE_SYSCALL, tid, 0, delivered ? signal : 0);
  }

  void OnSystemCall(pid_t tid) {
    __ptrace_syscall_info info{};
    if (ptrace(PTRACE_GET_SYSCALL_INFO, tid, sizeof info, &info) <= 0) return;
    if (info.op == PTRACE_SYSCALL_INFO_EXIT) {
      auto result = results_.find(tid);
      if (result == results_.end()) return;
      ptrace(PTRACE_POKEUSER, tid, offsetof(user, regs.rax), static_cast<long>(-result->second));
      results_.erase(result);
      return;
    }
    if (info.op != PTRACE_SYSCALL_INFO_ENTRY) return;
    pid_t process = ProcessOf(tid);
    if (options_.start_up ? IsOfStart(tid, info) : IsOfLibrary(tid, process, info)) {
      OnCall(tid, process, info);
    }
  }

  bool IsOfLibrary(pid_t tid, pid_t process, const __ptrace_syscall_info& info) {
    if (!InLibrary(tid, info.instruction_pointer)) return false;
    if ((process != pid_) != options_.in_child) return false;
    if (tid == process && IsPrograms(static_cast<long>(info.entry.nr))) return false;
    if (!begun_) begun_ = options_.begin.empty() || access(options_.begin.c_str(), F_OK) == 0;
    return begun_;
  }

  // Before the library's own first call the loader makes some to load it.
  bool IsOfStart(pid_t tid, const __ptrace_syscall_info& info) {
    if (tid != pid_) return false;
    bool inside = InLibrary(tid, info.instruction_pointer);
    begun_ |= inside;
    return inside || (begun_ && CalledByLibrary(tid, info.stack_pointer));
  }

  // Whether one of the topmost words of the stack, some of them old, is an address in the library.
  bool CalledByLibrary(pid_t tid, uint64_t stack_pointer) {
    constexpr uint64_t kWords = 64;
    for (uint64_t word = 0; word < kWords; ++word) {
      long value = ptrace(PTRACE_PEEKDATA, tid, stack_pointer + word * sizeof(long), 0);
      if (InLibrary(tid, static_cast<uint64_t>(value))) return true;
    }
    return false;
  }

  void OnCall(pid_t tid, pid_t process, const __ptrace_syscall_info& info) {
    const Kind* kind = FindKind(info);
    if (kind == nullptr) {
      report_ << "unknown system call " << info.entry.nr << std::endl;
      return;
    }
    size_t number = calls_++;
    report_ << number << " " << kind->name << " " << kind->errors.size() << std::endl;
    if (options_.kill == number) {
      report_ << "killed at " << kind->name << std::endl;
      kill(process, SIGKILL);
    }
    if (options_.fail != number || kind->errors.empty()) return;
    int error = kind->errors[options_.error % kind->errors.size()];
    report_ << "failed " << kind->name << " with " << strerrorname_np(error) << std::endl;
    results_[tid] = error;
    constexpr long kNone = -1;
    if (!kind->done_all_the_same)
      ptrace(PTRACE_POKEUSER, tid, offsetof(user, regs.orig_rax), kNone);
  }

  // The library is mapped once, in the program, and what it forks has it in the same place.
  bool InLibrary(pid_t tid, uint64_t address) {
    if (code_end_ == 0) FindLibrary(tid);
    return address >= code_start_ && address < code_end_;
  }

  void FindLibrary(pid_t tid) {
    std::ifstream maps("/proc/" + std::to_string(tid) + "/maps");
    for (std::string line; std::getline(maps, line);) {
      bool is_library = line.find("/libzmem.so") != std::string::npos;
      unsigned long start = 0;
      unsigned long end = 0;
      char flags[8] = {};
      if (!is_library || std::sscanf(line.c_str(), "%lx-%lx %7s", &start, &end, flags) != 3)
        continue;
      if (flags[2] != 'x') continue;
      code_start_ = start;
      code_end_ = end;
    }
  }

  pid_t ProcessOf(pid_t tid) {
    pid_t& process = process_of_[tid];
    if (process != 0) return process;
    std::ifstream status("/proc/" + std::to_string(tid) + "/status");
    for (std::string line; std::getline(status, line);) {
      if (line.starts_with("Tgid:")) process = std::stoi(line.substr(5));
    }
    return process;
  }

  const Options& options_;
  const pid_t pid_;
  std::ofstream report_;
  bool executed_ = false;  // we have become the program
  bool begun_ = false;
  size_t calls_ = 0;
  uint64_t code_start_ = 0;
  uint64_t code_end_ = 0;
  std::map<pid_t, pid_t> process_of_;
  std::map<pid_t, int> results_;  // of threads in a call that is to fail: the error
};

// Starts the tracer as nobody's child, so that the program has none that it does not know of.
// Returns when it traces us.
bool StartTracer(const Options& options) {
  int ready[2];
  if (pipe(ready) != 0) return false;
  pid_t self = getpid();
  pid_t parent = fork();
  if (parent == 0) {
    if (fork() != 0) _exit(0);
    close(ready[0]);
    Tracer tracer(options, self);
    if (!tracer.Seize() || write(ready[1], "", 1) != 1) _exit(1);
    close(ready[1]);
    tracer.Run();
    _exit(0);
  }
  close(ready[1]);
  waitpid(parent, nullptr, 0);
  char byte;
  bool traced = read(ready[0], &byte, 1) == 1;
  close(ready[0]);
  return traced;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Makes one of the system calls of a program's libzmem.so fail.");
  app.add_option("--report", options.report, "where to write what was done")->required();
  app.add_option("--fail", options.fail, "the call that fails");
  app.add_option("--errno", options.error, "which of its errors");
  app.add_option("--kill", options.kill, "the call at which the program is killed");
  app.add_flag("--in-child", options.in_child, "calls of forked children");
  app.add_flag("--start-up", options.start_up, "calls of the library's start");
  app.add_option("--begin", options.begin, "count from when this file is there");
  app.add_option("argv", options.argv, "program and arguments")->required();
  CLI11_PARSE(app, argc, argv);
  if (!StartTracer(options)) return 2;
  unsetenv("ZMEM");
  std::vector<char*> pointers;
  for (std::string& text : options.argv) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  execv(pointers[0], pointers.data());
  return 2;
}
