// How a program's agent becomes a session's: authentication, the userfaultfd's handshake, and the
// proof that descriptor, process and memory belong together.
// A client may lie in every message; what it says is checked against what the kernel says.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "libzmem/base/sys.h"
#include "libzmem/store/process.h"
#include "libzmem/wire/channel.h"
#include "zmemd/session.h"

namespace zmem {

// What attaching needs of the daemon.
class SessionRegistry {
 public:
  virtual ~SessionRegistry() = default;
  // An open /dev/userfaultfd, for programs that may not open it.
  virtual int userfaultfd_device() const = 0;
  virtual uint64_t min_resident_bytes() const = 0;
  virtual bool stopping() const = 0;
  // Errors: Cancelled if the configuration leaves the program alone, saying where.
  virtual absl::Status CheckManaged(const Identity& identity) = 0;
  // Gives a session that was just bound what its program is promised; `limit_bytes` is what that
  // asked for, 0 for nothing.
  virtual void Promise(Session& session, uint64_t limit_bytes) = 0;
  // The forked session that waits for an agent with this token, or null.
  virtual std::shared_ptr<Session> FindForked(const wire::Token& token) = 0;
  virtual absl::StatusOr<std::shared_ptr<Session>> AddSession(std::shared_ptr<Process> process) = 0;
  virtual std::shared_ptr<Process> MakeProcess(Userfaultfd uffd) = 0;
};

// Talks to the agent at the other end of `channel` until it is attached. On failure the agent was
// told why, and its program goes on unmanaged.
absl::StatusOr<std::shared_ptr<Session>> AttachAgent(wire::Channel& channel,
                                                     SessionRegistry& registry);

}  // namespace zmem
