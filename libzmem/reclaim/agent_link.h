// The reclaimer's commands to the agent, one at a time, each answered by a Report.
// Belongs to the reclaimer's thread.
#pragma once

#include <cstdint>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libzmem/wire/channel.h"

namespace zmem {

// What the isolator needs of an agent; tests put their own in its place.
class AgentLink {
 public:
  virtual ~AgentLink() = default;

  // All wait for the answer, but not for ever: a program may be stopped.
  // Errors: Unavailable when the agent is gone; DeadlineExceeded when it does not answer. In both
  // cases it may have carried the command out; in the second it may still do so, at any time until
  // AwaitIdle succeeds.
  virtual absl::StatusOr<wire::Report> Move(wire::Move command) = 0;
  virtual absl::StatusOr<wire::Report> Discard(wire::Discard command) = 0;
  virtual absl::StatusOr<wire::Report> Populate(wire::Populate command) = 0;

  // Waits for the answer to a command that was given up. OK at once if there is none.
  // Errors: as above.
  virtual absl::Status AwaitIdle() = 0;
};

class ChannelAgentLink final : public AgentLink {
 public:
  explicit ChannelAgentLink(wire::Channel& channel) : channel_(channel) {}

  absl::StatusOr<wire::Report> Move(wire::Move command) override { return Call(command); }
  absl::StatusOr<wire::Report> Discard(wire::Discard command) override { return Call(command); }
  absl::StatusOr<wire::Report> Populate(wire::Populate command) override { return Call(command); }

  absl::Status AwaitIdle() override {
    wire::Report ignored;
    return idle_ ? absl::OkStatus() : Receive(ignored);
  }
  // No answer is outstanding: whatever the agent sends now was not asked.
  bool idle() const { return idle_; }

 private:
  // A running agent answers within a millisecond. A longer wait would hold up the program's faults,
  // since the gate is closed to them meanwhile.
  static constexpr int kAnswerTimeoutMs = 1000;

  template <typename Command>
  absl::StatusOr<wire::Report> Call(Command& command) {
    if (absl::Status idle = AwaitIdle(); !idle.ok()) return idle;
    command.header.sequence = ++sequence_;
    if (absl::Status sent = channel_.Send(command); !sent.ok()) return sent;
    idle_ = false;
    wire::Report report;
    if (absl::Status got = Receive(report); !got.ok()) return got;
    return report;
  }

  absl::Status Receive(wire::Report& report) {
    absl::Status got = channel_.Receive(report, kAnswerTimeoutMs);
    if (absl::IsDeadlineExceeded(got)) return got;
    if (got.ok() && report.header.sequence == sequence_) {
      idle_ = true;
      return got;
    }
    return absl::UnavailableError("the agent is gone, or answers what was not asked");
  }

  wire::Channel& channel_;
  uint32_t sequence_ = 0;
  bool idle_ = true;
};

}  // namespace zmem
