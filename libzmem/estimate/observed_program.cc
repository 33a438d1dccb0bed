#include "libzmem/estimate/observed_program.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace zmem {
namespace {

absl::Status OpenError(pid_t pid, int error) {
  if (error == EACCES || error == EPERM) {
    return absl::PermissionDeniedError(
        absl::StrCat("process ", pid, " may not be looked at: ask as its user or as root"));
  }
  // EINVAL: the number of a thread.
  if (error == ENOENT || error == ESRCH || error == EINVAL) {
    return absl::NotFoundError(absl::StrCat("there is no process ", pid));
  }
  return sys::ErrnoStatus(error, absl::StrCat("cannot look at process ", pid));
}

}  // namespace

absl::StatusOr<ObservedProgram> ObservedProgram::Open(pid_t pid) {
  ObservedProgram program;
  program.pid_ = pid;
  program.pidfd_.reset(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  if (!program.pidfd_.valid()) return OpenError(pid, errno);
  auto open = [pid](const char* name, int flags) {
    return sys::Open(absl::StrCat("/proc/", pid, "/", name).c_str(), flags);
  };
  int smaps = open("smaps", O_RDONLY);
  if (smaps < 0) return OpenError(pid, -smaps);
  program.smaps_.reset(smaps);
  int clear_refs = open("clear_refs", O_WRONLY);
  if (clear_refs < 0) return OpenError(pid, -clear_refs);
  program.clear_refs_.reset(clear_refs);
  absl::StatusOr<RemoteMemory> memory = RemoteMemory::Open(pid);
  if (absl::IsPermissionDenied(memory.status())) return OpenError(pid, EACCES);
  if (absl::IsNotFound(memory.status())) {
    return absl::FailedPreconditionError(
        absl::StrCat("process ", pid, " has no memory: it has ended or is a kernel thread"));
  }
  if (!memory.ok()) return memory.status();
  program.memory_ = *std::move(memory);
  absl::StatusOr<Pagemap> pagemap = Pagemap::Open(pid);
  if (!pagemap.ok()) return pagemap.status();
  program.pagemap_ = *std::move(pagemap);
  return program;
}

absl::StatusOr<std::string> ObservedProgram::ReadSmaps() const {
  std::string text;
  std::vector<char> buffer(size_t{1} << 16);
  for (;;) {
    ssize_t got = sys::Pread(smaps_.get(), buffer.data(), buffer.size(), text.size());
    if (got == -EINTR) continue;
    if (got == -ESRCH) return Gone();
    if (got < 0) {
      return sys::ErrnoStatus(static_cast<int>(-got),
                              absl::StrCat("cannot read the mappings of ", pid_));
    }
    if (got == 0) break;
    text.append(buffer.data(), static_cast<size_t>(got));
  }
  if (text.empty()) return Gone();
  return text;
}

absl::Status ObservedProgram::ClearTouched() const {
  constexpr char kAllPages = '1';
  ssize_t written = write(clear_refs_.get(), &kAllPages, 1);
  if (written == 1) return absl::OkStatus();
  return errno == ESRCH ? Gone() : OpenError(pid_, errno);
}

bool ObservedProgram::AwaitEnd(int timeout_ms) const {
  pollfd ended{.fd = pidfd_.get(), .events = POLLIN, .revents = 0};
  return sys::Poll(&ended, 1, timeout_ms) > 0;
}

absl::Status ObservedProgram::Gone() const {
  return absl::AbortedError(absl::StrCat("process ", pid_, " has ended or become another program"));
}

}  // namespace zmem
