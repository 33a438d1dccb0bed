// The daemon's end of the control protocol; control.h describes it.
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "libzmem/base/clock.h"
#include "libzmem/base/sys.h"
#include "zmemd/control.h"

namespace zmem {
namespace {

using nlohmann::json;

// A process may give itself a name that is not UTF-8; JSON must still come of it.
std::string Dump(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

class ControlConnection {
 public:
  ControlConnection(int fd, const ControlTimeouts& timeouts) : fd_(fd), timeouts_(timeouts) {
    timeval limit{timeouts.packet_ms / 1000, timeouts.packet_ms % 1000 * 1000};
    // Should this fail, only a hostile client's thread is held.
    setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  }

  // Errors: Aborted when there is nobody to answer, InvalidArgument for what is no request.
  absl::StatusOr<ControlRequest> ReceiveRequest() {
    pollfd readable{fd_, POLLIN, 0};
    if (sys::Poll(&readable, 1, timeouts_.request_ms) <= 0) {
      return absl::AbortedError("no request came in time");
    }
    char packet[kMaxControlRequestBytes];
    // MSG_TRUNC returns the packet's own length, though only its front is copied.
    ssize_t bytes = recv(fd_, packet, sizeof packet, MSG_TRUNC | MSG_DONTWAIT);
    if (bytes <= 0) return absl::AbortedError("the client went away");
    if (static_cast<size_t>(bytes) > sizeof packet) {
      return absl::InvalidArgumentError(absl::StrCat("a request of ", bytes, " bytes; at most ",
                                                     kMaxControlRequestBytes, " are allowed"));
    }
    return ParseControlRequest(absl::string_view(packet, static_cast<size_t>(bytes)));
  }

  absl::StatusOr<ControlPeer> Peer() const {
    ucred credentials;
    socklen_t bytes = sizeof credentials;
    if (getsockopt(fd_, SOL_SOCKET, SO_PEERCRED, &credentials, &bytes) != 0) {
      return sys::ErrnoStatus(errno, "cannot tell who sends a control request");
    }
    return ControlPeer{credentials.uid, credentials.pid};
  }

  // Progress is news, not an answer: what a slow client has no room for is dropped.
  void SendProgress(const ControlProgress& progress) {
    SendPacket('P',
               Dump({{"done", progress.done}, {"total", progress.total}, {"unit", progress.unit}}),
               MSG_DONTWAIT);
  }

  void SendAnswer(const absl::StatusOr<json>& answer) {
    if (!answer.ok()) {
      json end = {{"exit_code", ControlExitCode(answer.status())},
                  {"error", std::string(answer.status().message())}};
      SendPacket('E', Dump(end), 0);
      return;
    }
    std::string text = Dump(*answer);
    absl::string_view rest = text;
    MonotonicClock clock;
    int64_t deadline_ns = clock.now_ns() + int64_t{timeouts_.answer_ms} * 1'000'000;
    while (!rest.empty()) {
      absl::string_view fragment = rest.substr(0, kMaxControlPacketBytes - 1);
      if (clock.now_ns() > deadline_ns || !SendPacket('D', fragment, 0)) return;
      rest.remove_prefix(fragment.size());
    }
    SendPacket('E', R"({"exit_code":0})", 0);
  }

 private:
  // Whether the packet is on its way: not when the peer is gone or has no room for it in time.
  bool SendPacket(char kind, absl::string_view text, int flags) {
    // A message too long for one packet can only be an error's; its front says enough, but half
    // a JSON text says nothing.
    if (text.size() + 1 > kMaxControlPacketBytes) text = R"({"exit_code":1})";
    iovec parts[] = {{&kind, 1}, {const_cast<char*>(text.data()), text.size()}};
    msghdr message{};
    message.msg_iov = parts;
    message.msg_iovlen = 2;
    ssize_t sent;
    do {
      sent = sendmsg(fd_, &message, flags | MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    return sent >= 0;
  }

  int fd_;
  const ControlTimeouts timeouts_;
};

}  // namespace

void ServeControlConnection(int fd, ControlHandler& handler, const ControlTimeouts& timeouts) {
  ControlConnection connection(fd, timeouts);
  absl::StatusOr<ControlRequest> request = connection.ReceiveRequest();
  if (absl::IsAborted(request.status())) return;
  if (!request.ok()) return connection.SendAnswer(request.status());
  absl::StatusOr<ControlPeer> peer = connection.Peer();
  if (!peer.ok()) return connection.SendAnswer(peer.status());
  connection.SendAnswer(handler.Handle(
      *request, *peer,
      [&connection](const ControlProgress& progress) { connection.SendProgress(progress); }));
}

}  // namespace zmem
