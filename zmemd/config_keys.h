// The table of configuration keys: where each stands and how its value is understood.
// Thread-safe: no state. Reads no file; config.h does.
#pragma once

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "zmemd/config.h"

namespace zmem {

struct ConfigKey {
  absl::string_view section;
  absl::string_view name;
  // Puts `value` into `config`. Errors: InvalidArgument, saying what to write instead.
  absl::Status (*set)(absl::string_view value, const ConfigSource& source, Config& config);
  // By zmemctl set.
  bool changes_at_run_time = false;
  // Whether two configurations differ in it, of a key that counts only when zmemd starts. Null: it
  // counts at every reading.
  bool (*differs)(const Config& a, const Config& b) = nullptr;
};

// A key of [program "NAME"].
struct ProgramKey {
  absl::string_view name;
  absl::Status (*set)(absl::string_view value, const ConfigSource& source, ProgramSection& section);
};

// nullptr when there is no such key.
const ProgramKey* FindProgramKey(absl::string_view name);
// The NAME of a section `program "NAME"`. nullopt if that is not what it is.
std::optional<std::string> ProgramNameOf(absl::string_view section);

// nullptr when there is no such key.
const ConfigKey* FindConfigKey(absl::string_view section, absl::string_view name);
// In any section: a name stands in one only.
const ConfigKey* FindConfigKey(absl::string_view name);
// Of the keys that change at run time, separated by commas.
std::string RunTimeKeyNames();
bool IsConfigSection(absl::string_view section);

// What is wrong with a section or key that is not in the table, and what was probably meant. The
// section of a key before any section is empty.
std::string DescribeUnknownSection(absl::string_view section);
std::string DescribeUnknownKey(absl::string_view section, absl::string_view name);
std::string DescribeUnknownProgramKey(absl::string_view name);

// What is wrong with a section of the only file, or the first one, that has its name, all of whose
// lines are right by themselves. Empty if nothing is.
std::string DescribeContradiction(const ProgramSection& section);

}  // namespace zmem
