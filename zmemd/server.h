// The daemon: listens, hands each connection to a thread of its own, and keeps the sessions. Owns
// the pool and all that is shared between processes.
// Thread-safe.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <condition_variable>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libzmem/base/clock.h"
#include "libzmem/base/host_load.h"
#include "libzmem/base/mutex.h"
#include "libzmem/pool/zpool.h"
#include "libzmem/store/page_store.h"
#include "libzmem/store/page_table.h"
#include "zmemd/attach.h"
#include "zmemd/config.h"
#include "zmemd/control_service.h"
#include "zmemd/daemon_parts.h"
#include "zmemd/host_pressure.h"
#include "zmemd/housekeeper.h"
#include "zmemd/keeper.h"
#include "zmemd/live_settings.h"
#include "zmemd/nursery.h"
#include "zmemd/pressure_thread.h"
#include "zmemd/session.h"
#include "zmemd/session_list.h"

namespace zmem {

class Server final : public SessionRegistry, public SessionParent {
 public:
  // Checks what the kernel offers, makes the pool, and listens at `socket_path`.
  // Errors: FailedPrecondition for a kernel that lacks something, PermissionDenied, AlreadyExists
  // if a zmemd listens there; each says what to do.
  // `source` is where `config` is from, and what is read when it is to be read again.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const Config& config,
                                                       const ConfigSource& source,
                                                       const std::string& socket_path,
                                                       std::unique_ptr<Keeper> keeper);
  ~Server() override;

  // Serves until `stop_fd` becomes readable; reads the configuration again whenever the signalfd
  // `reload_fd` does. Then puts every page back into its program and
  // returns. Says on the log what it still waits for.
  void Run(int stop_fd, int reload_fd);

  // SessionRegistry:
  int userfaultfd_device() const override { return device_.get(); }
  uint64_t min_resident_bytes() const override { return settings_->current().min_resident_bytes; }
  bool stopping() const override { return stopping_.load(std::memory_order_acquire); }
  absl::Status CheckManaged(const Identity& identity) override {
    return settings_->CheckManaged(identity);
  }
  void Promise(Session& session, uint64_t limit_bytes) override;
  std::shared_ptr<Session> FindForked(const wire::Token& token) override;
  absl::StatusOr<std::shared_ptr<Session>> AddSession(std::shared_ptr<Process> process) override;
  std::shared_ptr<Process> MakeProcess(Userfaultfd uffd) override;

  // SessionParent:
  void OnForkedSession(std::shared_ptr<Session> child) override;
  void OnAgentChange(int uffd, bool has_agent) override { keeper_->SetHasAgent(uffd, has_agent); }
  Crew& crew() override { return *crew_; }
  AccessedBits* accessed_bits() override { return accessed_bits_.get(); }
  CpuLatency& cpu_latency() override { return cpu_latency_; }

 private:
  Server(const Config& config, std::string socket_path);

  absl::Status Listen();
  // Opens the backing file if one is configured. An error if it is required.
  absl::Status OpenBacking();
  void Accept();
  void ServeConnection(UniqueFd connection);
  void ServeAgentConnection(UniqueFd connection);
  void SweepSessions();
  void PutEverythingBack();

  std::vector<std::shared_ptr<Process>> StoredProcesses() const;
  std::vector<SqueezedProgram> SqueezedPrograms() const;
  absl::Status StartHostPressure();
  DaemonParts Parts();

  // Connections served at once: more than a host has programs; a flood beyond it is turned away.
  static constexpr size_t kMaxConnections = 4096;
  static constexpr size_t kMaxConnectionsOfUser = 1024;

  const Config config_;  // as it was at the start
  const std::string socket_path_;
  MonotonicClock clock_;
  const HostLoad load_;
  ThreadCpuClock cpu_clock_;
  std::unique_ptr<Keeper> keeper_;
  UniqueFd device_;
  UniqueFd listener_;
  std::unique_ptr<Zpool> pool_;
  std::unique_ptr<BackingFile> backing_;
  std::unique_ptr<ChunkArena> arena_;
  std::unique_ptr<PageStore> store_;
  std::unique_ptr<Crew> crew_;
  std::unique_ptr<AccessedBits> accessed_bits_;  // null where they cannot be had
  CpuLatency cpu_latency_;
  std::unique_ptr<LiveSettings> settings_;
  std::atomic<bool> stopping_{false};

  Mutex mutex_;
  CondVar changed_;
  size_t connections_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::flat_hash_map<uid_t, size_t> connections_of_ ABSL_GUARDED_BY(mutex_);
  SessionList sessions_;
  std::unique_ptr<Nursery> nursery_;
  std::unique_ptr<Upkeep> upkeep_;
  std::unique_ptr<Housekeeper> housekeeper_;
  std::unique_ptr<HostPressure> pressure_;
  std::unique_ptr<PressureThread> pressure_thread_;
  std::unique_ptr<ControlService> control_;
};

}  // namespace zmem
