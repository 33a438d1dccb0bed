// What libzmem.so offers to programs that want to help: libzmem/zmem.h.
#include "libzmem/zmem.h"

#include <errno.h>
#include <string.h>

#include "preload/desk.h"
#include "preload/step_aside.h"

namespace zmem {
namespace {

static_assert(ZMEM_NORMAL == static_cast<int>(wire::QueryKind::kNormal) &&
              ZMEM_COLD == static_cast<int>(wire::QueryKind::kCold) &&
              ZMEM_WILLNEED == static_cast<int>(wire::QueryKind::kWillNeed) &&
              ZMEM_KEEP == static_cast<int>(wire::QueryKind::kKeep));
constexpr size_t kFirstVersionBytes = 88;
static_assert(sizeof(struct zmem_stats) >= kFirstVersionBytes);

int Fail(int error) {
  errno = error;
  return -1;
}

int Consult(const wire::Query& query, wire::Answer* answer) {
  if (g_agent == nullptr) return ENOTCONN;
  int result = Consult(g_agent->desk, g_agent->bell, query, answer);
  return result != 0 ? -result : answer->error;
}

struct zmem_stats Describe(const wire::Statistics& statistics) {
  return {.struct_bytes = 0,
          .resident_bytes = statistics.resident_bytes,
          .out_bytes = statistics.out_bytes,
          .held_bytes = statistics.held_bytes,
          .disk_bytes = statistics.disk_bytes,
          .faults_total = statistics.faults_total,
          .stall_ns = statistics.stall_ns,
          .limit_bytes = statistics.limit_bytes,
          .stall_target_ppm = statistics.stall_target_ppm,
          .kept_bytes = statistics.kept_bytes,
          .connections = g_agent->desk.openings.load()};
}

}  // namespace
}  // namespace zmem

#define ZMEM_EXPORTED extern "C" __attribute__((visibility("default")))

ZMEM_EXPORTED int zmem_advise(void* addr, size_t len, int advice) {
  using namespace zmem;
  Address start = reinterpret_cast<Address>(addr);
  Address end = start + (len + kPageBytes - 1) / kPageBytes * kPageBytes;
  bool overflows = len > ~size_t{0} - kPageBytes || end < start;
  if (start % kPageBytes != 0 || overflows || advice < ZMEM_NORMAL || advice > ZMEM_KEEP) {
    return Fail(EINVAL);
  }
  if (len == 0) return 0;
  wire::Query query{};
  query.kind = static_cast<wire::QueryKind>(advice);
  query.range = {start, end};
  wire::Answer answer;
  int error = Consult(query, &answer);
  return error == 0 ? 0 : Fail(error);
}

ZMEM_EXPORTED int zmem_stats(struct zmem_stats* stats) {
  using namespace zmem;
  if (stats == nullptr) return Fail(EFAULT);
  size_t wanted = stats->struct_bytes;
  if (wanted < kFirstVersionBytes || wanted > kPageBytes) return Fail(EINVAL);
  wire::Query query{};
  query.kind = wire::QueryKind::kStatistics;
  wire::Answer answer;
  if (int error = Consult(query, &answer); error != 0) return Fail(error);
  struct zmem_stats now = Describe(answer.statistics);
  now.struct_bytes = wanted < sizeof now ? wanted : sizeof now;
  memset(stats, 0, wanted);
  memcpy(stats, &now, now.struct_bytes);
  return 0;
}
