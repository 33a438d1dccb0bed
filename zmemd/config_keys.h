// The table of configuration keys: where each stands and how its value is understood.
// Thread-safe: no state. Reads no file; config.h does.
#pragma once

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
  bool changes_at_run_time = false;
};

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

}  // namespace zmem
