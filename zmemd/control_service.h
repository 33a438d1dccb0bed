// Answers zmemctl: finds the process that is meant, decides whether the peer may ask for that, and
// does it.
// Thread-safe.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "libzmem/base/clock.h"
#include "libzmem/base/mutex.h"
#include "zmemd/control.h"
#include "zmemd/daemon_parts.h"

namespace zmem {

class ControlService final : public ControlHandler {
 public:
  // All of them outlive this. Once `stopping` is true no configuration is read.
  ControlService(const DaemonParts& parts, const Clock& clock, const std::atomic<bool>& stopping);

  absl::StatusOr<nlohmann::json> Handle(const ControlRequest& request, const ControlPeer& peer,
                                        const ControlProgressFn& progress) override;

  // Reads the configuration again, logs what became of it, and returns that. Errors: DataLoss with
  // a line for each mistake in it, and then nothing has changed; Unavailable while zmemd stops.
  absl::StatusOr<nlohmann::json> Reload();

 private:
  // Answers what is asked of one process.
  absl::StatusOr<nlohmann::json> HandleProcess(const ControlRequest& request,
                                               const ControlPeer& peer,
                                               const ControlProgressFn& progress);
  absl::StatusOr<std::shared_ptr<Session>> Find(pid_t pid, const ControlPeer& peer) const;
  // Gives every session what the settings say now. Returns how many processes are managed and
  // which are let go.
  nlohmann::json Configure();
  // Limits a process. Returns what its terms then come to.
  absl::StatusOr<nlohmann::json> Limit(Session& session, absl::string_view limit,
                                       const ControlPeer& peer);
  // Changes a setting. Returns what that means for the pool.
  absl::StatusOr<nlohmann::json> Set(const ControlRequest& request, const ControlPeer& peer);
  absl::StatusOr<nlohmann::json> Histogram(pid_t pid, const ControlPeer& peer) const;

  const DaemonParts parts_;
  const Clock& clock_;
  const std::atomic<bool>& stopping_;
  Mutex reload_mutex_;  // held while the configuration is read, taken before the others
};

}  // namespace zmem
