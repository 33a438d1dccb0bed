#include "libzmem/uffd/memory_cgroup.h"

#include <fcntl.h>

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace zmem {
namespace {

// What a limit reads as that is none: "max", or (version 1) the largest number of whole pages.
constexpr uint64_t kLargestLimit = uint64_t{1} << 60;

// The text of a small file that is open, from its beginning.
std::string Text(const UniqueFd& fd) {
  char buffer[4096];
  ssize_t got = sys::Pread(fd.get(), buffer, sizeof buffer, 0);
  return got > 0 ? std::string(buffer, static_cast<size_t>(got)) : "";
}

uint64_t Number(const UniqueFd& fd) {
  uint64_t value = 0;
  bool parsed = absl::SimpleAtoi(Text(fd), &value);
  return parsed && value < kLargestLimit ? value : MemoryCgroup::kNoLimit;
}

// Page cache: the kernel gives it up before it kills.
uint64_t ReclaimableBytes(const UniqueFd& stat) {
  std::string text = Text(stat);
  // Version 1 has the cgroup's own figures and those with the cgroups below it, which count.
  absl::string_view prefix = absl::StrContains(text, "total_inactive_file ") ? "total_" : "";
  uint64_t total = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    uint64_t bytes = 0;
    if (!absl::ConsumePrefix(&line, prefix)) continue;
    bool is_cache =
        absl::ConsumePrefix(&line, "inactive_file ") || absl::ConsumePrefix(&line, "active_file ");
    if (is_cache && absl::SimpleAtoi(line, &bytes)) total += bytes;
  }
  return total;
}

UniqueFd OpenIn(const std::string& directory, absl::string_view name) {
  return UniqueFd(sys::Open(absl::StrCat(directory, "/", name).c_str(), O_RDONLY));
}

struct Mount {
  absl::string_view root;   // the cgroup that is mounted
  absl::string_view point;  // where
};

// The mount of the memory controller of `mountinfo`: of version 2 if `unified`.
Mount FindMount(absl::string_view mountinfo, bool unified) {
  for (absl::string_view line : absl::StrSplit(mountinfo, '\n', absl::SkipEmpty())) {
    std::pair<absl::string_view, absl::string_view> halves =
        absl::StrSplit(line, absl::MaxSplits(" - ", 1));
    std::vector<absl::string_view> place = absl::StrSplit(halves.first, ' ');
    std::vector<absl::string_view> kind = absl::StrSplit(halves.second, ' ');
    if (place.size() < 5 || kind.size() < 3) continue;
    bool matches = unified ? kind[0] == "cgroup2"
                           : kind[0] == "cgroup" &&
                                 absl::StrContains(absl::StrCat(",", kind[2], ","), ",memory,");
    if (matches) return {place[3], place[4]};
  }
  return {};
}

}  // namespace

void MemoryCgroup::AddLevels(std::string directory, absl::string_view mount, bool unified) {
  while (directory.size() >= mount.size()) {
    Level level;
    level.limit = OpenIn(directory, unified ? "memory.max" : "memory.limit_in_bytes");
    level.usage = OpenIn(directory, unified ? "memory.current" : "memory.usage_in_bytes");
    level.stat = OpenIn(directory, "memory.stat");
    if (level.limit.valid() && level.usage.valid()) levels_.push_back(std::move(level));
    size_t slash = directory.rfind('/');
    if (slash == std::string::npos || slash == 0) return;
    directory.resize(slash);
  }
}

MemoryCgroup MemoryCgroup::Parse(absl::string_view cgroup, absl::string_view mountinfo) {
  MemoryCgroup result;
  for (absl::string_view line : absl::StrSplit(cgroup, '\n', absl::SkipEmpty())) {
    std::vector<absl::string_view> fields = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (fields.size() < 3) continue;
    bool unified = fields[0] == "0" && fields[1].empty();
    bool memory = absl::StrContains(absl::StrCat(",", fields[1], ","), ",memory,");
    if (!unified && !memory) continue;
    Mount mount = FindMount(mountinfo, unified);
    absl::string_view path = fields[2];
    if (mount.point.empty()) continue;
    if (mount.root != "/") absl::ConsumePrefix(&path, mount.root);
    std::string directory = absl::StrCat(mount.point, path == "/" ? "" : path);
    result.AddLevels(std::move(directory), mount.point, unified);
  }
  return result;
}

MemoryCgroup MemoryCgroup::Of(pid_t pid) {
  std::string cgroup;
  std::string mountinfo;
  bool read = sys::ReadFile(absl::StrCat("/proc/", pid, "/cgroup"), cgroup).ok() &&
              sys::ReadFile("/proc/self/mountinfo", mountinfo).ok();
  return read ? Parse(cgroup, mountinfo) : MemoryCgroup();
}

bool MemoryCgroup::limited() const {
  return std::any_of(levels_.begin(), levels_.end(),
                     [](const Level& level) { return Number(level.limit) != kNoLimit; });
}

uint64_t MemoryCgroup::RoomBytes() const {
  uint64_t room = kNoLimit;
  for (const Level& level : levels_) {
    uint64_t limit = Number(level.limit);
    if (limit == kNoLimit) continue;
    uint64_t usage = Number(level.usage);
    uint64_t held = usage - std::min(usage, ReclaimableBytes(level.stat));
    room = std::min(room, limit - std::min(limit, held));
  }
  return room;
}

uint64_t MemoryCgroup::UsedBytes() const {
  uint64_t used = 0;
  for (const Level& level : levels_) {
    if (Number(level.limit) != kNoLimit) used += Number(level.usage);
  }
  return used;
}

}  // namespace zmem
