#include "libzmem/fault/cpu_follower.h"

#include <fcntl.h>
#include <sched.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace zmem {
namespace {

// The CPU a thread last ran on: field 39 of its stat file (proc(5)), -1 if that cannot be read.
int LastCpu(int stat_fd) {
  char text[1024];
  ssize_t got = sys::Pread(stat_fd, text, sizeof text - 1, 0);
  if (got <= 0) return -1;
  text[got] = '\0';
  // The command's name, field 2, may hold anything; it ends with the last parenthesis.
  char* at = std::strrchr(text, ')');
  for (int field = 2; at != nullptr && field < 39; ++field) at = std::strchr(at + 1, ' ');
  return at == nullptr ? -1 : std::atoi(at + 1);
}

}  // namespace

void CpuFollower::OnFault(pid_t pid, pid_t tid, int64_t now_ns) {
  if (++faults_ < kFaults) return;
  bool are_close = now_ns - counted_since_ns_ < kFaults * kCloseNs;
  faults_ = 0;
  counted_since_ns_ = now_ns;
  ++counts_since_look_;
  if (!are_close) return LetGo();
  bool is_due = counts_since_look_ >= kCountsPerLook && now_ns - last_look_ns_ >= kShortestGapNs;
  if (!is_due || pid == 0 || tid == 0) return;
  counts_since_look_ = 0;
  last_look_ns_ = now_ns;
  Look(pid, tid);
}

void CpuFollower::set_beside(bool beside) {
  beside_ = beside;
  LetGo();
}

void CpuFollower::LetGo() {
  counts_since_look_ = kCountsPerLook;
  if (cpu_ < 0) return;
  cpu_ = -1;
  sched_setaffinity(0, sizeof ours_, &ours_);  // it was ours before, so that it can be
}

void CpuFollower::Look(pid_t pid, pid_t tid) {
  if (tid != watched_) {
    char path[64];
    std::snprintf(path, sizeof path, "/proc/%d/task/%d/stat", pid, tid);
    int fd = sys::Open(path, O_RDONLY);
    if (fd < 0) return;
    stat_.reset(fd);
    watched_ = tid;
  }
  int cpu = LastCpu(stat_.get());
  if (cpu < 0) {
    watched_ = 0;
    return;
  }
  if (cpu == cpu_) return;
  if (cpu_ < 0 && sched_getaffinity(0, sizeof ours_, &ours_) != 0) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  for (int each = 0; each < CPU_SETSIZE; ++each) {
    if ((each == cpu) != beside_ && CPU_ISSET(each, &ours_)) CPU_SET(each, &set);
  }
  // None is left where that CPU is not ours, or is the only one: the scheduler goes on choosing.
  if (sched_setaffinity(0, sizeof set, &set) == 0) cpu_ = cpu;
}

}  // namespace zmem
