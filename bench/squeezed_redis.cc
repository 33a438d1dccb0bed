#include "bench/squeezed_redis.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <numeric>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "bench/cpu_time.h"
#include "bench/samples.h"
#include "bench/swap_file.h"

namespace zmem {
namespace {

// How often the cgroup's limit is set anew, because what zram makes of the pages is not known
// before, and how near is near enough.
constexpr int kSqueezes = 6;
constexpr double kNearEnough = 0.005;
// What of its size a page keeps in zram, before any is there.
constexpr double kFirstGuess = 0.5;
// A stretch is measured in so many pieces, so that what disturbs one does not decide.
constexpr int kWindows = 3;

// Faults for which the kernel had to read from swap, of all its threads.
uint64_t MajorFaults(pid_t pid) {
  std::ifstream file(absl::StrCat("/proc/", pid, "/stat"));
  std::string text;
  std::getline(file, text, ')');  // "pid (name)"
  char state = 0;
  uint64_t value = 0;
  file >> state;
  // proc_pid_stat(5): ppid is the 4th field, majflt the 12th.
  for (int field = 4; field <= 12; ++field) {
    std::string word;
    file >> word;
    if (field == 12) value = std::stoull(word);
  }
  if (!file) throw HarnessError(absl::StrCat("cannot read /proc/", pid, "/stat"));
  return value;
}

// Medians of the windows' latencies, of max the largest; sums of requests, means of rates.
nlohmann::json Describe(const std::vector<LoadResult>& windows) {
  auto values = [&windows](auto member) {
    std::vector<double> all;
    for (const LoadResult& window : windows) all.push_back(static_cast<double>(window.*member));
    return all;
  };
  auto sum = [&values](auto member) {
    std::vector<double> all = values(member);
    return std::accumulate(all.begin(), all.end(), 0.0);
  };
  auto count = static_cast<double>(windows.size());
  std::vector<double> max_ns = values(&LoadResult::max_ns);
  return {{"asked_per_s", sum(&LoadResult::asked_per_s) / count},
          {"reached_per_s", sum(&LoadResult::reached_per_s) / count},
          {"requests", sum(&LoadResult::requests)},
          {"dropped", sum(&LoadResult::dropped)},
          {"p50_ns", Median(values(&LoadResult::p50_ns))},
          {"p90_ns", Median(values(&LoadResult::p90_ns))},
          {"p99_ns", Median(values(&LoadResult::p99_ns))},
          {"p99.9_ns", Median(values(&LoadResult::p99_9_ns))},
          {"max_ns", *std::max_element(max_ns.begin(), max_ns.end())}};
}

}  // namespace

SqueezedRedis::SqueezedRedis(Means means, const KeyedValues& values, const RedisLoad::Options& load,
                             const std::string& config)
    : means_(means) {
  if (means == Means::kZram) {
    std::string why = WhySwapIsUnavailable();
    if (!why.empty()) throw HarnessError(why);
    cgroup_.emplace();
    zram_.emplace(uint64_t{load.items} * kMeanValueBytes * 2);
  }
  if (means == Means::kZmem) {
    daemon_.emplace(DaemonOptions{.config = config});
    server_.emplace(*daemon_);
  } else {
    server_.emplace(directory_);
  }
  pid_ = server_->child().pid();
  if (cgroup_) cgroup_->Add(pid_);
  load_.emplace(server_->socket(), values, load);
  load_->Fill();
  if (daemon_) WaitAttached(*daemon_, server_->child());
}

MemoryUse SqueezedRedis::Use() const {
  MemoryUse use{.resident_bytes = static_cast<uint64_t>(ResidentBytes(pid_))};
  if (daemon_) {
    nlohmann::json status = daemon_->Status();
    use.out_bytes = status.at("pool").at("original_bytes");
    use.held_bytes = status.at("pool").at("held_bytes");
    use.metadata_bytes = status.at("metadata_bytes");
  } else if (zram_) {
    use.out_bytes = SwappedBytes(pid_);
    use.held_bytes = zram_->HeldBytes();
  }
  return use;
}

bool SqueezedRedis::HasEnded() {
  try {
    server_->child().Wait(std::chrono::seconds(1));
    return true;
  } catch (const HarnessError&) {
    return false;
  }
}

void SqueezedRedis::LimitResident(uint64_t bytes) {
  if (cgroup_) {
    // The cgroup charges what is not resident, such as page tables, and does not charge pages of
    // files that others brought in.
    uint64_t used_bytes = cgroup_->UsedBytes();
    auto resident_bytes = static_cast<uint64_t>(ResidentBytes(pid_));
    return cgroup_->Limit(bytes + used_bytes - resident_bytes);
  }
  CommandResult result = daemon_->Ctl({"limit", absl::StrCat(pid_), absl::StrCat(bytes)});
  if (!result.status.Succeeded()) {
    throw HarnessError(absl::StrCat("zmemctl limit: ", result.status.ToString(), ": ",
                                    absl::StripAsciiWhitespace(result.errors)));
  }
}

void SqueezedRedis::Evict() { daemon_->Evict(pid_); }

void SqueezedRedis::SqueezeTo(uint64_t footprint_bytes) {
  auto wanted = static_cast<double>(footprint_bytes);
  for (int squeeze = 0; squeeze < kSqueezes; ++squeeze) {
    MemoryUse use = Use();
    if (std::abs(static_cast<double>(use.footprint_bytes()) - wanted) < wanted * kNearEnough)
      return;
    double kept = use.out_bytes == 0
                      ? kFirstGuess
                      : static_cast<double>(use.held_bytes) / static_cast<double>(use.out_bytes);
    // resident + (program - resident) * kept = wanted
    double resident = (wanted - kept * static_cast<double>(use.program_bytes())) / (1 - kept);
    double beside =
        static_cast<double>(cgroup_->UsedBytes()) - static_cast<double>(use.resident_bytes);
    if (resident <= 0) throw HarnessError("zram cannot make the server so small");
    cgroup_->Limit(static_cast<uint64_t>(resident + beside));
  }
}

void SqueezedRedis::Settle(double per_s, double seconds) { load_->AskAtRate(per_s, seconds); }

nlohmann::json SqueezedRedis::Measure(double per_s, double seconds) {
  Totals before = ReadTotals();
  std::vector<LoadResult> windows;
  for (int window = 0; window < kWindows; ++window) {
    windows.push_back(load_->AskAtRate(per_s, seconds / kWindows));
  }
  Totals after = ReadTotals();
  nlohmann::json result = Describe(windows);
  MemoryUse use = Use();
  result.update({{"resident_bytes", use.resident_bytes},
                 {"out_bytes", use.out_bytes},
                 {"held_bytes", use.held_bytes},
                 {"metadata_bytes", use.metadata_bytes},
                 {"footprint_bytes", use.footprint_bytes()},
                 {"net_saved", use.net_saved()},
                 {"faults_per_s", static_cast<double>(after.faults - before.faults) / seconds},
                 {"redis_cpu", (after.redis_cpu_s - before.redis_cpu_s) / seconds},
                 {"zmemd_cpu", (after.zmemd_cpu_s - before.zmemd_cpu_s) / seconds}});
  if (after.stall_ns && before.stall_ns) {
    result["stall"] = static_cast<double>(*after.stall_ns - *before.stall_ns) / 1e9 / seconds;
  }
  return result;
}

void SqueezedRedis::Stop() {
  server_->Stop();
  if (daemon_) daemon_->Stop();
}

SqueezedRedis::Totals SqueezedRedis::ReadTotals() const {
  Totals totals{.redis_cpu_s = CpuSeconds(pid_)};
  if (!daemon_) {
    totals.faults = MajorFaults(pid_);
    return totals;
  }
  nlohmann::json process = daemon_->Process(pid_);
  totals.faults = process.at("faults_total");
  totals.zmemd_cpu_s = CpuSeconds(daemon_->pid());
  if (process.contains("stall_ns")) totals.stall_ns = process.at("stall_ns");
  return totals;
}

}  // namespace zmem
