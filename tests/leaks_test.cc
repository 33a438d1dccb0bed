// Programs that end, are killed, become others or are stopped while they are being evicted leave
// nothing behind in the daemon (FACTS 12), and hold up nobody.
//   --count=N (1500)   --rounds=N (40)   --seed=N
#include <gmock/gmock.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <random>
#include <thread>

#include "absl/strings/str_cat.h"
#include "tests/evictor.h"
#include "tests/holdings.h"
#include "tests/system_test.h"

namespace zmem {
namespace {

int program_count = 1500;
int round_count = 40;
uint64_t seed = 20250301;

using std::chrono::microseconds;
using std::chrono::seconds;

// A chunk is cold as soon as it is looked at, and it is looked at all the time.
constexpr char kEvictAlways[] = "[policy]\ncold_age=1ms\nscan_interval=10ms\nmin_resident=64K\n";

constexpr std::chrono::minutes kLongTimeout{10};
// How many programs the daemon says it has attached so far.
size_t CountAttached(const Daemon& daemon) {
  std::string log = daemon.log();
  size_t count = 0;
  constexpr char kAttached[] = " attached\n";
  for (size_t at = log.find(kAttached); at != std::string::npos; at = log.find(kAttached, at + 1)) {
    ++count;
  }
  return count;
}

void ExpectNoMoreThan(const Daemon& daemon, const Holdings& before) {
  Holdings now = AwaitNoMoreThan(daemon, before);
  std::printf("before: %s\nnow:    %s\n", before.ToString().c_str(), now.ToString().c_str());
}

// Programs attach as soon as they start, instead of after a while.
ChildOptions ManagedAtOnce(const Daemon& daemon, std::vector<std::string> argv) {
  ChildOptions options = Managed(daemon, std::move(argv));
  options.env["ZMEM_REQUIRED"] = "1";
  return options;
}

class Leaks : public SystemTest {
 protected:
  // Has a managed program start `count` short ones, while all that are managed are evicted.
  void StartShortPrograms(const Daemon& daemon, int count) {
    Child starter(Managed(daemon, Subject("starter", {"--count", std::to_string(count), "--seed",
                                                      std::to_string(seed)})));
    WaitReady(daemon, starter);
    {
      Evictor evictor(daemon);
      std::string answer = starter.Ask("run", kLongTimeout);
      evictor.Stop();
      EXPECT_EQ(answer.substr(0, 3), "ok ") << answer << "\n" << starter.errors();
      std::printf("%d programs, seed %llu: %s; %d evictions\n", count,
                  static_cast<unsigned long long>(seed), answer.c_str(), evictor.evictions());
      EXPECT_GT(evictor.evictions(), 0);
    }
    ExpectOk(starter, "verify");
    starter.CloseInput();
    EXPECT_TRUE(starter.Wait(kAnswerTimeout).Succeeded()) << starter.errors();
  }

  // Starts taking everything of `child` out, and leaves it at a random moment.
  std::unique_ptr<Child> LeaveDuringEviction(const Daemon& daemon, const Child& child) {
    constexpr unsigned kLongestUs = 60'000;  // what an eviction of 16 MiB takes on a busy machine
    auto eviction = std::make_unique<Child>(
        ChildOptions{.argv = {Runfile("zmemd/zmemctl"), "--socket", daemon.socket(), "evict",
                              std::to_string(child.pid())}});
    std::this_thread::sleep_for(microseconds(random_() % kLongestUs));
    return eviction;
  }

