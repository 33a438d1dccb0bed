// One managed process: its fault thread, its reclaimer, and what others may ask of it.
//
// A session begins in one of two ways: an agent attached (Attach), or a managed process forked
// (the observer's OnFork), in which case it is served from that moment and may get an agent later.
// It ends when the process is gone, or when every page is back in it.
// Thread-safe.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libzmem/base/clock.h"
#include "libzmem/base/mutex.h"
#include "libzmem/fault/fault_handler.h"
#include "libzmem/reclaim/reclaimer.h"
#include "libzmem/store/process.h"
#include "libzmem/wire/channel.h"
#include "zmemd/program_terms.h"

namespace zmem {

class Session;

// Names the calling thread and lets it run at once when it is woken, beside a program that keeps
// its CPU busy.
void RaiseServingThread(const char* name);

// What of the process's memory is resident; 0 if it is gone.
uint64_t ResidentBytes(pid_t pid);

// What a session tells the daemon. Called from its threads: quick, no waiting.
class SessionParent {
 public:
  virtual ~SessionParent() = default;
  // `child` is to be served from now on.
  virtual void OnForkedSession(std::shared_ptr<Session> child) = 0;
  // The program of this userfaultfd has an agent from now on, or none any more.
  virtual void OnAgentChange(int uffd, bool has_agent) = 0;
  // Helps sessions to store pages. Outlives them.
  virtual Crew& crew() = 0;
  // Null where touched pages cannot be seen.
  virtual AccessedBits* accessed_bits() = 0;
  // Is held while one gets its pages back. Outlives them.
  virtual CpuLatency& cpu_latency() = 0;
};

// Who a process is, as the kernel vouches for it.
struct Identity {
  pid_t pid = 0;
  uid_t uid = 0;
  std::string comm;
  UniqueFd pidfd;
};

class Session final : public FaultObserver, public std::enable_shared_from_this<Session> {
 public:
  // Nobody serves it yet. Errors: what eventfd(2) says.
  static absl::StatusOr<std::shared_ptr<Session>> Create(std::shared_ptr<Process> process,
                                                         SessionParent& parent, const Clock& clock);
  // Starts its fault thread. Once; ServeOnce must not be called any more.
  // Errors: ResourceExhausted.
  absl::Status StartServing();
  // Answers what waits now, in place of that thread. False when the address space is gone.
  bool ServeOnce() { return faults_->Turn(0); }
  // Nothing has to be done for it but to wait for messages.
  bool quiet() const { return faults_->idle(); }
  int uffd() const { return process_->uffd.fd(); }
  ~Session() override;

  // True for the first who asks: a forked session gets one agent.
  bool ClaimForAgent() { return !claimed_.exchange(true, std::memory_order_acq_rel); }
  // Binds the session to the process that its agent speaks for. Once, before ServeAgent.
  void Bind(Identity identity, RemoteMemory memory, Pagemap pagemap, const wire::Hello& hello);
  bool bound() const { return process_->bound.load(std::memory_order_acquire); }

  // The reclaimer's loop: returns when the session has ended, or the agent is gone and every page
  // is back.
  void ServeAgent(wire::Channel& channel);

  // Takes everything out that may be taken. Waits for it; calls `progress` from this thread.
  // Errors: NotFound when the session ends first, has no agent any more or is draining;
  // FailedPrecondition while it is thawed.
  absl::StatusOr<Reclaimer::EvictResult> EvictAll(const Reclaimer::ProgressFn& progress);
  // Puts everything back and ends the session for good: the agent does not come again. Returns the
  // pages put back.
  // Errors, also of Thaw: FailedPrecondition if the program's memory cgroup cannot take them.
  absl::StatusOr<uint64_t> DrainAndWait(const Reclaimer::ProgressFn& progress);
  // Puts everything back and takes nothing out any more until Freeze; the session goes on. Returns
  // the pages put back. For debuggers, which cannot read what is out (FACTS 19).
  // Errors: NotFound when the session ends first, has no agent any more or is draining.
  absl::StatusOr<uint64_t> Thaw(const Reclaimer::ProgressFn& progress);
  // The reverse. Returns at once.
  void Freeze();
  // Begins what DrainAndWait waits for.
  void RequestDrain();

