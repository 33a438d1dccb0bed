// System calls as zmem makes them: results as negative errno, descriptors that close themselves,
// and one seam at which a test can make any call fail.
// Thread-safe. Nothing here allocates, so the fault path may use it.
#pragma once

#include <poll.h>
#include <sys/socket.h>
#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace zmem {

// Owns a file descriptor; -1 is none.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    reset(std::exchange(other.fd_, -1));
    return *this;
  }
  ~UniqueFd() { reset(); }

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  int release() { return std::exchange(fd_, -1); }
  void reset(int fd = -1);

 private:
  int fd_ = -1;
};

namespace sys {

enum class Call {
  kOpen,
  kRead,
  kPread,
  kIoctl,
  kFallocate,
  kSendmsg,
  kRecvmsg,
  kPoll,
  kRingRead,   // a transfer by io_uring
  kRingWrite,  // the same
};

// What a test installs to make calls fail. ErrnoFor returns 0 to let the call happen, or the errno
// with which it fails instead. `detail` is the ioctl's request number, the flags of an open, the
// offset of a transfer by io_uring, else 0.
class FailureInjector {
 public:
  virtual ~FailureInjector() = default;
  virtual int ErrnoFor(Call call, uint64_t detail) = 0;
  // How many of the bytes of a transfer by io_uring are asked for: fewer make it fall short.
  virtual size_t BytesFor(Call /*call*/, size_t bytes) { return bytes; }
};

// Installs `injector` for the whole process; nullptr removes it. It must outlive every call that
// may see it.
void SetFailureInjector(FailureInjector* injector);

// As open(2), with O_CLOEXEC added. Returns the descriptor or a negative errno.
int Open(const char* path, int flags, mode_t mode = 0);
// As ioctl(2). Returns its result (0 or more), or a negative errno.
int Ioctl(int fd, unsigned long request, void* argument);
// As pread(2). Returns the bytes read, or a negative errno.
ssize_t Pread(int fd, void* buffer, size_t bytes, uint64_t offset);
// Reads without blocking, whatever the descriptor's O_NONBLOCK says: its flags belong to the peer
// who shares it. Returns the bytes read, or a negative errno, -EAGAIN when there is nothing.
ssize_t ReadNoWait(int fd, void* buffer, size_t bytes);
// As sendmsg(2) and recvmsg(2). Return the bytes, or a negative errno.
ssize_t Sendmsg(int fd, const msghdr* message, int flags);
ssize_t Recvmsg(int fd, msghdr* message, int flags);
// As fallocate(2). Returns 0 or a negative errno.
int Fallocate(int fd, int mode, uint64_t offset, uint64_t bytes);
// The seam for whoever queues a transfer of `bytes` with io_uring itself: returns 0 and how many of
// them to ask for, or the negative errno to report in its place.
int AdmitRingTransfer(Call call, uint64_t offset, size_t& bytes);
// As poll(2), retried on EINTR. Returns the number of ready descriptors, or a negative errno.
int Poll(pollfd* fds, size_t count, int timeout_ms);
// The same with a finer timeout; below 0 there is none.
int PollNs(pollfd* fds, size_t count, int64_t timeout_ns);

// An absl::Status for `error` (positive errno); `what` says what failed, on what.
absl::Status ErrnoStatus(int error, absl::string_view what);

// The whole of a small file such as those in /proc; an error names the path.
absl::Status ReadFile(const std::string& path, std::string& contents);

}  // namespace sys
}  // namespace zmem