  std::mt19937_64 random_{seed};
};

TEST_F(Leaks, ShortProgramsLeaveNothingBehind) {
  Daemon daemon({.config = kEvictAlways});
  constexpr int kWarmUpCount = 300;
  StartShortPrograms(daemon, kWarmUpCount);
  WaitPoolEmpty(daemon);
  Holdings before = Holdings::Of(daemon);
  int64_t faults_before = daemon.Status().at("faults_total");
  size_t attached_before = CountAttached(daemon);
  StartShortPrograms(daemon, program_count);
  ExpectNoMoreThan(daemon, before);
  // One program in six is managed, and most of them find that their memory was taken out.
  EXPECT_GT(CountAttached(daemon) - attached_before, static_cast<size_t>(program_count) / 10);
  EXPECT_GT(daemon.Status().at("faults_total").get<int64_t>() - faults_before, program_count);
  daemon.Stop();
}

TEST_F(Leaks, ProgramsThatDieBetweenAnyTwoStepsLeaveNothingBehind) {
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
  Daemon daemon({.config = kEvictAlways});
  constexpr int kWarmUpRounds = 4;
  Holdings before{};
  for (int round = -kWarmUpRounds; round < round_count; ++round) {
    if (round == 0) {
      WaitPoolEmpty(daemon);
      before = Holdings::Of(daemon);
    }
    Child child(ManagedAtOnce(daemon, Subject("pages", {"--mib", "16"})));
    WaitReady(daemon, child);
    std::unique_ptr<Child> eviction = LeaveDuringEviction(daemon, child);
    if (round % 2 == 0) {
      child.Send("exec");
      EXPECT_EQ(child.ReadLine(kAnswerTimeout), "ready") << child.errors();
      ExpectOk(child, "verify");
    }
    child.Signal(SIGKILL);
    EXPECT_EQ(child.Wait(kAnswerTimeout).number, SIGKILL);
    eviction->Wait(seconds(30));  // however it ends: its program went away
  }
  ExpectNoMoreThan(daemon, before);
  daemon.Stop();
}

TEST_F(Leaks, AStoppedProgramHoldsUpNobodyAndGoesOn) {
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
  Daemon daemon({.config = kEvictAlways});
  std::vector<std::string> pages = Subject("pages", {"--mib", "16"});
  Child stopped(ManagedAtOnce(daemon, pages));
  Child other(ManagedAtOnce(daemon, pages));
  WaitReady(daemon, stopped);
  WaitReady(daemon, other);
  constexpr int kRounds = 8;
  for (int round = 0; round < kRounds; ++round) {
    ExpectOk(stopped, "rewrite");
    std::unique_ptr<Child> eviction = LeaveDuringEviction(daemon, stopped);
    stopped.Signal(SIGSTOP);
    auto start = std::chrono::steady_clock::now();
    daemon.Evict(other.pid());
    ExpectOk(other, "verify");
    Child third(ManagedAtOnce(daemon, pages));
    WaitReady(daemon, third);
    daemon.Evict(third.pid());
    daemon.Drain(third.pid());
    ExpectOk(third, "verify");
    // Alone it takes half a second, on a busy machine two.
    EXPECT_LT(std::chrono::steady_clock::now() - start, seconds(15)) << "round " << round;
    stopped.Signal(SIGCONT);
    ExpectOk(stopped, "verify");
    // It succeeded in time, or gave up on an agent that was stopped.
    if (!eviction->Wait(kAnswerTimeout).Succeeded()) {
      EXPECT_NE(eviction->errors().find("did not answer in time"), std::string::npos)
          << eviction->errors();
    }
    daemon.Evict(stopped.pid());
    ExpectOk(stopped, "verify");
  }
  daemon.Stop();
  ExpectOk(stopped, "rewrite");
  ExpectOk(other, "rewrite");
}

TEST_F(Leaks, AStoppedProgramThatIsKilledLeavesNothingBehind) {
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
  Daemon daemon({.config = kEvictAlways});
  constexpr int kRounds = 8;
  Holdings before{};
  for (int round = -1; round < kRounds; ++round) {
    if (round == 0) before = Holdings::Of(daemon);
    Child child(ManagedAtOnce(daemon, Subject("pages", {"--mib", "16"})));
    WaitReady(daemon, child);
    std::unique_ptr<Child> eviction = LeaveDuringEviction(daemon, child);
    child.Signal(SIGSTOP);
    std::this_thread::sleep_for(microseconds(random_() % 20'000));
    child.Signal(SIGKILL);
    EXPECT_EQ(child.Wait(kAnswerTimeout).number, SIGKILL);
    eviction->Wait(seconds(30));  // however it ends: its program went away
    WaitPoolEmpty(daemon);
  }
  ExpectNoMoreThan(daemon, before);
  daemon.Stop();
}

}  // namespace
}  // namespace zmem

int main(int argc, char** argv) {
  testing::InitGoogleMock(&argc, argv);
  CLI::App app("Ends and stops programs while they are being evicted.");
  app.add_option("--count", zmem::program_count, "short programs to start");
  app.add_option("--rounds", zmem::round_count, "of killing one in the middle");
  app.add_option("--seed", zmem::seed, "of all choices");
  CLI11_PARSE(app, argc, argv);
  return RUN_ALL_TESTS();
}
