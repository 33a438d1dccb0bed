// The control protocol between zmemd and zmemctl, both ends of it, over a SOCK_SEQPACKET socket.
// Thread-safe: no state; one connection belongs to one thread at a time. Never trusts the peer:
// what it sends is bounded, checked and answered, never asserted on.
//
// One connection carries one request. The client sends one packet of JSON,
//   {"schema":1,"command":"evict","pid":123}
//   {"schema":1,"command":"limit","pid":123,"value":"512M"}
//   {"schema":1,"command":"set","key":"max_pool_size","value":"1G"}
// (the socket serves agents too, whose packets start with another byte than '{'). The server sends
// packets of at most kMaxControlPacketBytes, each starting with a byte that says what it is:
//   'P' {"done":512,"total":4096,"unit":"pages"}    progress, none or many
//   'D' ...                                         the next fragment of the answer's JSON
//   'E' {"exit_code":0}                             the end of the answer, or instead of one
//   'E' {"exit_code":4,"error":"one line"}         several, of a configuration with mistakes
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "libzmem/base/sys.h"

namespace zmem {

inline constexpr char kDefaultSocketPath[] = "/run/zmem/zmemd.sock";
inline constexpr int kControlSchema = 1;
inline constexpr size_t kMaxControlRequestBytes = 4096;
inline constexpr size_t kMaxControlPacketBytes = 64 << 10;
// About 100,000 processes; a client gives up on more.
inline constexpr size_t kMaxControlAnswerBytes = 64 << 20;

enum class ControlCommand {
  kStatus,     // the whole status object
  kPs,         // an array of processes
  kShow,       // one process; takes a pid
  kEvict,      // take out everything that may be taken; takes a pid
  kDrain,      // put everything back and stop managing; takes a pid
  kThaw,       // put everything back and take nothing out until kFreeze; takes a pid
  kFreeze,     // take pages out again; takes a pid
  kHistogram,  // sizes of stored objects; takes a pid, or none for all processes
  kLimit,      // limit what of a process is resident; takes a pid and a value
  kSet,        // change a setting; takes a key and a value
  kReload,     // read the configuration again
  kVersion,    // of the daemon and its protocol
};

// The word on the wire and on the command line.
absl::string_view ControlCommandName(ControlCommand command);
// What comes with a command.
enum class ControlArgument { kNone, kPid, kPidIfAny, kPidWithValue, kSetting };
ControlArgument ControlCommandArgument(ControlCommand command);

struct ControlRequest {
  ControlCommand command = ControlCommand::kStatus;
  pid_t pid = 0;      // 0 where the command takes none, or was given none
  std::string key;    // of the configuration
  std::string value;  // as it would stand there
};

struct ControlProgress {
  uint64_t done = 0;
  uint64_t total = 0;
  std::string unit = "pages";
};
using ControlProgressFn = std::function<void(const ControlProgress&)>;

// The exit code by which zmemctl reports `status`, and the way back. 0 is success, 1 any failure
// without a code of its own.
//   InvalidArgument 2 | NotFound 3 (pid unknown or not managed) | PermissionDenied 4 |
//   DataLoss 6 (a configuration with mistakes) | Unavailable 7
int ControlExitCode(const absl::Status& status);
absl::Status ControlStatus(int64_t exit_code, absl::string_view message);

// The server's end.

struct ControlPeer {
  uid_t uid = 0;
  pid_t pid = 0;
};

class ControlHandler {
 public:
  virtual ~ControlHandler() = default;
  // Answers `request`, whose pid is positive where the command takes one. Decides itself whether
  // `peer` may ask for that. `progress` may be called at any time until it returns, from this
  // thread; it never blocks. Called by several threads at once if several connections are served.
  virtual absl::StatusOr<nlohmann::json> Handle(const ControlRequest& request,
                                                const ControlPeer& peer,
                                                const ControlProgressFn& progress) = 0;
};

struct ControlTimeouts {
  // How long a client may take to send its request.
  int request_ms = 5'000;
  // How long it may take to read one packet, and the whole answer.
  int packet_ms = 5'000;
  int answer_ms = 10'000;
};

// Reads one request from the connected socket `fd`, has it handled, and sends the answer. Returns
// when that is done, or when the peer is gone or too slow. Leaves `fd` open.
void ServeControlConnection(int fd, ControlHandler& handler, const ControlTimeouts& timeouts = {});

// The client's end.

// Errors: Unavailable when nobody listens at `path`, PermissionDenied, InvalidArgument for a path
// that cannot be a socket's.
absl::StatusOr<UniqueFd> ConnectControl(const std::string& path);

// Sends `request` over the fresh connection `fd` and waits for the answer. `progress` may be empty.
// Gives up, with Unavailable, when nothing arrives for `silence_ms`.
// Errors: the daemon's, by exit code; Unavailable when it vanishes; Internal when it sends what is
// not in the protocol.
absl::StatusOr<nlohmann::json> CallControl(int fd, const ControlRequest& request,
                                           const ControlProgressFn& progress,
                                           int silence_ms = 120'000);

// Parses one request packet. Errors: InvalidArgument.
absl::StatusOr<ControlRequest> ParseControlRequest(absl::string_view packet);

}  // namespace zmem
