#include "libzmem/wire/channel.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>

#include <cstring>

#include "absl/strings/str_cat.h"

namespace zmem::wire {
namespace {

// An agent reads at once; one that has not for this long is stopped, and is not waited for.
constexpr int kSendTimeoutMs = 1000;

// Takes the descriptors out of `message`; the first goes to `wanted`, all others are closed.
void TakeDescriptors(msghdr& message, UniqueFd* wanted) {
  for (cmsghdr* control = CMSG_FIRSTHDR(&message); control != nullptr;
       control = CMSG_NXTHDR(&message, control)) {
    if (control->cmsg_level != SOL_SOCKET || control->cmsg_type != SCM_RIGHTS) continue;
    size_t count = (control->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int raw;
      std::memcpy(&raw, CMSG_DATA(control) + i * sizeof raw, sizeof raw);
      UniqueFd fd(raw);
      if (wanted != nullptr && !wanted->valid()) *wanted = std::move(fd);
    }
  }
}

}  // namespace

absl::Status Channel::SendBytes(const void* message, size_t message_bytes, int descriptor) {
  iovec vector{const_cast<void*>(message), message_bytes};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr header{};
  header.msg_iov = &vector;
  header.msg_iovlen = 1;
  if (descriptor >= 0) {
    header.msg_control = control;
    header.msg_controllen = sizeof control;
    cmsghdr* rights = CMSG_FIRSTHDR(&header);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof descriptor);
    std::memcpy(CMSG_DATA(rights), &descriptor, sizeof descriptor);
  }
  for (;;) {
    ssize_t sent = sys::Sendmsg(socket_.get(), &header, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent == static_cast<ssize_t>(message_bytes)) return absl::OkStatus();
    if (sent >= 0) return absl::InternalError("a message to the agent was cut short");
    if (sent == -EINTR) continue;
    if (sent == -EPIPE || sent == -ECONNRESET) return absl::UnavailableError("the agent is gone");
    if (sent != -EAGAIN) {
      return sys::ErrnoStatus(static_cast<int>(-sent), "cannot send to the agent");
    }
    pollfd writable{socket_.get(), POLLOUT, 0};
    if (sys::Poll(&writable, 1, kSendTimeoutMs) <= 0) {
      return absl::UnavailableError("the agent does not read its messages");
    }
  }
}

absl::Status Channel::ReceivePacket(Packet& packet, int timeout_ms, UniqueFd* descriptor) {
  pollfd readable{socket_.get(), POLLIN, 0};
  int ready = sys::Poll(&readable, 1, timeout_ms);
  if (ready < 0) return sys::ErrnoStatus(-ready, "cannot wait for the agent");
  if (ready == 0) return absl::DeadlineExceededError("the agent did not answer in time");

  iovec vector{packet.bytes, sizeof packet.bytes};
  alignas(cmsghdr) char control[CMSG_SPACE(4 * sizeof(int))];
  msghdr header{};
  header.msg_iov = &vector;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof control;
  ssize_t got = sys::Recvmsg(socket_.get(), &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  bool is_reset = got == -ECONNRESET || got == -EPIPE;
  if (got < 0 && !is_reset) {
    return sys::ErrnoStatus(static_cast<int>(-got), "cannot receive from the agent");
  }
  UniqueFd received;
  // A call that fails has not written `control`; an empty message may have descriptors.
  if (!is_reset) TakeDescriptors(header, &received);
  if (got <= 0) return absl::UnavailableError("the agent is gone");

  Header head{.type = MessageType::kHello, .message_bytes = 0};
  packet.size = static_cast<size_t>(got);
  if (packet.size < sizeof head) {
    return absl::InvalidArgumentError("the agent sent a message without a header");
  }
  std::memcpy(&head, packet.bytes, sizeof head);
  if (head.magic != kMagic) return absl::InvalidArgumentError("the agent sent something else");
  peer_version_ = head.version;
  if (head.version != kVersion) {
    return absl::FailedPreconditionError(absl::StrCat("the library speaks protocol ", head.version,
                                                      ", this zmemd speaks ", kVersion));
  }
  if (head.message_bytes != packet.size || (header.msg_flags & MSG_TRUNC) != 0) {
    return absl::InvalidArgumentError("the agent sent a message of a wrong size");
  }
  if (descriptor != nullptr) *descriptor = std::move(received);
  return absl::OkStatus();
}

absl::Status Channel::OutOfOrder() {
  return absl::InvalidArgumentError("the agent sent a message out of order");
}

}  // namespace zmem::wire
