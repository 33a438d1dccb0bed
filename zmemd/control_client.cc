// zmemctl's end of the control protocol; control.h describes it.
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "libzmem/base/quantity.h"
#include "libzmem/base/sys.h"
#include "zmemd/control.h"
#include "zmemd/json_fields.h"

namespace zmem {
namespace {

using nlohmann::json;

// How long a daemon may take to accept a connection or a request.
constexpr int kSendSeconds = 10;

absl::Status ConnectError(int error, const std::string& path) {
  switch (error) {
    case ENOENT:
    case ENOTDIR:
    case ECONNREFUSED:
      return absl::UnavailableError(absl::StrCat("no zmemd is listening at ", path,
                                                 "; start zmemd or name its socket with --socket"));
    case EACCES:
    case EPERM:
      return absl::PermissionDeniedError(
          absl::StrCat("no permission to connect to ", path, "; run zmemctl as root"));
    case EAGAIN:
      return absl::UnavailableError(
          absl::StrCat("zmemd at ", path, " accepts no connection; it is overloaded or stuck"));
    case EPROTOTYPE:
      return absl::UnavailableError(absl::StrCat(
          path, " is not a zmemd's socket; start zmemd or name its socket with --socket"));
    default:
      return sys::ErrnoStatus(error, absl::StrCat("cannot connect to ", path));
  }
}

absl::Status Vanished() {
  return absl::UnavailableError("zmemd went away before it had answered; its log may say why");
}

absl::Status NotInProtocol(absl::string_view what) {
  return absl::InternalError(
      absl::StrCat("zmemd sent ", what, "; use the zmemctl that was installed with it"));
}

absl::Status SendRequest(int fd, const ControlRequest& request) {
  json text = {{"schema", kControlSchema},
               {"command", std::string(ControlCommandName(request.command))}};
  switch (ControlCommandArgument(request.command)) {
    case ControlArgument::kNone:
      break;
    case ControlArgument::kPidIfAny:
      if (request.pid != 0) text["pid"] = request.pid;
      break;
    case ControlArgument::kPid:
      text["pid"] = request.pid;
      break;
    case ControlArgument::kPidWithValue:
      text["pid"] = request.pid;
      text["value"] = request.value;
      break;
    case ControlArgument::kSetting:
      text["key"] = request.key;
      text["value"] = request.value;
      break;
  }
  // What the user typed need not be UTF-8.
  std::string packet = text.dump(-1, ' ', false, json::error_handler_t::replace);
  if (send(fd, packet.data(), packet.size(), MSG_NOSIGNAL) >= 0) return absl::OkStatus();
  if (errno == EPIPE || errno == ECONNRESET) return Vanished();
  return sys::ErrnoStatus(errno, "cannot send the request to zmemd");
}

// One call's answer as it arrives, packet by packet.
class AnswerReader {
 public:
  AnswerReader(int fd, const ControlProgressFn& progress, int silence_ms)
      : fd_(fd), progress_(progress), silence_ms_(silence_ms) {}

  absl::StatusOr<json> Read() {
    while (!ended_) {
      absl::StatusOr<absl::string_view> packet = Receive();
      if (!packet.ok()) return packet.status();
      absl::Status taken = Take(packet->front(), packet->substr(1));
      if (!taken.ok()) return taken;
    }
    json answer = json::parse(answer_, nullptr, /*allow_exceptions=*/false);
    if (answer.is_discarded()) return NotInProtocol("an answer that is not JSON");
    return answer;
  }

 private:
  absl::StatusOr<absl::string_view> Receive() {
    pollfd readable{fd_, POLLIN, 0};
    int ready = sys::Poll(&readable, 1, silence_ms_);
    if (ready < 0) return sys::ErrnoStatus(-ready, "cannot wait for zmemd");
    if (ready == 0) {
      return absl::UnavailableError(
          absl::StrCat("zmemd has been silent for ",
                       FormatDuration(static_cast<uint64_t>(silence_ms_) * 1'000'000),
                       "; it may still do what it was asked to"));
    }
    // MSG_TRUNC returns the packet's own length, though only its front is copied.
    ssize_t bytes = recv(fd_, buffer_.data(), buffer_.size(), MSG_TRUNC);
    if (bytes == 0 || (bytes < 0 && errno == ECONNRESET)) return Vanished();
    if (bytes < 0) return sys::ErrnoStatus(errno, "cannot read zmemd's answer");
    if (static_cast<size_t>(bytes) > buffer_.size()) {
      return NotInProtocol(absl::StrCat("a packet of ", bytes, " bytes"));
    }
    return absl::string_view(buffer_.data(), static_cast<size_t>(bytes));
  }

  absl::Status Take(char kind, absl::string_view text) {
    switch (kind) {
      case 'D':
        if (answer_.size() + text.size() > kMaxControlAnswerBytes) {
          return NotInProtocol("an endless answer");
        }
        answer_.append(text.data(), text.size());
        return absl::OkStatus();
      case 'P':
        return TakeProgress(text);
      case 'E':
        return TakeEnd(text);
      default:
        return NotInProtocol(
            absl::StrCat("a packet of unknown kind ", Quoted(absl::string_view(&kind, 1))));
    }
  }

  absl::Status TakeProgress(absl::string_view text) {
    json parsed = json::parse(text.begin(), text.end(), nullptr, false);
    if (!parsed.is_object()) return NotInProtocol("progress that is not JSON");
    ControlProgress progress{CountAt(parsed, "done"), CountAt(parsed, "total"),
                             StringAt(parsed, "unit", "pages")};
    if (progress_) progress_(progress);
    return absl::OkStatus();
  }

  absl::Status TakeEnd(absl::string_view text) {
    json parsed = json::parse(text.begin(), text.end(), nullptr, false);
    int64_t exit_code = IntegerAt(parsed, "exit_code", -1);
    if (exit_code < 0) return NotInProtocol("an end without an exit code");
    ended_ = true;
    return ControlStatus(exit_code, StringAt(parsed, "error", "zmemd failed and did not say why"));
  }

  int fd_;
  const ControlProgressFn& progress_;
  int silence_ms_;
  bool ended_ = false;
  std::string answer_;
  std::vector<char> buffer_ = std::vector<char>(kMaxControlPacketBytes);
};

}  // namespace

absl::StatusOr<UniqueFd> ConnectControl(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path) {
    return absl::InvalidArgumentError(absl::StrCat(Quoted(path),
                                                   " cannot be a socket's path; it has 1 to ",
                                                   sizeof address.sun_path - 1, " bytes"));
  }
  memcpy(address.sun_path, path.data(), path.size());
  UniqueFd fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return sys::ErrnoStatus(errno, "cannot create a socket");
  timeval limit{kSendSeconds, 0};  // bounds connect as well
  setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  if (connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
    return ConnectError(errno, path);
  }
  return fd;
}

absl::StatusOr<json> CallControl(int fd, const ControlRequest& request,
                                 const ControlProgressFn& progress, int silence_ms) {
  absl::Status sent = SendRequest(fd, request);
  if (!sent.ok()) return sent;
  return AnswerReader(fd, progress, silence_ms).Read();
}

}  // namespace zmem
