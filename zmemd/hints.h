// zmemd's side of libzmem/zmem.h: takes in what a program advises of its memory, and tells it how
// it stands. A program may say anything: what makes no sense is refused, and all that is kept of it
// is bounded (store/advice.h). Belongs to the thread of the program's reclaimer.
#pragma once

#include "libzmem/fault/fault_handler.h"
#include "libzmem/reclaim/agent_link.h"
#include "libzmem/store/process.h"

namespace zmem {

class Hints final : public Respondent {
 public:
  // `reclaimer_wake_fd` is the eventfd that its loop waits for.
  Hints(Process& process, FaultHandler& faults, int reclaimer_wake_fd)
      : process_(process), faults_(faults), reclaimer_wake_fd_(reclaimer_wake_fd) {}

  wire::Answer Respond(const wire::Query& query) override;

 private:
  int TakeAdvice(const wire::Query& query);
  wire::Statistics Gather() const;

  Process& process_;
  FaultHandler& faults_;
  const int reclaimer_wake_fd_;
};

}  // namespace zmem
