#include "zmemd/hints.h"

#include <errno.h>
#include <sys/eventfd.h>

#include <cmath>

#include "zmemd/session.h"

namespace zmem {
wire::Answer Hints::Respond(const wire::Query& query) {
  wire::Answer answer{};
  switch (query.kind) {
    case wire::QueryKind::kStatistics:
      answer.statistics = Gather();
      return answer;
    case wire::QueryKind::kNormal:
    case wire::QueryKind::kCold:
    case wire::QueryKind::kWillNeed:
    case wire::QueryKind::kKeep:
      answer.error = TakeAdvice(query);
      return answer;
  }
  answer.error = EINVAL;
  return answer;
}

int Hints::TakeAdvice(const wire::Query& query) {
  int error = process_.advice.Take(query.kind, query.range);
  if (error == 0) {
    // The message may have been taken in while something else was waited for.
    eventfd_write(reclaimer_wake_fd_, 1);
    faults_.Wake();
  }
  return error;
}

wire::Statistics Hints::Gather() const {
  constexpr double kPpmPerPercent = 10'000;
  const ProcessCounters& counters = process_.counters;
  Policy policy = process_.policy();
  return {.resident_bytes = ResidentBytes(process_.pid),
          .out_bytes = (counters.stored_pages + counters.staged_pages) * kPageBytes,
          .held_bytes = counters.held_bytes,
          .disk_bytes = counters.disk_bytes,
          .faults_total = counters.faults_total,
          .stall_ns = counters.stall_ns,
          .limit_bytes = policy.limit_bytes,
          .stall_target_ppm =
              static_cast<uint64_t>(std::lround(policy.stall_target_percent * kPpmPerPercent)),
          .kept_bytes = process_.advice.kept_bytes()};
}

}  // namespace zmem
