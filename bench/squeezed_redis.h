// A stock redis-server full of KeyedValues, the load on it, and what makes its memory small: zmem,
// the kernel's zram with a memory cgroup, or nothing. Everything that was set up goes with the
// object. Not thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "bench/keyed_values.h"
#include "bench/redis_load.h"
#include "bench/zram_swap.h"
#include "tests/harness.h"
#include "tests/limited_cgroup.h"
#include "tests/redis.h"

namespace zmem {

enum class Means {
  kNone,
  kZmem,
  kZram,
};

// Where a server's memory is.
struct MemoryUse {
  uint64_t resident_bytes = 0;
  uint64_t out_bytes = 0;       // taken out, uncompressed
  uint64_t held_bytes = 0;      // that what is out takes
  uint64_t metadata_bytes = 0;  // to know where it is; zram's is part of what it holds

  uint64_t program_bytes() const { return resident_bytes + out_bytes; }
  uint64_t footprint_bytes() const { return resident_bytes + held_bytes + metadata_bytes; }
  double net_saved() const {
    return 1 - static_cast<double>(footprint_bytes()) / static_cast<double>(program_bytes());
  }
};

class SqueezedRedis {
 public:
  // Starts a server and fills it. `values` must outlive the object; `config` is zmemd's. Throws
  // HarnessError.
  SqueezedRedis(Means means, const KeyedValues& values, const RedisLoad::Options& load,
                const std::string& config = "");

  RedisLoad& load() { return *load_; }
  MemoryUse Use() const;
  // Whether the server has ended, or does so within a second: its connections end first.
  bool HasEnded();
  // Pages that it waited for since it started: with zram major faults.
  uint64_t Faults() const { return ReadTotals().faults; }

  // With zmem or zram: sets the most that may be resident; zmem gets there by and by. Throws
  // HarnessError.
  void LimitResident(uint64_t bytes);
  // Only with zmem: takes out whatever may go. Throws HarnessError.
  void Evict();
  // Only with zram: squeezes the server until what is resident and what zram holds come to
  // `footprint_bytes`, as nearly as a few attempts allow. Throws HarnessError.
  void SqueezeTo(uint64_t footprint_bytes);

  // Load for `seconds`, of which nothing is measured. Throws as RedisLoad::AskAtRate.
  void Settle(double per_s, double seconds);
  // Load for `seconds`, in three pieces. Returns mean rates, the pieces' median latencies,
  // MemoryUse at the end, faults, CPU time, and with zmem the time for which the program stood
  // still. Throws as RedisLoad::AskAtRate.
  nlohmann::json Measure(double per_s, double seconds);
  // Ends the server, and zmemd, which must be a success. Throws HarnessError.
  void Stop();

 private:
  // What only grows.
  struct Totals {
    uint64_t faults = 0;
    double redis_cpu_s = 0;
    double zmemd_cpu_s = 0;
    std::optional<uint64_t> stall_ns;
  };
  Totals ReadTotals() const;

  const Means means_;
  // The server ends before what it is in goes.
  const TempDir directory_;
  std::optional<LimitedCgroup> cgroup_;
  std::optional<ZramSwap> zram_;
  std::optional<Daemon> daemon_;
  std::optional<RedisServer> server_;
  pid_t pid_ = -1;  // of the server
  std::optional<RedisLoad> load_;
};

}  // namespace zmem
