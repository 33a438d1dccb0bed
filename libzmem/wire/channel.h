// zmemd's end of a connection to an agent: whole messages with at most one descriptor each,
// validated before anybody sees them, every wait bounded.
// Not thread-safe: one thread owns a channel.
#pragma once

#include <array>
#include <cstddef>

#include "absl/status/status.h"
#include "libzmem/base/sys.h"
#include "libzmem/wire/messages.h"

namespace zmem::wire {

class Channel {
 public:
  // Takes a connected SOCK_SEQPACKET socket.
  explicit Channel(UniqueFd socket) : socket_(std::move(socket)) {}

  int fd() const { return socket_.get(); }

  // Sends `message` (one of the structs of messages.h), with `descriptor` if it is not -1.
  // Errors: Unavailable when the peer is gone or does not read; others as sendmsg(2).
  template <typename Message>
  absl::Status Send(const Message& message, int descriptor = -1) {
    return SendBytes(&message, sizeof message, descriptor);
  }

  // Waits up to timeout_ms (-1: for ever) for a message of type `Message` and copies it out;
  // `descriptor`, if given, receives what came with it.
  // Errors: Unavailable at the peer's end or a hang-up, DeadlineExceeded, FailedPrecondition for
  // another protocol version (see peer_version), InvalidArgument for anything malformed.
  template <typename Message>
  absl::Status Receive(Message& message, int timeout_ms, UniqueFd* descriptor = nullptr) {
    return ReceiveBytes(&message, sizeof message, Message{}.header.type, timeout_ms, descriptor);
  }

  // The version in the last message whose magic was right; 0 before one came.
  uint16_t peer_version() const { return peer_version_; }

 private:
  absl::Status SendBytes(const void* message, size_t message_bytes, int descriptor);
  absl::Status ReceiveBytes(void* message, size_t message_bytes, MessageType type, int timeout_ms,
                            UniqueFd* descriptor);

  UniqueFd socket_;
  uint16_t peer_version_ = 0;
};

}  // namespace zmem::wire
