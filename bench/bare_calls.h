// The bare system calls that zmem rests on, for benches that measure what these allow.
#pragma once

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "absl/strings/str_cat.h"
#include "libzmem/base/kernel_abi.h"
#include "libzmem/base/page.h"
#include "libzmem/base/sys.h"
#include "tests/harness.h"

namespace zmem {

[[noreturn]] inline void Fail(const char* what) {
  throw HarnessError(absl::StrCat(what, ": ", errno));
}

// Keeps the calling thread on a CPU, or lets it go again.
inline void Pin(std::optional<int> cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (int at = 0; at < sysconf(_SC_NPROCESSORS_ONLN); ++at) {
    if (!cpu || *cpu == at) CPU_SET(at, &set);
  }
  sched_setaffinity(0, sizeof set, &set);
}

// A forked process that runs `body`, until the object's end.
class Forked {
 public:
  template <typename Body>
  explicit Forked(const Body& body) : pid_(fork()) {
    if (pid_ < 0) Fail("fork");
    if (pid_ > 0) return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    body();
    _exit(0);
  }
  ~Forked() {
    if (pid_ == 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  Forked(const Forked&) = delete;
  Forked& operator=(const Forked&) = delete;

  // Until `body` has returned.
  void Wait() {
    waitpid(pid_, nullptr, 0);
    pid_ = 0;
  }

 private:
  pid_t pid_;  // 0: it has ended
};

// Takes moves. Throws HarnessError, as Register does.
inline UniqueFd OpenUserfaultfd(bool blocking) {
  UniqueFd fd(static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | (blocking ? 0 : O_NONBLOCK))));
  if (!fd.valid()) Fail("userfaultfd");
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = UFFD_FEATURE_THREAD_ID | UFFD_FEATURE_MOVE;
  if (ioctl(fd.get(), UFFDIO_API, &api) != 0) Fail("UFFDIO_API");
  return fd;
}

inline void Register(int fd, std::byte* start, size_t bytes) {
  uffdio_register request{};
  request.range = {reinterpret_cast<uint64_t>(start), bytes};
  request.mode = UFFDIO_REGISTER_MODE_MISSING;
  if (ioctl(fd, UFFDIO_REGISTER, &request) != 0) Fail("UFFDIO_REGISTER");
}

inline void CopyPages(int fd, std::byte* target, const std::byte* source, size_t pages) {
  uffdio_copy copy{};
  copy.dst = reinterpret_cast<uint64_t>(target);
  copy.src = reinterpret_cast<uint64_t>(source);
  copy.len = pages * kPageBytes;
  ioctl(fd, UFFDIO_COPY, &copy);  // a page that is there already is right
}

}  // namespace zmem
