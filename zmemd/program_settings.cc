#include "zmemd/program_settings.h"

#include <fnmatch.h>
#include <pwd.h>

#include <filesystem>
#include <map>
#include <system_error>

#include "absl/algorithm/container.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "libzmem/base/quantity.h"
#include "libzmem/base/sys.h"

namespace zmem {
namespace {

struct ModeName {
  ReclaimMode mode;
  absl::string_view name;
};

constexpr ModeName kModes[] = {
    {ReclaimMode::kProactive, "proactive"},
    {ReclaimMode::kPressure, "pressure"},
    {ReclaimMode::kLimitOnly, "limit-only"},
};

bool Fits(const std::string& pattern, const std::string& text) {
  return fnmatch(pattern.c_str(), text.c_str(), 0) == 0;
}

bool FitsPath(const std::string& pattern, const std::string& path) {
  return Fits(pattern, absl::StrContains(pattern, '/') ? path : path.substr(path.rfind('/') + 1));
}

template <typename Value>
void Take(const Value& said, Value& value) {
  if (said) value = said;
}

}  // namespace

ProgramFacts ReadProgramFacts(pid_t pid, uid_t uid) {
  ProgramFacts facts{.uid = uid};
  std::error_code gone;
  std::string exe = std::filesystem::read_symlink(absl::StrCat("/proc/", pid, "/exe"), gone);
  facts.exe = std::string(absl::StripSuffix(exe, " (deleted)"));
  std::string cgroup;
  if (!sys::ReadFile(absl::StrCat("/proc/", pid, "/cgroup"), cgroup).ok()) return facts;
  // Lines of NUMBER:CONTROLLERS:PATH (cgroups(7)).
  for (absl::string_view line : absl::StrSplit(cgroup, '\n', absl::SkipEmpty())) {
    std::vector<std::string> fields = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (fields.size() == 3) facts.cgroups.push_back(std::move(fields[2]));
  }
  return facts;
}

bool Matches(const ProgramSection& section, const ProgramFacts& facts) {
  const ProgramMatch& match = section.match;
  if (!FitsPath(match.exe.value_or(section.name), facts.exe)) return false;
  if (match.uid && *match.uid != facts.uid) return false;
  return !match.cgroup || absl::c_any_of(facts.cgroups, [&](const std::string& path) {
    return Fits(*match.cgroup, path);
  });
}

ProgramSettings SettingsFor(const std::vector<ProgramSection>& sections,
                            const ProgramFacts& facts) {
  ProgramSettings all;
  for (const ProgramSection& section : sections) {
    if (!Matches(section, facts)) continue;
    const ProgramSettings& said = section.settings;
    Take(said.managed, all.managed);
    Take(said.limit_bytes, all.limit_bytes);
    Take(said.stall_target_percent, all.stall_target_percent);
    Take(said.cold_age_ns, all.cold_age_ns);
    Take(said.mode, all.mode);
    Take(said.compressor, all.compressor);
  }
  return all;
}

const ProgramSection* ExcludedBy(const std::vector<ProgramSection>& sections,
                                 const ProgramFacts& facts) {
  const ProgramSection* last = nullptr;
  for (const ProgramSection& section : sections) {
    if (section.settings.managed && Matches(section, facts)) last = &section;
  }
  return last != nullptr && !*last->settings.managed ? last : nullptr;
}

void ShareMatches(std::vector<ProgramSection>& sections) {
  std::map<std::string, ProgramMatch> matches;
  for (const ProgramSection& section : sections) {
    ProgramMatch& match = matches[section.name];
    Take(section.match.exe, match.exe);
    Take(section.match.uid, match.uid);
    Take(section.match.cgroup, match.cgroup);
  }
  for (ProgramSection& section : sections) section.match = matches[section.name];
}

Policy Apply(const ProgramSettings& settings, Policy policy) {
  policy.limit_bytes = settings.limit_bytes.value_or(policy.limit_bytes);
  policy.stall_target_percent = settings.stall_target_percent.value_or(policy.stall_target_percent);
  policy.cold_age_ns = settings.cold_age_ns.value_or(policy.cold_age_ns);
  policy.mode = settings.mode.value_or(policy.mode);
  Take(settings.compressor, policy.compressor);
  return policy;
}

absl::StatusOr<uint64_t> ParseLimit(absl::string_view text, uint64_t total_bytes) {
  if (absl::EqualsIgnoreCase(text, "none")) return 0;
  absl::StatusOr<uint64_t> bytes = ParseBytesOrPercent(text, total_bytes);
  if (bytes.ok() && *bytes > 0) return bytes;
  return absl::InvalidArgumentError(absl::StrCat(
      Quoted(text), " is not a limit; write none, a size such as 512M, or 1% to 100%"));
}

absl::StatusOr<double> ParseStallTarget(absl::string_view text) {
  double percent = 0;
  if (absl::SimpleAtod(absl::StripSuffix(text, "%"), &percent) && percent >= 0 && percent <= 100) {
    return percent;
  }
  return absl::InvalidArgumentError(
      absl::StrCat(Quoted(text), " is not a percentage of time from 0 to 100, such as 0.5"));
}

absl::StatusOr<ReclaimMode> ParseReclaimMode(absl::string_view text) {
  for (const ModeName& known : kModes) {
    if (known.name == text) return known.mode;
  }
  return absl::InvalidArgumentError(
      absl::StrCat(Quoted(text), " is not a mode; write proactive, pressure or limit-only"));
}

absl::StatusOr<uid_t> ParseUser(absl::string_view text) {
  constexpr uid_t kNobodysNumber = static_cast<uid_t>(-1);  // stands for none, in system calls
  uid_t uid = 0;
  if (absl::SimpleAtoi(text, &uid) && uid != kNobodysNumber) return uid;
  passwd entry;
  passwd* found = nullptr;
  std::vector<char> buffer(64 << 10);
  std::string name(text);
  getpwnam_r(name.c_str(), &entry, buffer.data(), buffer.size(), &found);
  if (found != nullptr) return found->pw_uid;
  return absl::InvalidArgumentError(
      absl::StrCat(Quoted(text), " is no user of this machine; write a name or a number"));
}

absl::StatusOr<std::string> ParsePathPattern(absl::string_view text, bool or_name) {
  bool is_name = or_name && !absl::StrContains(text, '/');
  bool can_begin_path = !text.empty() && absl::StrContains("/*?[", text.substr(0, 1));
  if (is_name || can_begin_path) return std::string(text);
  return absl::InvalidArgumentError(
      absl::StrCat(Quoted(text), " matches no path, which begins with /",
                   or_name ? "; write a whole path, or a name without slashes" : ""));
}

absl::string_view ReclaimModeName(ReclaimMode mode) {
  for (const ModeName& known : kModes) {
    if (known.mode == mode) return known.name;
  }
  return "";
}

}  // namespace zmem
