#include "zmemd/config_keys.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "libzmem/base/quantity.h"
#include "libzmem/codec/compressor.h"
#include "zmemd/program_settings.h"

namespace zmem {
namespace {

// Scanning more often would cost more than it can gain.
constexpr int64_t kMinScanIntervalNs = 10'000'000;

// Puts what was parsed into `field`, or hands its error on.
template <typename Value, typename Field>
absl::Status Store(absl::StatusOr<Value> parsed, Field& field) {
  if (parsed.ok()) field = *std::move(parsed);
  return parsed.status();
}

// `of` says what it is a share of.
absl::StatusOr<unsigned> ParsePercent(absl::string_view value, absl::string_view of,
                                      unsigned least = 1) {
  unsigned percent = 0;
  if (!absl::SimpleAtoi(absl::StripSuffix(value, "%"), &percent) || percent < least ||
      percent > 100) {
    return absl::InvalidArgumentError(absl::StrCat(Quoted(value), " is not a whole percentage of ",
                                                   of, " from ", least, " to 100"));
  }
  return percent;
}

absl::Status SetMaxPoolPercent(absl::string_view value, const ConfigSource&, Config& config) {
  return Store(ParsePercent(value, "RAM"), config.max_pool_percent);
}

absl::Status SetMaxPoolSize(absl::string_view value, const ConfigSource& source, Config& config) {
  return Store(ParseBytesOrPercent(value, source.ram_bytes), config.max_pool_size);
}

absl::Status SetAcceptThreshold(absl::string_view value, const ConfigSource&, Config& config) {
  return Store(ParsePercent(value, "the pool's limit"), config.accept_threshold_percent);
}

absl::Status SetFatThreshold(absl::string_view value, const ConfigSource&, Config& config) {
  absl::StatusOr<unsigned> percent = ParsePercent(value, "a page");
  if (percent.ok()) config.fat_threshold_percent = *percent;
  return percent.status();
}

absl::Status SetCleanPages(absl::string_view value, const ConfigSource&, Config& config) {
  return Store(ParsePercent(value, "the pool", 0), config.clean_pages_percent);
}

absl::Status SetRecompressAge(absl::string_view value, const ConfigSource&, Config& config) {
  return Store(ParseDurationNs(value), config.recompress_age_ns);
}

absl::Status SetRecompressCpu(absl::string_view value, const ConfigSource&, Config& config) {
  return Store(ParsePercent(value, "a CPU"), config.recompress_cpu_percent);
}

absl::Status SetBackingPath(absl::string_view value, const ConfigSource&, Config& config) {
  if (value.front() != '/') {
    return absl::InvalidArgumentError(
        absl::StrCat(Quoted(value), " is not an absolute path of a file or block device"));
  }
  config.backing_path = std::string(value);
  return absl::OkStatus();
}

absl::Status SetBackingSize(absl::string_view value, const ConfigSource&, Config& config) {
  return Store(ParseBytes(value), config.backing_size);
}

absl::Status SetBackingPreallocate(absl::string_view value, const ConfigSource&, Config& config) {
  return Store(ParseBool(value), config.backing_preallocate);
}

absl::Status SetBackingRequired(absl::string_view value, const ConfigSource&, Config& config) {
  return Store(ParseBool(value), config.backing_required);
}

absl::Status SetDailyWriteLimit(absl::string_view value, const ConfigSource&, Config& config) {
  return Store(ParseBytes(value), config.daily_write_limit);
}

absl::Status SetWritebackAge(absl::string_view value, const ConfigSource&, Config& config) {
  return Store(ParseDurationNs(value), config.writeback_age_ns);
}

absl::StatusOr<std::string> ParseCompressor(absl::string_view value, const ConfigSource& source) {
  if (absl::c_linear_search(source.compressors, value)) return std::string(value);
  return absl::InvalidArgumentError(absl::StrCat(Quoted(value),
                                                 " is no compressor of this zmemd; it has ",
                                                 absl::StrJoin(source.compressors, ", ")));
}

absl::Status SetCompressor(absl::string_view value, const ConfigSource& source, Config& config) {
  return Store(ParseCompressor(value, source), config.compressor);
}

absl::Status SetSameFilled(absl::string_view value, const ConfigSource&, Config& config) {
  return Store(ParseBool(value), config.same_filled_pages_enabled);
}

absl::Status SetMode(absl::string_view value, const ConfigSource&, Config& config) {
  return Store(ParseReclaimMode(value), config.mode);
}

absl::Status SetStallTarget(absl::string_view value, const ConfigSource&, Config& config) {
  return Store(ParseStallTarget(value), config.stall_target_percent);
}

absl::Status SetLimit(absl::string_view value, const ConfigSource& source, Config& config) {
  return Store(ParseLimit(value, source.ram_bytes), config.limit_bytes);
}

absl::Status SetColdAge(absl::string_view value, const ConfigSource&, Config& config) {
  return Store(ParseDurationNs(value), config.cold_age_ns);
}

absl::Status SetScanInterval(absl::string_view value, const ConfigSource&, Config& config) {
  absl::StatusOr<int64_t> interval_ns = ParseDurationNs(value);
  if (interval_ns.ok() && *interval_ns < kMinScanIntervalNs) {
    return absl::InvalidArgumentError(
        absl::StrCat(Quoted(value), " is too short; write 10ms or more"));
  }
  return Store(interval_ns, config.scan_interval_ns);
}

absl::Status SetMinResident(absl::string_view value, const ConfigSource& source, Config& config) {
  return Store(ParseBytesOrPercent(value, source.ram_bytes), config.min_resident_bytes);
}

absl::Status SetAvailableLow(absl::string_view value, const ConfigSource&, Config& config) {
  return Store(ParsePercent(value, "RAM", 0), config.available_low_percent);
}

absl::Status SetAvailableHigh(absl::string_view value, const ConfigSource&, Config& config) {
  return Store(ParsePercent(value, "RAM", 0), config.available_high_percent);
}

absl::Status SetIdlePolling(absl::string_view value, const ConfigSource&, Config& config) {
  if (absl::SimpleAtoi(value, &config.idle_polling_max_cpus)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(Quoted(value), " is not a number of CPUs"));
}

absl::Status SetAccessedBits(absl::string_view value, const ConfigSource&, Config& config) {
  return Store(ParseBool(value), config.accessed_bits);
}

template <auto kField>
bool Differs(const Config& a, const Config& b) {
  return a.*kField != b.*kField;
}

constexpr ConfigKey kKeys[] = {
    {"pool", "max_pool_percent", SetMaxPoolPercent, true},
    {"pool", "compressor", SetCompressor},
    {"pool", "same_filled_pages_enabled", SetSameFilled, false,
     Differs<&Config::same_filled_pages_enabled>},
    {"pool", "max_pool_size", SetMaxPoolSize, true},
    {"pool", "accept_threshold_percent", SetAcceptThreshold, true},
    {"pool", "fat_threshold_percent", SetFatThreshold, false,
     Differs<&Config::fat_threshold_percent>},
    {"pool", "clean_pages_percent", SetCleanPages, false, Differs<&Config::clean_pages_percent>},
    {"pool", "recompress_age", SetRecompressAge, false, Differs<&Config::recompress_age_ns>},
    {"pool", "recompress_cpu_percent", SetRecompressCpu, false,
     Differs<&Config::recompress_cpu_percent>},
    {"backing", "path", SetBackingPath, false, Differs<&Config::backing_path>},
    {"backing", "size", SetBackingSize, false, Differs<&Config::backing_size>},
    {"backing", "preallocate", SetBackingPreallocate, false, Differs<&Config::backing_preallocate>},
    {"backing", "required", SetBackingRequired, false, Differs<&Config::backing_required>},
    {"backing", "daily_write_limit", SetDailyWriteLimit, false,
     Differs<&Config::daily_write_limit>},
    {"backing", "writeback_age", SetWritebackAge, false, Differs<&Config::writeback_age_ns>},
    {"policy", "mode", SetMode},
    {"policy", "stall_target_percent", SetStallTarget},
    {"policy", "limit", SetLimit},
    {"policy", "cold_age", SetColdAge},
    {"policy", "scan_interval", SetScanInterval},
    {"policy", "min_resident", SetMinResident},
    {"policy", "available_low_percent", SetAvailableLow, false,
     Differs<&Config::available_low_percent>},
    {"policy", "available_high_percent", SetAvailableHigh, false,
     Differs<&Config::available_high_percent>},
    {"policy", "idle_polling_max_cpus", SetIdlePolling, false,
     Differs<&Config::idle_polling_max_cpus>},
    {"policy", "accessed_bits", SetAccessedBits, false, Differs<&Config::accessed_bits>},
};

absl::Status MatchExe(absl::string_view value, const ConfigSource&, ProgramSection& section) {
  return Store(ParsePathPattern(value, /*or_name=*/true), section.match.exe);
}

absl::Status MatchUser(absl::string_view value, const ConfigSource&, ProgramSection& section) {
  return Store(ParseUser(value), section.match.uid);
}

absl::Status MatchCgroup(absl::string_view value, const ConfigSource&, ProgramSection& section) {
  return Store(ParsePathPattern(value, /*or_name=*/false), section.match.cgroup);
}

absl::Status SetManagedOf(absl::string_view value, const ConfigSource&, ProgramSection& section) {
  return Store(ParseBool(value), section.settings.managed);
}

absl::Status SetLimitOf(absl::string_view value, const ConfigSource& source,
                        ProgramSection& section) {
  return Store(ParseLimit(value, source.ram_bytes), section.settings.limit_bytes);
}

absl::Status SetStallTargetOf(absl::string_view value, const ConfigSource&,
                              ProgramSection& section) {
  return Store(ParseStallTarget(value), section.settings.stall_target_percent);
}

absl::Status SetCompressorOf(absl::string_view value, const ConfigSource& source,
                             ProgramSection& section) {
  absl::StatusOr<std::string> name = ParseCompressor(value, source);
  if (name.ok()) section.settings.compressor = FindCompressor(*name);
  return name.status();
}

absl::Status SetColdAgeOf(absl::string_view value, const ConfigSource&, ProgramSection& section) {
  return Store(ParseDurationNs(value), section.settings.cold_age_ns);
}

absl::Status SetModeOf(absl::string_view value, const ConfigSource&, ProgramSection& section) {
  return Store(ParseReclaimMode(value), section.settings.mode);
}

constexpr ProgramKey kProgramKeys[] = {
    {"exe", MatchExe},
    {"user", MatchUser},
    {"cgroup", MatchCgroup},
    {"managed", SetManagedOf},
    {"limit", SetLimitOf},
    {"stall_target_percent", SetStallTargetOf},
    {"compressor", SetCompressorOf},
    {"cold_age", SetColdAgeOf},
    {"mode", SetModeOf},
};

constexpr absl::string_view kProgram = "program";

// How many letters must be inserted, deleted or replaced to make `b` of `a` (Levenshtein), case
// aside. Keeps one row of the table at a time.
size_t EditDistance(absl::string_view a, absl::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i + 1;
    for (size_t j = 0; j < b.size(); ++j) {
      size_t replaced = diagonal + (absl::ascii_tolower(a[i]) != absl::ascii_tolower(b[j]) ? 1 : 0);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, row[j] + 1, diagonal + 1});
    }
  }
  return row[b.size()];
}

