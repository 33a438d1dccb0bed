// What zmemd runs by: one INI file and its drop-ins, read at start and when it is told to read them
// again; a few keys may be changed in between.
// Not thread-safe unless it says so: libeconf keeps static state, so load from one thread at a
// time. Never stops at the first mistake: every line that is not understood is reported, and then
// nothing of the result may be used.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "libzmem/store/policy.h"
#include "zmemd/program_settings.h"

namespace zmem {

inline constexpr char kDefaultConfigPath[] = "/etc/zmem/zmemd.conf";

// Each field is set by the key of its name without the unit.
struct Config {
  // [pool]
  unsigned max_pool_percent = 20;  // of RAM, 1 to 100
  std::string compressor = "lz4";
  bool same_filled_pages_enabled = true;
  uint64_t max_pool_size = 0;                     // bytes; 0: max_pool_percent alone decides
  unsigned accept_threshold_percent = 90;         // of the limit, 1 to 100
  std::optional<unsigned> fat_threshold_percent;  // of a page, 1 to 100; unset: FatPercent()
  unsigned clean_pages_percent = 10;              // of what the pool holds, 0 to 100
  int64_t recompress_age_ns = 600'000'000'000;    // 0: never
  unsigned recompress_cpu_percent = 5;            // of one CPU, 1 to 100
  // [backing]
  std::string backing_path;   // empty: none
  uint64_t backing_size = 0;  // bytes; 0 is the whole of a device
  bool backing_preallocate = false;
  bool backing_required = true;
  uint64_t daily_write_limit = 0;  // bytes; 0: none
  int64_t writeback_age_ns = 0;    // 0: only when the pool is full
  // [policy]
  ReclaimMode mode = ReclaimMode::kProactive;
  double stall_target_percent = 1;  // of wall time, 0 to 100
  uint64_t limit_bytes = 0;         // of each program's resident memory; 0: none
  int64_t cold_age_ns = 30'000'000'000;
  int64_t scan_interval_ns = 5'000'000'000;
  uint64_t min_resident_bytes = uint64_t{16} << 20;
  unsigned available_low_percent = 10;   // of RAM, 0 to 100; below it the host is short of memory
  unsigned available_high_percent = 15;  // the same; until it is reached again
  unsigned idle_polling_max_cpus = 16;   // hosts of more CPUs let them sleep; 0: all do
  bool accessed_bits = true;             // look, with BPF, at what is touched, if that can be had
  // [program "NAME"], in the order in which they were read. A name is there again for each file
  // that has it.
  std::vector<ProgramSection> programs;
};

// The pool's limit on a host with this much memory.
uint64_t PoolLimitBytes(const Config& config, uint64_t ram_bytes);
// What a program is promised of which nothing else is said.
Policy DefaultPolicy(const Config& config);
// What fat_threshold_percent is if it is not set: half a page has a place in a backing file, and
// without one nearly everything is better than nothing.
unsigned FatPercent(const Config& config, bool has_backing);

struct ConfigSource {
  // Drop-ins are FILE.d/*.conf, in the order of their names; what is read later wins.
  std::string file = kDefaultConfigPath;
  // Whether a missing `file` is an error (it was named with --config) or means the defaults.
  bool must_exist = false;
  // What a percentage is taken of.
  uint64_t ram_bytes = 0;
  // The names that `compressor` may have: the codecs of this build.
  std::vector<std::string> compressors;
};

struct LoadedConfig {
  Config config;
  // The files read, in order.
  std::vector<std::string> files;
  // One line each: file, line, what is wrong, what to write instead. Empty when all is well.
  std::vector<std::string> errors;
};

LoadedConfig LoadConfig(const ConfigSource& source);

// The keys, as "[section] key", that would have to be read by another start of zmemd to be as in
// `read`. Thread-safe.
std::vector<std::string> KeysForNextStart(const Config& running, const Config& read);

// Puts `value` into `config` as a line KEY=VALUE would, for the keys that may change while zmemd
// runs: max_pool_percent, max_pool_size, accept_threshold_percent. Thread-safe.
// Errors: InvalidArgument with the words of LoadConfig, or naming the keys that may change.
absl::Status ChangeConfig(absl::string_view key, absl::string_view value,
                          const ConfigSource& source, Config& config);

}  // namespace zmem