  // Who asked what for the program. SetPolicy makes it count.
  ProgramTerms& terms() { return terms_; }
  // Takes effect at once.
  void SetPolicy(const Policy& policy);

  // Has the reclaimer look now for what is wanted of it. Returns at once.
  void Wake();
  // Whether its pages may be asked for when the host is short of memory.
  bool GivesPages() const;

  // For a session without an agent: whether its address space is still there, and what a drain of
  // it waits for. Ends the session if not. Called now and then by the server.
  void CheckOrphan();

  bool ended() const { return ended_.load(std::memory_order_acquire); }
  // Pages that are out now.
  uint64_t pages_out() const;
  const wire::Token& token() const { return process_->token; }
  pid_t pid() const { return bound() ? identity_.pid : 0; }
  uid_t uid() const { return identity_.uid; }
  std::shared_ptr<Process> shared_process() const { return process_; }
  Process& process() { return *process_; }

  // One element of the `processes` array.
  nlohmann::json Describe() const;

  // FaultObserver:
  void OnFork(std::shared_ptr<Process> child) override;
  void OnRoomWanted() override;
  void OnHugePageWanted() override;
  void OnGone() override;

 private:
  // What a control connection asked the reclaimer's thread to do.
  struct EvictJob {
    std::atomic<bool> cancel{false};
    std::atomic<uint64_t> done{0};
    std::atomic<uint64_t> total{0};
    bool finished = false;  // guarded by mutex_
    absl::StatusOr<Reclaimer::EvictResult> result = absl::UnknownError("not finished");
  };

  Session(std::shared_ptr<Process> process, SessionParent& parent, const Clock& clock);
  void RunEvictJob(Reclaimer& reclaimer);
  // One turn of the reclaimer's loop. Errors: as Reclaimer::Tick.
  absl::Status Reclaim(ChannelAgentLink& agent, Reclaimer& reclaimer);
  // Brings the session nearer to being thawed, or back, as was asked for.
  absl::Status TurnThaw(ChannelAgentLink& agent, Reclaimer& reclaimer);
  void FinishJob(absl::StatusOr<Reclaimer::EvictResult> result);
  // Whether the program's memory cgroup has room for everything that is out.
  absl::Status CheckRoom();
  void SetHasAgent(bool has_agent);
  // Whether there is still an agent to do it.
  bool CanTakeOut() const;
  // What whoever waits for something of the session is told when it cannot be had any more.
  absl::Status NoLongerManaged() const;
  // Waits until the fault thread has put every page back or the process is gone.
  void AwaitDrain();
  // For an agent that is not heard of any more in a program that may live: it holds a copy of the
  // userfaultfd, which nobody will read. Every page is back.
  void UnregisterAll();
  void End();
  const char* state() const;

  const std::shared_ptr<Process> process_;
  SessionParent& parent_;
  const Clock& clock_;
  Identity identity_;
  ProgramTerms terms_;
  UniqueFd wake_fd_;  // of the reclaimer's loop
  std::unique_ptr<FaultHandler> faults_;
  std::thread fault_thread_;
  std::atomic<bool> drain_requested_{false};
  std::atomic<bool> claimed_{false};
  std::atomic<bool> leave_alone_{false};
  std::atomic<bool> room_wanted_{false};
  std::atomic<bool> thaw_wanted_{false};
  std::atomic<bool> thawing_{false};  // the fault thread was asked to put everything back for it
  std::atomic<bool> thawed_{false};
  std::atomic<bool> has_agent_{false};
  std::atomic<bool> ended_{false};

  mutable Mutex mutex_;
  CondVar changed_;
  std::shared_ptr<EvictJob> job_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace zmem