// The one of `keys` whose `field` is nearest to `text`; the first of several.
template <typename Key, size_t kCount>
const Key& Nearest(absl::string_view text, const Key (&keys)[kCount],
                   absl::string_view Key::*field) {
  return *absl::c_min_element(keys, [&](const Key& a, const Key& b) {
    return EditDistance(text, a.*field) < EditDistance(text, b.*field);
  });
}

}  // namespace

const ConfigKey* FindConfigKey(absl::string_view section, absl::string_view name) {
  for (const ConfigKey& key : kKeys) {
    if (key.section == section && key.name == name) return &key;
  }
  return nullptr;
}

const ConfigKey* FindConfigKey(absl::string_view name) {
  for (const ConfigKey& key : kKeys) {
    if (key.name == name) return &key;
  }
  return nullptr;
}

std::string RunTimeKeyNames() {
  std::vector<absl::string_view> names;
  for (const ConfigKey& key : kKeys) {
    if (key.changes_at_run_time) names.push_back(key.name);
  }
  return absl::StrJoin(names, ", ");
}

std::vector<std::string> KeysForNextStart(const Config& running, const Config& read) {
  std::vector<std::string> names;
  for (const ConfigKey& key : kKeys) {
    if (key.differs == nullptr || !key.differs(running, read)) continue;
    names.push_back(absl::StrCat("[", key.section, "] ", key.name));
  }
  return names;
}

