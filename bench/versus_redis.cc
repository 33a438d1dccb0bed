// Case 8 of bench/versus_kernel: a stock redis-server with half of what it had resident, asked for
// documents by Zipf's law. Every answer is checked.
#include <algorithm>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bench/squeezed_redis.h"
#include "bench/versus_bench.h"

namespace zmem {
namespace {

constexpr uint64_t kSizeDivisor = 4;  // of the size of the squeezed programs
constexpr std::chrono::seconds kLimitTimeout{60};
// Of what the slower of the two reaches: the rate at which latencies are compared.
constexpr double kShareOfHighest = 0.5;
// Of load, over the time that is measured, until what is out has settled.
constexpr double kSettleShare = 2;

void WaitUntilHeld(const SqueezedRedis& server, uint64_t bytes) {
  WaitUntil("redis to be within its limit", kLimitTimeout,
            [&] { return server.Use().resident_bytes <= bytes; });
}

// A server, and what it went through while it was asked as fast as it answers.
struct Side {
  Side(Means means, const KeyedValues& values, const RedisLoad::Options& load,
       const std::string& config = "")
      : server(means, values, load, config) {}

  SqueezedRedis server;
  double requests = 0;
  uint64_t faults = 0;

  double FaultsPerRequest() const { return static_cast<double>(faults) / requests; }
  void Finish() {
    server.load().VerifyAll();
    server.Stop();
  }
};

Figures Measure(Side& side, double asked_per_s, double seconds) {
  RedisLoad& load = side.server.load();
  uint64_t faults_before = side.server.Faults();
  double reached_per_s = load.AskAsFastAsPossible(seconds).reached_per_s;
  side.faults += side.server.Faults() - faults_before;
  side.requests += reached_per_s * seconds;
  auto p99_ns = static_cast<double>(load.AskAtRate(asked_per_s, seconds).p99_ns);
  return {{"redis.rate", reached_per_s}, {"redis.p99", p99_ns / 1e3}};
}

// The side of zram. At its limit the kernel may kill the server although swap has room; another
// begins then.
class ZramSide {
 public:
  // `settle_s`: of load, for a server that takes the place of a killed one.
  ZramSide(const KeyedValues& values, const RedisLoad::Options& load, uint64_t limit_bytes,
           double settle_s)
      : values_(values), load_(load), limit_bytes_(limit_bytes), settle_s_(settle_s) {
    Start();
  }

  Side& side() { return *side_; }
  int kills() const { return kills_; }

  // What `measure` makes of a server that lives through it.
  template <typename Measure>
  auto Of(Measure measure) {
    while (true) {
      try {
        return measure(*side_);
      } catch (const HarnessError&) {
        if (!side_->server.HasEnded() || ++kills_ > kMostKills) throw;
        side_.reset();  // before another has the device
        Start();
        Settle();
      }
    }
  }

 private:
  // After so many it is not worth the time.
  static constexpr int kMostKills = 5;

  void Settle() { side_->server.load().AskAsFastAsPossible(settle_s_); }
  void Start() {
    side_.emplace(Means::kZram, values_, load_);
    side_->server.LimitResident(limit_bytes_);
  }

  const KeyedValues& values_;
  const RedisLoad::Options load_;
  const uint64_t limit_bytes_;
  const double settle_s_;
  std::optional<Side> side_;
  int kills_ = 0;
};

std::string Held(const SqueezedRedis& server) {
  MemoryUse use = server.Use();
  return absl::StrFormat("%.0f MiB for %.0f MiB that were out",
                         static_cast<double>(use.held_bytes + use.metadata_bytes) / (1 << 20),
                         static_cast<double>(use.out_bytes) / (1 << 20));
}

void Describe(VersusResults& results, double roomy_per_s, const Side& zmem,
              std::optional<ZramSide>& zram) {
  std::string faults = absl::StrFormat(
      "redis: %s requests/s with all of its memory resident; at half %.2f faults a request over "
      "zmem",
      FormatFigure(roomy_per_s), zmem.FaultsPerRequest());
  std::string held = absl::StrCat("redis: zmemd held ", Held(zmem.server));
  if (zram) {
    absl::StrAppendFormat(&faults, ", %.2f over zram", zram->side().FaultsPerRequest());
    absl::StrAppend(&held, ", zram ", Held(zram->side().server));
  }
  results.AddNote(faults);
  results.AddNote(held);
  if (zram && zram->kills() > 0) {
    results.AddNote(
        absl::StrFormat("redis: over zram the kernel killed the server %d times for "
                        "want of room; another was measured",
                        zram->kills()));
  }
}

}  // namespace

void RunRedis(VersusBench& bench) {
  const KeyedValues values;
  RedisLoad::Options load{
      .items = static_cast<uint32_t>((bench.options().mib << 20) / kSizeDivisor / kMeanValueBytes)};
  double seconds = bench.options().seconds;
  auto settle = [settle_s = seconds * kSettleShare](Side& side) {
    return side.server.load().AskAsFastAsPossible(settle_s).reached_per_s;
  };
  Side zmem(Means::kZmem, values, load, kLimitOnly);
  double roomy_per_s = zmem.server.load().AskAsFastAsPossible(seconds).reached_per_s;
  uint64_t limit_bytes = zmem.server.Use().program_bytes() / 2;
  zmem.server.LimitResident(limit_bytes);
  WaitUntilHeld(zmem.server, limit_bytes);
  double highest_per_s = settle(zmem);
  std::optional<ZramSide> zram;
  if (WhyNoZram().empty()) {
    zram.emplace(values, load, limit_bytes, seconds * kSettleShare);
    highest_per_s = std::min(highest_per_s, zram->Of(settle));
  }
  double asked_per_s = highest_per_s * kShareOfHighest;
  auto measure = [asked_per_s, seconds](Side& side) { return Measure(side, asked_per_s, seconds); };
  bench.Repeat([&] {
    Figures figures = measure(zmem);
    bench.Add(figures, zram ? std::optional(zram->Of(measure)) : std::nullopt);
  });
  bench.results().details()["redis"] = {{"asked_per_s", asked_per_s},
                                        {"roomy_per_s", roomy_per_s},
                                        {"faults_per_request", zmem.FaultsPerRequest()},
                                        {"limit_bytes", limit_bytes},
                                        {"zmem_resident_bytes", zmem.server.Use().resident_bytes}};
  Describe(bench.results(), roomy_per_s, zmem, zram);
  zmem.Finish();
  if (zram) zram->Of([](Side& side) { side.Finish(); });
}

}  // namespace zmem
