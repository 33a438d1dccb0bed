// What the configuration says of single programs: sections, the programs that each of them means,
// and what comes of all of them for one program.
// Thread-safe: values, and functions without state.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "libzmem/store/policy.h"

namespace zmem {

// Which programs a section means: all that is given must fit. Patterns are those of fnmatch(3), in
// which * also stands for slashes.
struct ProgramMatch {
  // Of the executable's path; of the last part of it if the pattern has no slash. Not given: the
  // section's name is the pattern.
  std::optional<std::string> exe;
  std::optional<uid_t> uid;           // effective, when it was attached
  std::optional<std::string> cgroup;  // a pattern of its path in any hierarchy

  friend bool operator==(const ProgramMatch&, const ProgramMatch&) = default;
};

// What a section says; what it does not say is as before.
struct ProgramSettings {
  std::optional<bool> managed;
  std::optional<uint64_t> limit_bytes;  // 0: none
  std::optional<double> stall_target_percent;
  std::optional<int64_t> cold_age_ns;
  std::optional<ReclaimMode> mode;
  const Compressor* compressor = nullptr;

  friend bool operator==(const ProgramSettings&, const ProgramSettings&) = default;
};

struct ProgramSection {
  std::string name;
  ProgramMatch match;
  ProgramSettings settings;
};

// What is looked at of a program.
struct ProgramFacts {
  std::string exe;
  uid_t uid = 0;
  std::vector<std::string> cgroups;  // its path in each hierarchy
};

// From /proc. What cannot be read is empty.
ProgramFacts ReadProgramFacts(pid_t pid, uid_t uid);

bool Matches(const ProgramSection& section, const ProgramFacts& facts);

// What all sections that match say together: the last one that says something has its way.
ProgramSettings SettingsFor(const std::vector<ProgramSection>& sections, const ProgramFacts& facts);

// The section that has the last word on whether the program is managed, if it says no; else null.
const ProgramSection* ExcludedBy(const std::vector<ProgramSection>& sections,
                                 const ProgramFacts& facts);

// Sections of one name mean the same programs: what the last one of them gives counts for all.
void ShareMatches(std::vector<ProgramSection>& sections);

// `policy` as `settings` change it.
Policy Apply(const ProgramSettings& settings, Policy policy);

// A resident limit, in bytes: "none" is 0; else a size, or 1% to 100% of `total_bytes`.
// Errors: InvalidArgument for anything else, and for a size of nothing.
absl::StatusOr<uint64_t> ParseLimit(absl::string_view text, uint64_t total_bytes);

// Percent of wall time, 0 to 100, with fractions.
absl::StatusOr<double> ParseStallTarget(absl::string_view text);

absl::StatusOr<ReclaimMode> ParseReclaimMode(absl::string_view text);
absl::string_view ReclaimModeName(ReclaimMode mode);

// A user's name or number.
absl::StatusOr<uid_t> ParseUser(absl::string_view text);

// A pattern that can match a path, or, where `or_name` says so, the last part of one.
absl::StatusOr<std::string> ParsePathPattern(absl::string_view text, bool or_name);

}  // namespace zmem
