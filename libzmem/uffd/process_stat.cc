#include "libzmem/uffd/process_stat.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "libzmem/base/page.h"

namespace zmem {
namespace {

// The whole of a file of /proc that is one short line; false if it cannot be read.
bool ReadLine(const UniqueFd& fd, std::array<char, 1024>& line) {
  if (!fd.valid()) return false;
  ssize_t bytes = sys::Pread(fd.get(), line.data(), line.size() - 1, 0);
  if (bytes <= 0) return false;
  line[static_cast<size_t>(bytes)] = '\0';
  return true;
}

absl::StatusOr<UniqueFd> OpenOf(pid_t pid, const char* name) {
  std::string path = absl::StrCat("/proc/", pid, "/", name);
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return sys::ErrnoStatus(errno, absl::StrCat("cannot open ", path));
  return fd;
}

}  // namespace

absl::StatusOr<ProcessStat> ProcessStat::Open(pid_t pid) {
  absl::StatusOr<UniqueFd> statm = OpenOf(pid, "statm");
  if (!statm.ok()) return statm.status();
  absl::StatusOr<UniqueFd> stat = OpenOf(pid, "stat");
  if (!stat.ok()) return stat.status();
  ProcessStat opened;
  opened.statm_ = *std::move(statm);
  opened.stat_ = *std::move(stat);
  return opened;
}

std::optional<ProcessStat::Memory> ProcessStat::ReadMemory() const {
  std::array<char, 1024> line;
  unsigned long long mapped = 0;
  unsigned long long resident = 0;
  if (!ReadLine(statm_, line) || std::sscanf(line.data(), "%llu %llu", &mapped, &resident) != 2) {
    return std::nullopt;
  }
  return Memory{mapped * kPageBytes, resident * kPageBytes};
}

std::optional<uint64_t> ProcessStat::mapped_bytes() const {
  std::optional<Memory> memory = ReadMemory();
  return memory ? std::optional(memory->mapped_bytes) : std::nullopt;
}

std::optional<uint64_t> ProcessStat::resident_bytes() const {
  std::optional<Memory> memory = ReadMemory();
  return memory ? std::optional(memory->resident_bytes) : std::nullopt;
}

std::optional<int64_t> ProcessStat::cpu_ns() const {
  std::array<char, 1024> line;
  if (!ReadLine(stat_, line)) return std::nullopt;
  // The program's name, in parentheses, may hold anything; proc_pid_stat(5) counts from 1.
  const char* after_name = std::strrchr(line.data(), ')');
  unsigned long long user = 0;
  unsigned long long system = 0;
  if (after_name == nullptr ||
      std::sscanf(after_name + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &user,
                  &system) != 2) {
    return std::nullopt;
  }
  constexpr int64_t kNsPerSecond = 1'000'000'000;
  return static_cast<int64_t>(user + system) * (kNsPerSecond / sysconf(_SC_CLK_TCK));
}

}  // namespace zmem
