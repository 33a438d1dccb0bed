#include "tests/limited_cgroup.h"

#include <errno.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "tests/error.h"

namespace zmem {
namespace {

// A process that was killed stays in its cgroup until it has given back its memory.
constexpr int kRemoveTries = 500;
constexpr int kRemovePauseMs = 10;

bool Remove(const std::string& path) {
  for (int tries = 0; tries < kRemoveTries; ++tries) {
    if (rmdir(path.c_str()) == 0 || errno == ENOENT) return true;
    poll(nullptr, 0, kRemovePauseMs);
  }
  return false;
}

// A limit below what is used is refused for as long as the kernel finds too little to reclaim.
constexpr int kWriteTries = 50;
constexpr int kWritePauseMs = 100;

void Write(const std::string& path, const std::string& value) {
  for (int tries = 1;; ++tries) {
    std::ofstream file(path);
    file << value;
    file.close();
    if (file) return;
    if (errno != EBUSY || tries == kWriteTries) {
      throw ErrnoError("cannot write " + value + " to " + path);
    }
    poll(nullptr, 0, kWritePauseMs);
  }
}

}  // namespace

LimitedCgroup::LimitedCgroup() {
  std::string name = "/zmem-" + std::to_string(getpid());
  unified_ = std::filesystem::exists("/sys/fs/cgroup/cgroup.controllers");
  if (unified_) Write("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
  path_ = (unified_ ? "/sys/fs/cgroup" : "/sys/fs/cgroup/memory") + name;
  CheckErrno(mkdir(path_.c_str(), 0755), "no memory cgroup can be made: " + path_);
  guardian_.emplace("the cgroup " + path_, [path = path_] { return Remove(path); });
  UsedBytes();
}

void LimitedCgroup::Add(pid_t pid) { Write(path_ + "/cgroup.procs", std::to_string(pid)); }

uint64_t LimitedCgroup::UsedBytes() const {
  return Read(unified_ ? "memory.current" : "memory.usage_in_bytes");
}

uint64_t LimitedCgroup::PeakBytes() const {
  return Read(unified_ ? "memory.peak" : "memory.max_usage_in_bytes");
}

uint64_t LimitedCgroup::Read(const std::string& file) const {
  std::ifstream stream(path_ + "/" + file);
  uint64_t bytes = 0;
  if (!(stream >> bytes)) throw HarnessError("no memory controller for " + path_);
  return bytes;
}

void LimitedCgroup::Limit(uint64_t bytes) {
  Write(path_ + (unified_ ? "/memory.max" : "/memory.limit_in_bytes"), std::to_string(bytes));
}

}  // namespace zmem
