// The reclaimer's commands to the agent, one at a time, each answered by a Report.
// Belongs to the reclaimer's thread.
#pragma once

#include <cstdint>
#include <utility>

#include "absl/status/statusor.h"
#include "libzmem/wire/channel.h"

namespace zmem {

// What the isolator needs of an agent; tests put their own in its place.
class AgentLink {
 public:
  virtual ~AgentLink() = default;
  // Both wait for the agent for as long as it lives: a stopped program holds up its own reclaimer.
  // Errors: Unavailable when the agent is gone; it may or may not have carried the command out.
  virtual absl::StatusOr<wire::Report> Move(wire::Move command) = 0;
  virtual absl::StatusOr<wire::Report> Discard(wire::Discard command) = 0;
};

class ChannelAgentLink final : public AgentLink {
 public:
  explicit ChannelAgentLink(wire::Channel& channel) : channel_(channel) {}

  absl::StatusOr<wire::Report> Move(wire::Move command) override { return Call(command); }
  absl::StatusOr<wire::Report> Discard(wire::Discard command) override { return Call(command); }

 private:
  template <typename Command>
  absl::StatusOr<wire::Report> Call(Command& command) {
    command.header.sequence = ++sequence_;
    if (absl::Status sent = channel_.Send(command); !sent.ok()) return sent;
    wire::Report report;
    if (absl::Status got = channel_.Receive(report, -1); !got.ok()) return got;
    if (report.header.sequence != sequence_) {
      return absl::UnavailableError("the agent answered something that was not asked");
    }
    return report;
  }

  wire::Channel& channel_;
  uint32_t sequence_ = 0;
};

}  // namespace zmem
