// The reclaimer's commands to the agent, one at a time, each answered by a Report, and what the
// program asks for, says and wants to know through the agent.
// Belongs to the reclaimer's thread.
#pragma once

#include <array>
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
  virtual absl::StatusOr<wire::Report> Move(const wire::Move& command) = 0;
  virtual absl::StatusOr<wire::Report> Discard(const wire::Discard& command) = 0;
  virtual absl::StatusOr<wire::Report> Populate(const wire::Populate& command) = 0;

  // Waits for the answer to a command that was given up. OK at once if there is none.
  // Errors: as above.
  virtual absl::Status AwaitIdle() = 0;

  // Whether a thread of the program waits for `wish` to be granted. Never waits.
  virtual bool Asked(wire::Wish wish) = 0;
  // Lets it go on.
  virtual void Grant(wire::Wish wish) = 0;
};

// Answers what the program says or asks through zmem.h. Called while a command's report is awaited,
// too, with the gate closed: must be quick, and must not wait for the program.
class Respondent {
 public:
  virtual ~Respondent() = default;
  virtual wire::Answer Respond(const wire::Query& query) = 0;
};

class ChannelAgentLink final : public AgentLink {
 public:
  ChannelAgentLink(wire::Channel& channel, Respondent& respondent)
      : channel_(channel), respondent_(respondent) {}

  absl::StatusOr<wire::Report> Move(const wire::Move& command) override { return Call(command); }
  absl::StatusOr<wire::Report> Discard(const wire::Discard& command) override {
    return Call(command);
  }
  absl::StatusOr<wire::Report> Populate(const wire::Populate& command) override {
    return Call(command);
  }

  absl::Status AwaitIdle() override {
    wire::Report ignored;
    return idle_ ? absl::OkStatus() : Receive(ignored);
  }
  bool Asked(wire::Wish wish) override {
    // What cannot be read now is left to the next command, which says it better.
    if (idle_) TakeRequests().IgnoreError();
    return asked_[static_cast<size_t>(wish)];
  }
  void Grant(wire::Wish wish) override {
    asked_[static_cast<size_t>(wish)] = false;
    wire::Granted granted{};
    granted.wish = wish;
    channel_.Send(granted).IgnoreError();  // one that is gone is noticed by the next command
  }
  // Takes in what the agent has sent unasked, without waiting.
  // Errors: Unavailable at the agent's end, or if it sends what makes no sense.
  absl::Status TakeRequests() {
    for (int i = 0; i < kMostUnasked; ++i) {
      wire::Request request{};
      wire::Query query{};
      size_t which = 0;
      absl::Status got = channel_.ReceiveOneOf(&which, 0, request, query);
      if (absl::IsDeadlineExceeded(got)) return absl::OkStatus();
      bool known = got.ok() && (which == 0 ? Note(request) : Reply(query));
      if (!known) return absl::UnavailableError("the agent is gone");
    }
    return absl::OkStatus();  // the rest another time
  }
  // No answer is outstanding: what the agent sends now is a request, or its end.
  bool idle() const { return idle_; }

 private:
  // A running agent answers within a millisecond. A longer wait would hold up the program's faults,
  // since the gate is closed to them meanwhile.
  static constexpr int kAnswerTimeoutMs = 1000;
  // Messages taken in one go that were not asked for. An agent sends one for each of its wishes and
  // one for each thread in a call of zmem.h, of which it lets in a few.
  static constexpr int kMostUnasked = 256;

  template <typename Command>
  absl::StatusOr<wire::Report> Call(Command command) {
    if (absl::Status idle = AwaitIdle(); !idle.ok()) return idle;
    command.header.sequence = ++sequence_;
    if (absl::Status sent = channel_.Send(command); !sent.ok()) return sent;
    idle_ = false;
    wire::Report report{};
    if (absl::Status got = Receive(report); !got.ok()) return got;
    return report;
  }

  absl::Status Receive(wire::Report& report) {
    for (int i = 0; i < kMostUnasked; ++i) {
      wire::Request request{};
      wire::Query query{};
      size_t which = 0;
      absl::Status got = channel_.ReceiveOneOf(&which, kAnswerTimeoutMs, report, request, query);
      if (absl::IsDeadlineExceeded(got)) return got;
      if (got.ok() && which == 1 && Note(request)) continue;
      if (got.ok() && which == 2 && Reply(query)) continue;
      if (got.ok() && which == 0 && report.header.sequence == sequence_) {
        idle_ = true;
        return got;
      }
      break;
    }
    return absl::UnavailableError("the agent is gone, or answers what was not asked");
  }

  bool Note(const wire::Request& request) {
    size_t wish = static_cast<size_t>(request.wish);
    if (wish >= wire::kWishes) return false;
    asked_[wish] = true;
    return true;
  }

  bool Reply(const wire::Query& query) {
    wire::Answer answer = respondent_.Respond(query);
    answer.header.sequence = query.header.sequence;
    channel_.Send(answer).IgnoreError();  // as above
    return true;
  }

  wire::Channel& channel_;
  Respondent& respondent_;
  uint32_t sequence_ = 0;
  bool idle_ = true;
  std::array<bool, wire::kWishes> asked_{};
};

}  // namespace zmem
