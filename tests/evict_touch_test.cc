// The promise of zmem in one test: 512 MiB of pages, each carrying its number and a checksum, taken
// out again and again while four threads read and rewrite them, and never a wrong one.
//   --seconds=N (60)   --mib=N (512)   --seed=N
#include <gmock/gmock.h>

#include <CLI/CLI.hpp>
#include <cstdio>

#include "tests/system_test.h"

namespace zmem {
namespace {

int run_seconds = 60;
int region_mib = 512;
uint64_t seed = 20240607;

// An eviction of pages that four threads fetch back meanwhile takes seconds on a busy machine.
constexpr std::chrono::seconds kLastEviction{5};
// Fewer, or fewer faults, would say little; a run of 60 s on two busy cores has 11 and a million.
constexpr int kLeastEvictions = 3;
constexpr int64_t kLeastFaults = 100'000;
constexpr int kNotManaged = 3;  // zmemctl's exit code

using EvictTouch = SystemTest;

TEST_F(EvictTouch, FourThreadsNeverReadAWrongPageWhilePagesAreTakenOut) {
  std::printf("seed %llu, %d s, %d MiB\n", static_cast<unsigned long long>(seed), run_seconds,
              region_mib);
  Daemon daemon;
  Child child(Managed(
      daemon, Subject("touches", {"--mib", std::to_string(region_mib), "--seconds",
                                  std::to_string(run_seconds), "--seed", std::to_string(seed)})));
  WaitReady(daemon, child);
  int64_t region_pages = int64_t{region_mib} * 256;
  EvictAtLeast(daemon, child, region_pages * 9 / 10);

  child.Send("go");
  auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(run_seconds);
  int evictions = 0;
  nlohmann::json last = daemon.Process(child.pid());
  // The last eviction starts well before the program ends, so that it can be looked at.
  while (std::chrono::steady_clock::now() < deadline - kLastEviction) {
    ASSERT_TRUE(child.Running()) << child.output() << child.errors();
    CommandResult eviction = daemon.Ctl({"evict", std::to_string(child.pid())});
    if (!eviction.status.Succeeded()) {
      // It took longer than the program had left, or something is wrong.
      ASSERT_EQ(eviction.status.number, kNotManaged) << eviction.errors;
      child.Wait(std::chrono::seconds(2));
      break;
    }
    ++evictions;
    last = daemon.Process(child.pid());
  }
  ExitStatus status = child.Wait(std::chrono::seconds(120));
  std::printf("%d evictions; %s%s", evictions, last.dump().c_str(), child.output().c_str());
  EXPECT_TRUE(status.Succeeded()) << status.ToString() << "\n" << child.output() << child.errors();
  EXPECT_GE(last.at("faults_total"), kLeastFaults);
  EXPECT_GE(evictions, kLeastEvictions);
  WaitPoolEmpty(daemon);
  daemon.Stop();
}

}  // namespace
}  // namespace zmem

int main(int argc, char** argv) {
  testing::InitGoogleMock(&argc, argv);
  CLI::App app("Evicts and touches 512 MiB from four threads.");
  app.add_option("--seconds", zmem::run_seconds, "how long");
  app.add_option("--mib", zmem::region_mib, "size of the region");
  app.add_option("--seed", zmem::seed, "of the choice of pages");
  CLI11_PARSE(app, argc, argv);
  return RUN_ALL_TESTS();
}
