// What is hard on a program whose memory is out: threads that end (FACTS 18), signals during
// faults (FACTS 21), changes of identity, namespaces, filters and limits (FACTS 24, 29). All of it
// happens while everything is taken out again and again.
//   --thread-starts=N (100000)   --owner-deaths=N (1000)   --seconds=N (5)   --seed=N
#include <gmock/gmock.h>

#include <CLI/CLI.hpp>
#include <cstdio>

#include "tests/evictor.h"
#include "tests/system_test.h"

namespace zmem {
namespace {

int thread_starts = 100'000;
int owner_deaths = 1'000;
int storm_seconds = 5;
uint64_t seed = 20250216;

constexpr int64_t kPages = 16 * 256;  // of programs/threads.cc
constexpr std::chrono::minutes kLongTimeout{5};

// A chunk is cold as soon as it is looked at, and it is looked at all the time.
constexpr char kEvictAlways[] = "[policy]\ncold_age=1ms\nscan_interval=10ms\nmin_resident=1M\n";

class Threads : public SystemTest {
 protected:
  void Start(std::vector<std::string> arguments = {}) {
    daemon_ = std::make_unique<Daemon>(DaemonOptions{.config = kEvictAlways});
    arguments.insert(arguments.end(), {"--seed", std::to_string(seed)});
    child_ = std::make_unique<Child>(Managed(*daemon_, Subject("threads", arguments)));
    WaitReady(*daemon_, *child_);
    EvictAtLeast(*daemon_, *child_, kPages * 9 / 10);
  }

  void ExpectDone(const std::string& command) {
    EXPECT_EQ(child_->Ask(command, kAnswerTimeout), "ok") << command << "\n" << child_->errors();
  }

  // The same while everything is taken out again and again.
  void ExpectDoneUnderEvictions(const std::string& command, int least_evictions) {
    Evictor evictor(*daemon_, child_->pid());
    WaitUntil("evictions to be under way", kAnswerTimeout, [&] { return evictor.evictions() > 0; });
    EXPECT_EQ(child_->Ask(command, kLongTimeout), "ok") << command << "\n" << child_->errors();
    std::printf("%s: %d evictions, seed %llu\n", command.c_str(), evictor.evictions(),
                static_cast<unsigned long long>(seed));
    EXPECT_GE(evictor.evictions(), least_evictions);  // fewer would say little
  }

  // Whatever it did, its memory is right, and can be taken out and come back.
  void ExpectStillManaged() {
    WaitUntil("the program to be managed", kAnswerTimeout,
              [&] { return daemon_->Attached(child_->pid()); });
    EvictAtLeast(*daemon_, *child_, kPages * 9 / 10);
    ExpectDone("verify");
  }

  void ExpectGoodEnd() {
    child_->CloseInput();
    EXPECT_TRUE(child_->Wait(kAnswerTimeout).Succeeded()) << child_->errors();
    WaitPoolEmpty(*daemon_);
    daemon_->Stop();
  }

