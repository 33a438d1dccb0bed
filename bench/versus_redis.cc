// Case 8 of bench/versus_kernel: a stock redis-server with half of what it had resident, asked for
// documents by Zipf's law. Every answer is checked.
#include <algorithm>
#include <memory>

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

Figures Measure(SqueezedRedis& server, double asked_per_s, double seconds) {
  double reached_per_s = server.load().AskAsFastAsPossible(seconds).reached_per_s;
  auto p99_ns = static_cast<double>(server.load().AskAtRate(asked_per_s, seconds).p99_ns);
  return {{"redis.rate", reached_per_s}, {"redis.p99", p99_ns / 1e3}};
}

}  // namespace

void RunRedis(VersusBench& bench) {
  const KeyedValues values;
  RedisLoad::Options load{
      .items = static_cast<uint32_t>((bench.options().mib << 20) / kSizeDivisor / kMeanValueBytes)};
  double seconds = bench.options().seconds;
  SqueezedRedis zmem(Means::kZmem, values, load, kLimitOnly);
  uint64_t limit_bytes = zmem.Use().program_bytes() / 2;
  zmem.LimitResident(limit_bytes);
  WaitUntilHeld(zmem, limit_bytes);
  double highest_per_s = zmem.load().AskAsFastAsPossible(seconds * kSettleShare).reached_per_s;
  std::unique_ptr<SqueezedRedis> zram;
  if (WhyNoZram().empty()) {
    zram = std::make_unique<SqueezedRedis>(Means::kZram, values, load);
    zram->LimitResident(limit_bytes);
    highest_per_s = std::min(
        highest_per_s, zram->load().AskAsFastAsPossible(seconds * kSettleShare).reached_per_s);
  }
  bench.Repeat([&] {
    double asked_per_s = highest_per_s * kShareOfHighest;
    Figures figures = Measure(zmem, asked_per_s, seconds);
    bench.Add(figures, zram ? std::optional(Measure(*zram, asked_per_s, seconds)) : std::nullopt);
  });
  zmem.load().VerifyAll();
  if (zram) zram->load().VerifyAll();
  bench.results().details()["redis"] = {{"asked_per_s", highest_per_s * kShareOfHighest},
                                        {"limit_bytes", limit_bytes},
                                        {"zmem_resident_bytes", zmem.Use().resident_bytes}};
  zmem.Stop();
  if (zram) zram->Stop();
}

}  // namespace zmem
