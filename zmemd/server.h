// The daemon: listens, hands each connection to a thread of its own, keeps the sessions, and
// answers zmemctl. Owns the pool and all that is shared between processes.
// Thread-safe.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <condition_variable>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libzmem/base/clock.h"
#include "libzmem/base/mutex.h"
#include "libzmem/pool/zpool.h"
#include "libzmem/store/page_store.h"
#include "libzmem/store/page_table.h"
#include "zmemd/attach.h"
#include "zmemd/config.h"
#include "zmemd/control.h"
#include "zmemd/host_pressure.h"
#include "zmemd/housekeeper.h"
#include "zmemd/keeper.h"
#include "zmemd/nursery.h"
#include "zmemd/pressure_thread.h"
#include "zmemd/session.h"

namespace zmem {

class Server final : public SessionRegistry, public SessionParent, public ControlHandler {
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
  uint64_t min_resident_bytes() const override { return settings().min_resident_bytes; }
  bool stopping() const override { return stopping_.load(std::memory_order_acquire); }
  absl::Status CheckManaged(const Identity& identity) override;
  void Promise(Session& session, uint64_t limit_bytes) override;
  std::shared_ptr<Session> FindForked(const wire::Token& token) override;
  absl::StatusOr<std::shared_ptr<Session>> AddSession(std::shared_ptr<Process> process) override;
  std::shared_ptr<Process> MakeProcess(Userfaultfd uffd) override;

  // SessionParent:
  void OnForkedSession(std::shared_ptr<Session> child) override;
  void OnAgentChange(int uffd, bool has_agent) override { keeper_->SetHasAgent(uffd, has_agent); }
  Crew& crew() override { return *crew_; }

  // ControlHandler:
  absl::StatusOr<nlohmann::json> Handle(const ControlRequest& request, const ControlPeer& peer,
                                        const ControlProgressFn& progress) override;

 private:
  Server(const Config& config, const ConfigSource& source, std::string socket_path);

  absl::Status Listen();
  // Opens the backing file if one is configured. An error if it is required.
  absl::Status OpenBacking();
  void Accept();
  void ServeConnection(UniqueFd connection);
  void ServeAgentConnection(UniqueFd connection);
  void SweepSessions();
  void PutEverythingBack();

  std::vector<std::shared_ptr<Session>> Sessions() const;
  std::vector<std::shared_ptr<Process>> StoredProcesses() const;
  std::vector<SqueezedProgram> SqueezedPrograms() const;
  absl::Status StartHostPressure();
  absl::StatusOr<std::shared_ptr<Session>> FindForControl(pid_t pid, const ControlPeer& peer) const;
  Config settings() const {
    MutexLock lock(settings_mutex_);
    return settings_;
  }
  // Reads the configuration again. Returns what became of it. Errors: DataLoss with a line for each
  // mistake in it, and then nothing has changed.
  absl::StatusOr<nlohmann::json> Reload();
  // Takes over what was read, for the pool and for every session. Returns how many processes are
  // managed and which are let go.
  nlohmann::json TakeOver(const Config& config);
  // Gives a session what the settings say of its program, or lets go of it: then false.
  bool Configure(Session& session);
  // Makes a session's terms count. What is raised because it cannot be kept is logged.
  void ApplyTerms(Session& session);
  // Limits a process. Returns what its terms then come to.
  absl::StatusOr<nlohmann::json> Limit(Session& session, absl::string_view limit,
                                       const ControlPeer& peer);
  // Changes a setting. Returns what that means for the pool.
  absl::StatusOr<nlohmann::json> Set(const ControlRequest& request, const ControlPeer& peer);
  nlohmann::json Status(const ControlPeer& peer) const;
  nlohmann::json Processes(const ControlPeer& peer) const;
  // Sizes of stored objects of one process, or of all that are the peer's.
  absl::StatusOr<nlohmann::json> Histogram(pid_t pid, const ControlPeer& peer) const;
  nlohmann::json DescribePool() const;
  nlohmann::json DescribeBacking() const;
  nlohmann::json DescribeHost() const;
  // The sum of one counter over all processes.
  uint64_t Sum(std::atomic<uint64_t> ProcessCounters::*counter) const;
  uint64_t metadata_bytes() const;

  // Connections served at once: more than a host has programs; a flood beyond it is turned away.
  static constexpr size_t kMaxConnections = 4096;
  static constexpr size_t kMaxConnectionsOfUser = 1024;

  const Config config_;  // as it was at the start; settings_ has what was changed since
  const ConfigSource config_source_;
  const std::string socket_path_;
  MonotonicClock clock_;
  ThreadCpuClock cpu_clock_;
  std::unique_ptr<Keeper> keeper_;
  UniqueFd device_;
  UniqueFd listener_;
  std::unique_ptr<Zpool> pool_;
  std::unique_ptr<BackingFile> backing_;
  std::unique_ptr<ChunkArena> arena_;
  std::unique_ptr<PageStore> store_;
  std::unique_ptr<Crew> crew_;
  std::atomic<bool> stopping_{false};

  mutable Mutex mutex_;
  CondVar changed_;
  Mutex reload_mutex_;  // held while the configuration is read, taken before the others
  mutable Mutex settings_mutex_;
  Config settings_ ABSL_GUARDED_BY(settings_mutex_);
  std::set<std::string> set_keys_ ABSL_GUARDED_BY(settings_mutex_);  // by zmemctl set, since read
  std::vector<std::shared_ptr<Session>> sessions_ ABSL_GUARDED_BY(mutex_);
  size_t connections_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::flat_hash_map<uid_t, size_t> connections_of_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<Nursery> nursery_;
  std::unique_ptr<Upkeep> upkeep_;
  std::unique_ptr<Housekeeper> housekeeper_;
  std::unique_ptr<HostPressure> pressure_;
  std::unique_ptr<PressureThread> pressure_thread_;
  // What ended sessions have counted.
  uint64_t past_faults_ ABSL_GUARDED_BY(mutex_) = 0;
  LatencyHistogram past_latency_;
};

}  // namespace zmem
