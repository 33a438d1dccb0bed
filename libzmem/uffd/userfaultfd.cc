#include "libzmem/uffd/userfaultfd.h"

#include <errno.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "libzmem/base/kernel_abi.h"

namespace zmem {
namespace {

bool IsUserfaultfd(int fd) {
  char path[64];
  std::snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  char target[64];
  ssize_t length = readlink(path, target, sizeof target - 1);
  if (length < 0) return false;
  target[length] = '\0';
  return std::strcmp(target, "anon_inode:[userfaultfd]") == 0;
}

// A userfaultfd takes other calls only after its handshake.
bool HadHandshake(int fd) {
  uffdio_range anywhere{};
  anywhere.start = uint64_t{1} << 32;
  anywhere.len = kPageBytes;
  return sys::Ioctl(fd, UFFDIO_WAKE, &anywhere) == 0;
}

// The one triage of what filling calls return. `done_bytes` is the kernel's output field, which
// some kernels leave alone on early errors: the caller has set it to zero.
FillResult Triage(int error, int64_t done_bytes, size_t pages, size_t* filled) {
  *filled = done_bytes > 0 ? static_cast<size_t>(done_bytes) / kPageBytes : 0;
  if (error == 0) {
    *filled = pages;
    return FillResult::kDone;
  }
  switch (error) {
    case EAGAIN:
      return FillResult::kChanging;
    case EEXIST:
      return FillResult::kPresent;
    case ENOENT:
      return FillResult::kAbsent;
    case ESRCH:
      return FillResult::kGone;
    case ENOMEM:
      return FillResult::kNoMemory;
    default:
      return FillResult::kFailed;
  }
}

}  // namespace

absl::StatusOr<Userfaultfd> Userfaultfd::Handshake(UniqueFd fd) {
  if (!fd.valid() || !IsUserfaultfd(fd.get())) {
    return absl::InvalidArgumentError("the program sent something that is not a userfaultfd");
  }
  if (HadHandshake(fd.get())) {
    return absl::InvalidArgumentError("the program sent a userfaultfd that is in use already");
  }
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = kFeatures | UFFD_FEATURE_MOVE;
  int result = sys::Ioctl(fd.get(), UFFDIO_API, &api);
  if (result == -EPERM) {
    return absl::FailedPreconditionError(
        "zmemd may not follow forks: it needs CAP_SYS_PTRACE; run it as root");
  }
  if (result == -EINVAL) {
    return absl::FailedPreconditionError(
        "this kernel's userfaultfd lacks UFFDIO_MOVE or events; zmem needs Linux 6.8 or later");
  }
  if (result < 0) return sys::ErrnoStatus(-result, "the userfaultfd handshake failed");
  return Userfaultfd(std::move(fd));
}

int Userfaultfd::Register(AddressRange range) const {
  uffdio_register request{};
  request.range.start = range.start;
  request.range.len = range.bytes();
  request.mode = UFFDIO_REGISTER_MODE_MISSING;
  return sys::Ioctl(fd(), UFFDIO_REGISTER, &request);
}

int Userfaultfd::Unregister(AddressRange range) const {
  uffdio_range request{};
  request.start = range.start;
  request.len = range.bytes();
  return sys::Ioctl(fd(), UFFDIO_UNREGISTER, &request);
}

FillResult Userfaultfd::Copy(Address target, const std::byte* source, size_t pages, size_t* filled,
                             Waiters waiters) const {
  uffdio_copy copy{};
  copy.dst = target;
  copy.src = reinterpret_cast<uint64_t>(source);
  copy.len = pages * kPageBytes;
  copy.mode = waiters == Waiters::kWake ? 0 : UFFDIO_COPY_MODE_DONTWAKE;
  int result = sys::Ioctl(fd(), UFFDIO_COPY, &copy);
  return Triage(-result, copy.copy, pages, filled);
}

FillResult Userfaultfd::Zero(Address target, size_t pages, size_t* filled, Waiters waiters) const {
  uffdio_zeropage zero{};
  zero.range.start = target;
  zero.range.len = pages * kPageBytes;
  zero.mode = waiters == Waiters::kWake ? 0 : UFFDIO_ZEROPAGE_MODE_DONTWAKE;
  int result = sys::Ioctl(fd(), UFFDIO_ZEROPAGE, &zero);
  return Triage(-result, zero.zeropage, pages, filled);
}

FillResult Userfaultfd::Poison(Address target) const {
  uffdio_poison poison{};
  poison.range.start = target;
  poison.range.len = kPageBytes;
  size_t filled;
  int result = sys::Ioctl(fd(), UFFDIO_POISON, &poison);
  return Triage(-result, poison.updated, 1, &filled);
}

void Userfaultfd::Wake(AddressRange range) const {
  uffdio_range request{};
  request.start = range.start;
  request.len = range.bytes();
  sys::Ioctl(fd(), UFFDIO_WAKE, &request);
}

int Userfaultfd::Read(std::span<uffd_msg> messages) const {
  ssize_t got = sys::ReadNoWait(fd(), messages.data(), messages.size_bytes());
  if (got == -EAGAIN || got == -EINTR) return 0;
  if (got < 0) return static_cast<int>(got);
  return static_cast<int>(static_cast<size_t>(got) / sizeof(uffd_msg));
}

}  // namespace zmem