bool IsConfigSection(absl::string_view section) {
  return absl::c_any_of(kKeys, [&](const ConfigKey& key) { return key.section == section; });
}

const ProgramKey* FindProgramKey(absl::string_view name) {
  auto found =
      absl::c_find_if(kProgramKeys, [&](const ProgramKey& key) { return key.name == name; });
  return found == std::end(kProgramKeys) ? nullptr : &*found;
}

std::optional<std::string> ProgramNameOf(absl::string_view section) {
  section = absl::StripAsciiWhitespace(section);
  if (!absl::ConsumePrefix(&section, kProgram)) return std::nullopt;
  section = absl::StripAsciiWhitespace(section);
  bool quoted = absl::ConsumePrefix(&section, "\"") && absl::ConsumeSuffix(&section, "\"");
  bool named =
      quoted && !absl::StrContains(section, '"') && !absl::StripAsciiWhitespace(section).empty();
  return named ? std::optional<std::string>(section) : std::nullopt;
}

std::string DescribeUnknownSection(absl::string_view section) {
  absl::string_view word = section.substr(0, section.find_first_of(" \t\""));
  absl::string_view nearest = Nearest(section, kKeys, &ConfigKey::section).section;
  if (EditDistance(word, kProgram) < EditDistance(section, nearest)) {
    return absl::StrCat(Quoted(section), " is not a section; write it as [program \"NAME\"]");
  }
  return absl::StrCat("unknown section ", Quoted(section), "; the nearest is [", nearest, "]");
}

