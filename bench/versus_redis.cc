// Case 8 of bench/versus_kernel: a stock redis-server with half of what it had resident, asked for
// documents by Zipf's law. Every answer is checked.
#include <algorithm>
#include <optional>
#include <string>

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

}  // namespace

void RunRedis(VersusBench& bench) {
  const KeyedValues values;
  RedisLoad::Options load{
      .items = static_cast<uint32_t>((bench.options().mib << 20) / kSizeDivisor / kMeanValueBytes)};
  double seconds = bench.options().seconds;
  Side zmem(Means::kZmem, values, load, kLimitOnly);
  double roomy_per_s = zmem.server.load().AskAsFastAsPossible(seconds).reached_per_s;
  uint64_t limit_bytes = zmem.server.Use().program_bytes() / 2;
  zmem.server.LimitResident(limit_bytes);
  WaitUntilHeld(zmem.server, limit_bytes);
  double settle_s = seconds * kSettleShare;
  double highest_per_s = zmem.server.load().AskAsFastAsPossible(settle_s).reached_per_s;
  std::optional<Side> zram;
  if (WhyNoZram().empty()) {
    zram.emplace(Means::kZram, values, load);
    zram->server.LimitResident(limit_bytes);
    highest_per_s =
        std::min(highest_per_s, zram->server.load().AskAsFastAsPossible(settle_s).reached_per_s);
  }
  bench.Repeat([&] {
    double asked_per_s = highest_per_s * kShareOfHighest;
    Figures figures = Measure(zmem, asked_per_s, seconds);
    bench.Add(figures, zram ? std::optional(Measure(*zram, asked_per_s, seconds)) : std::nullopt);
  });
  bench.results().details()["redis"] = {{"asked_per_s", highest_per_s * kShareOfHighest},
                                        {"roomy_per_s", roomy_per_s},
                                        {"faults_per_request", zmem.FaultsPerRequest()},
                                        {"limit_bytes", limit_bytes},
                                        {"zmem_resident_bytes", zmem.server.Use().resident_bytes}};
  bench.results().AddNote(
      absl::StrFormat("redis: %s requests/s with all of its memory resident; at half %.2f faults a "
                      "request over zmem%s",
                      FormatFigure(roomy_per_s), zmem.FaultsPerRequest(),
                      zram ? absl::StrFormat(", %.2f over zram", zram->FaultsPerRequest()) : ""));
  zmem.Finish();
  if (zram) zram->Finish();
}

}  // namespace zmem