  std::unique_ptr<Daemon> daemon_;
  std::unique_ptr<Child> child_;
};

TEST_F(Threads, EveryThreadIsJoined) {
  Start({"--thread-starts", std::to_string(thread_starts)});
  ExpectDoneUnderEvictions("start threads", 10);
  ExpectStillManaged();
  ExpectGoodEnd();
}

// Their control blocks are in ordinary memory. One that is out when its thread ends hangs
// pthread_join: the kernel cannot clear the thread's word in it.
TEST_F(Threads, EveryThreadOnAStackInTheHeapIsJoined) {
  Start({"--thread-starts", std::to_string(thread_starts / 50), "--shortest-life-ms", "10"});
  ExpectDoneUnderEvictions("start threads on our stacks", 10);
  ExpectStillManaged();
  ExpectGoodEnd();
}

// Those that start and end between the reclaimer's look at the threads and its second look, after
// the move, are seen by neither.
TEST_F(Threads, EveryShortThreadOnAStackInTheHeapIsJoined) {
  Start({"--thread-starts", std::to_string(thread_starts)});
  ExpectDoneUnderEvictions("start threads on our stacks", 10);
  ExpectStillManaged();
  ExpectGoodEnd();
}

// A mutex that is out when its owner ends cannot be reached by the kernel, which then marks neither
// it nor those behind it in the owner's list.
TEST_F(Threads, TheNextOwnerLearnsThatTheLastOneDied) {
  Start({"--owner-deaths", std::to_string(owner_deaths), "--shortest-life-ms", "10"});
  ExpectDoneUnderEvictions("owner deaths", 10);
  ExpectStillManaged();
  ExpectGoodEnd();
}

// Nor is a thread that locks a mutex and ends between the two looks.
TEST_F(Threads, TheNextOwnerLearnsThatTheLastOneDiedAtOnce) {
  Start({"--owner-deaths", std::to_string(owner_deaths)});
  ExpectDoneUnderEvictions("owner deaths", 10);
  ExpectStillManaged();
  ExpectGoodEnd();
}

TEST_F(Threads, SignalsDuringFaultsLoseNoPage) {
  Start({"--storm-seconds", std::to_string(storm_seconds)});
  ExpectDoneUnderEvictions("signal storm", 2);
  ExpectStillManaged();
  ExpectGoodEnd();
}

TEST_F(Threads, EveryThreadChangesItsUser) {
  Start();
  ExpectDoneUnderEvictions("become nobody", 0);
  ExpectStillManaged();
  ExpectGoodEnd();
}

TEST_F(Threads, AProgramMayEnterAMountAndAPidNamespace) {
  Start();
  ExpectDoneUnderEvictions("unshare mounts and pids", 0);
  ExpectStillManaged();
  ExpectGoodEnd();
}

TEST_F(Threads, AProgramMayEnterTheMountNamespaceOfAnother) {
  Start();
  ExpectDoneUnderEvictions("enter a mount namespace", 0);
  ExpectStillManaged();
  ExpectGoodEnd();
}

// The kernel lets only programs of a single thread do these: the agent ends, and comes back.
TEST_F(Threads, AProgramMayMakeAUserNamespace) {
  Start();
  ExpectDoneUnderEvictions("unshare user", 0);
  ExpectStillManaged();
  ExpectGoodEnd();
}

TEST_F(Threads, AProgramMayEnterTheUserNamespaceOfAnother) {
  Start();
  ExpectDoneUnderEvictions("enter a user namespace", 0);
  ExpectStillManaged();
  ExpectGoodEnd();
}

TEST_F(Threads, AProgramMayFilterItsCalls) {
  Start();
  ExpectDoneUnderEvictions("sandbox", 0);
  ExpectStillManaged();
  ExpectGoodEnd();
}

// The agent has a filter of its own, and with it the kernel would refuse one for all threads: it
// ends, and does not come back under somebody's filter.
TEST_F(Threads, AProgramMayFilterTheCallsOfAllItsThreads) {
  Start();
  ExpectDoneUnderEvictions("sandbox all threads", 0);
  ExpectDone("verify");
  ExpectGoodEnd();
}

TEST_F(Threads, AProgramMayCloseEveryDescriptorAndFork) {
  Start();
  ExpectDoneUnderEvictions("close descriptors", 0);
  ExpectStillManaged();
  ExpectGoodEnd();
}

TEST_F(Threads, AProgramMayHaveUsedUpItsDescriptors) {
  Start({"--descriptors", "64"});
  ExpectDoneUnderEvictions("fork and verify", 0);
  ExpectStillManaged();
  ExpectGoodEnd();
}

class ThreadsAddressSpace : public Threads, public testing::WithParamInterface<int> {};

// The staging area gets smaller, down to 8 MiB and what it takes to align them.
TEST_P(ThreadsAddressSpace, AProgramWithLittleToSpareIsManaged) {
  Start({"--spare-address-space-mib", std::to_string(GetParam())});
  ExpectDoneUnderEvictions("fork and verify", 0);
  ExpectStillManaged();
  ExpectGoodEnd();
}
INSTANTIATE_TEST_SUITE_P(SpareMib, ThreadsAddressSpace, testing::Values(12, 40, 160));

TEST_F(Threads, AProgramWithNoAddressSpaceToSpareRunsUnmanaged) {
  daemon_ = std::make_unique<Daemon>(DaemonOptions{.config = kEvictAlways});
  child_ = std::make_unique<Child>(
      Managed(*daemon_, Subject("threads", {"--spare-address-space-mib", "1"})));
  EXPECT_EQ(child_->ReadLine(kAnswerTimeout), "ready");
  WaitUntil("the agent to say why", kAnswerTimeout, [&] {
    return child_->errors().find("no room for the staging area") != std::string::npos;
  });
  EXPECT_FALSE(daemon_->Attached(child_->pid()));
  ExpectDone("fork and verify");
  ExpectGoodEnd();
}

}  // namespace
}  // namespace zmem

int main(int argc, char** argv) {
  testing::InitGoogleMock(&argc, argv);
  CLI::App app("Does hard things with threads, signals and limits while pages are out.");
  app.add_option("--thread-starts", zmem::thread_starts, "of each kind");
  app.add_option("--owner-deaths", zmem::owner_deaths, "of robust mutexes");
  app.add_option("--seconds", zmem::storm_seconds, "of the signal storm");
  app.add_option("--seed", zmem::seed, "of all choices");
  CLI11_PARSE(app, argc, argv);
  return RUN_ALL_TESTS();
}