std::string DescribeUnknownKey(absl::string_view section, absl::string_view name) {
  const ConfigKey& nearest = Nearest(name, kKeys, &ConfigKey::name);
  if (nearest.name != name && FindProgramKey(name) != nullptr) {
    return absl::StrCat(name, " is for single programs: put it under [program \"NAME\"]");
  }
  if (nearest.name == name) {
    return absl::StrCat(name,
                        section.empty() ? " stands before any section" : " is in the wrong section",
                        "; put it under [", nearest.section, "]");
  }
  return absl::StrCat("unknown key ", Quoted(name), "; the nearest is ", nearest.name, " in [",
                      nearest.section, "]");
}

std::string DescribeUnknownProgramKey(absl::string_view name) {
  if (const ConfigKey* of_all = FindConfigKey(name)) {
    return absl::StrCat(name, " is for all programs: put it under [", of_all->section, "]");
  }
  return absl::StrCat("unknown key ", Quoted(name), "; the nearest is ",
                      Nearest(name, kProgramKeys, &ProgramKey::name).name,
                      " of [program \"NAME\"]");
}

std::string DescribeContradiction(const ProgramSection& section) {
  if (section.settings == ProgramSettings()) {
    return "says nothing of the programs that it means; write managed=no, limit=512M or the like";
  }
  ProgramSettings unmanaged;
  unmanaged.managed = false;
  if (section.settings.managed == false && !(section.settings == unmanaged)) {
    return "says managed=no and more; what is not managed needs no other setting";
  }
  if (section.match.exe) return "";
  absl::Status fits = ParsePathPattern(section.name, /*or_name=*/true).status();
  return fits.ok() ? "" : absl::StrCat(fits.message(), ", or add exe=");
}

}  // namespace zmem
