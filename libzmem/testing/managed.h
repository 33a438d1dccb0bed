// This process as a managed program: a fault thread that serves it and the children it forks, and
// an agent that moves its pages.
#pragma once

#include <array>
#include <atomic>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "libzmem/base/clock.h"
#include "libzmem/fault/fault_handler.h"
#include "libzmem/reclaim/agent_link.h"
#include "libzmem/testing/stored_pages.h"

namespace zmem {

// A clock that a test moves while other threads read it.
class SharedFakeClock final : public Clock {
 public:
  int64_t now_ns() const override { return now_ns_.load(); }
  void Advance(int64_t ns) { now_ns_ += ns; }

 private:
  std::atomic<int64_t> now_ns_{1};  // 0 means never to those who keep times
};

// Serves `process` from construction to destruction, and every child that it forks.
class FaultThread final : public FaultObserver {
 public:
  FaultThread(std::shared_ptr<Process> process, const Clock& clock,
              CpuLatency* cpu_latency = nullptr);
  ~FaultThread() override;

  FaultHandler& handler() { return *handler_; }
  Process& process() { return *process_; }
  bool gone() const { return gone_; }
  bool room_wanted() const { return room_wanted_; }
  bool huge_page_wanted() const { return huge_page_wanted_; }
  // Waits for the end of Run, which OnGone announces.
  void Join() { thread_.join(); }
  // Asks for a drain and waits until it is done.
  void Drain();
  // The children forked so far, oldest first.
  std::vector<std::shared_ptr<FaultThread>> children();
  // Returns when the fault thread has applied every event that was read before the call. A call
  // that raised one returns when it was read.
  void Settle() { GateLock lock(process_->gate); }
  // Returns when all has come that nobody waits for: what is read ahead, or was said to be wanted.
  // Ends the test if that takes 20 s.
  void AwaitIdle();

  // FaultObserver:
  void OnFork(std::shared_ptr<Process> child) override;
  void OnRoomWanted() override { room_wanted_ = true; }
  void OnHugePageWanted() override { huge_page_wanted_ = true; }
  void OnGone() override { gone_ = true; }

 private:
  const std::shared_ptr<Process> process_;
  const Clock& clock_;
  Crew crew_{1, [] {}};
  std::unique_ptr<FaultHandler> handler_;
  std::atomic<bool> gone_{false};
  std::atomic<bool> room_wanted_{false};
  std::atomic<bool> huge_page_wanted_{false};
  Mutex mutex_;
  std::vector<std::shared_ptr<FaultThread>> children_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

// The agent's work, done by whoever calls: this process is the program.
class SelfAgent final : public AgentLink {
 public:
  explicit SelfAgent(const Process& process) : process_(process) {}

  absl::StatusOr<wire::Report> Move(const wire::Move& command) override;
  absl::StatusOr<wire::Report> Discard(const wire::Discard& command) override;
  absl::StatusOr<wire::Report> Populate(const wire::Populate& command) override;
  absl::Status AwaitIdle() override { return absl::OkStatus(); }
  bool Asked(wire::Wish wish) override { return asked[static_cast<size_t>(wish)]; }
  void Grant(wire::Wish wish) override { asked[static_cast<size_t>(wish)] = false; }

  // What the program waits for.
  std::array<std::atomic<bool>, wire::kWishes> asked{};
  // Called before a command's first page moves, under the gate.
  std::function<void()> before_move;
  // Pages moved after which the agent is gone; its command is then left half done.
  size_t moves_left = ~size_t{0};
  // What was asked so far.
  size_t move_commands = 0;
  wire::Report last_report;

 private:
  // False when the agent is gone.
  bool MovePages(const wire::MovePart& part, wire::PageSet* done, wire::Report* counts);

  const Process& process_;
};

// Binds a staging area of `slabs` to the process, registered. To be destroyed after the process, as
// every Mapping.
std::unique_ptr<Mapping> BindStaging(Process& process, size_t slabs);

// Whole chunks of this process's memory that are all AddressMap calls eligible in it, since they
// lie above everything else it maps, and the rest is given out as the agent's own. For tests of
// what surveys a whole process.
std::unique_ptr<Mapping> MapOnlyEligible(Process& process, size_t chunks);

}  // namespace zmem
