// zmemd's end of a connection to an agent: whole messages with at most one descriptor each,
// validated before anybody sees them, every wait bounded.
// Not thread-safe: one thread owns a channel.
#pragma once

#include <array>
#include <cstddef>
#include <cstring>

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
    Packet packet;
    absl::Status got = ReceivePacket(packet, timeout_ms, descriptor);
    if (!got.ok()) return got;
    return TakeOut(packet, message) ? absl::OkStatus() : OutOfOrder();
  }

  // The same for whichever of `messages`, of different types, comes first; `*which` tells, from 0.
  template <typename... Messages>
  absl::Status ReceiveOneOf(size_t* which, int timeout_ms, Messages&... messages) {
    Packet packet;
    absl::Status got = ReceivePacket(packet, timeout_ms, nullptr);
    if (!got.ok()) return got;
    *which = 0;
    bool taken = ((TakeOut(packet, messages) || (++*which, false)) || ...);
    return taken ? absl::OkStatus() : OutOfOrder();
  }

  // The version in the last message whose magic was right; 0 before one came.
  uint16_t peer_version() const { return peer_version_; }

 private:
  absl::Status SendBytes(const void* message, size_t message_bytes, int descriptor);
  // A whole message of our version, of whatever type.
  struct Packet {
    alignas(Header) std::byte bytes[kMaxMessageBytes];
    size_t size = 0;
  };
  absl::Status ReceivePacket(Packet& packet, int timeout_ms, UniqueFd* descriptor);
  // False if the packet is not a `Message`.
  template <typename Message>
  static bool TakeOut(const Packet& packet, Message& message) {
    Header head{.type = MessageType::kHello, .message_bytes = 0};
    std::memcpy(&head, packet.bytes, sizeof head);
    if (head.type != Message{}.header.type || packet.size != sizeof message) return false;
    std::memcpy(&message, packet.bytes, sizeof message);
    return true;
  }
  static absl::Status OutOfOrder();

  UniqueFd socket_;
  uint16_t peer_version_ = 0;
};

}  // namespace zmem::wire
