#include "libzmem/base/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>

#include "absl/strings/str_cat.h"

namespace zmem {

void UniqueFd::reset(int fd) {
  if (fd_ >= 0) close(fd_);
  fd_ = fd;
}

namespace sys {
namespace {

std::atomic<FailureInjector*> g_injector{nullptr};

int InjectedErrno(Call call, uint64_t detail = 0) {
  FailureInjector* injector = g_injector.load(std::memory_order_acquire);
  return injector == nullptr ? 0 : injector->ErrnoFor(call, detail);
}

}  // namespace

void SetFailureInjector(FailureInjector* injector) {
  g_injector.store(injector, std::memory_order_release);
}

int Open(const char* path, int flags, mode_t mode) {
  if (int error = InjectedErrno(Call::kOpen, static_cast<unsigned>(flags))) return -error;
  int fd = open(path, flags | O_CLOEXEC, mode);
  return fd >= 0 ? fd : -errno;
}

int Ioctl(int fd, unsigned long request, void* argument) {
  if (int error = InjectedErrno(Call::kIoctl, request)) return -error;
  int result = ioctl(fd, request, argument);
  return result >= 0 ? result : -errno;
}

ssize_t Pread(int fd, void* buffer, size_t bytes, uint64_t offset) {
  if (int error = InjectedErrno(Call::kPread)) return -error;
  ssize_t result = pread(fd, buffer, bytes, static_cast<off_t>(offset));
  return result >= 0 ? result : -errno;
}

ssize_t ReadNoWait(int fd, void* buffer, size_t bytes) {
  if (int error = InjectedErrno(Call::kRead)) return -error;
  iovec vector{buffer, bytes};
  ssize_t result = preadv2(fd, &vector, 1, -1, RWF_NOWAIT);
  // Kernels before 6.10 know no such flag on a userfaultfd; there O_NONBLOCK has to do.
  if (result < 0 && errno == EOPNOTSUPP) result = read(fd, buffer, bytes);
  return result >= 0 ? result : -errno;
}

ssize_t Sendmsg(int fd, const msghdr* message, int flags) {
  if (int error = InjectedErrno(Call::kSendmsg)) return -error;
  ssize_t result = sendmsg(fd, message, flags);
  return result >= 0 ? result : -errno;
}

ssize_t Recvmsg(int fd, msghdr* message, int flags) {
  if (int error = InjectedErrno(Call::kRecvmsg)) return -error;
  ssize_t result = recvmsg(fd, message, flags);
  return result >= 0 ? result : -errno;
}

int Fallocate(int fd, int mode, uint64_t offset, uint64_t bytes) {
  if (int error = InjectedErrno(Call::kFallocate)) return -error;
  int result = fallocate(fd, mode, static_cast<off_t>(offset), static_cast<off_t>(bytes));
  return result == 0 ? 0 : -errno;
}

int AdmitRingTransfer(Call call, uint64_t offset, size_t& bytes) {
  FailureInjector* injector = g_injector.load(std::memory_order_acquire);
  if (injector == nullptr) return 0;
  if (int error = injector->ErrnoFor(call, offset)) return -error;
  bytes = injector->BytesFor(call, bytes);
  return 0;
}

int Poll(pollfd* fds, size_t count, int timeout_ms) {
  return PollNs(fds, count, timeout_ms < 0 ? -1 : int64_t{timeout_ms} * 1'000'000);
}

int PollNs(pollfd* fds, size_t count, int64_t timeout_ns) {
  constexpr int64_t kSecondNs = 1'000'000'000;
  if (int error = InjectedErrno(Call::kPoll)) return -error;
  for (;;) {
    timespec timeout{.tv_sec = timeout_ns / kSecondNs, .tv_nsec = timeout_ns % kSecondNs};
    int result = ppoll(fds, count, timeout_ns < 0 ? nullptr : &timeout, nullptr);
    if (result >= 0) return result;
    if (errno != EINTR) return -errno;
  }
}

absl::Status ErrnoStatus(int error, absl::string_view what) {
  return absl::ErrnoToStatus(error, what);
}

absl::Status ReadFile(const std::string& path, std::string& contents) {
  UniqueFd fd(Open(path.c_str(), O_RDONLY));
  if (!fd.valid()) return ErrnoStatus(errno, absl::StrCat("cannot open ", path));
  contents.clear();
  char buffer[16384];
  for (;;) {
    ssize_t got = read(fd.get(), buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoStatus(errno, absl::StrCat("cannot read ", path));
    if (got == 0) return absl::OkStatus();
    contents.append(buffer, static_cast<size_t>(got));
  }
}

}  // namespace sys
}  // namespace zmem
