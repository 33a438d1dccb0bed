// Programs that change their address space while their memory is out: nothing stored comes back
// where it no longer belongs, and nothing is lost where it does.
//   --seconds=N (20)   --seed=N
#include <gmock/gmock.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "tests/system_test.h"

namespace zmem {
namespace {

int storm_seconds = 20;
uint64_t seed = 20241102;

constexpr int kLeastStepsPerS = 200;
constexpr int64_t kLeastOut = 7000;  // of the 8,192 pages of programs/layouts.cc

class Layout : public SystemTest {
 protected:
  void SetUp() override {
    SystemTest::SetUp();
    if (IsSkipped()) return;
    daemon_ = std::make_unique<Daemon>();
    child_ = std::make_unique<Child>(Managed(*daemon_, Subject("layouts")));
    WaitReady(*daemon_, *child_);
    EvictAtLeast(*daemon_, *child_, kLeastOut);
  }

  void TearDown() override {
    if (child_ == nullptr) return;
    if (daemon_->Attached(child_->pid())) EvictAtLeast(*daemon_, *child_, kLeastOut);
    ExpectDone("verify");
    daemon_->Stop();
    ExpectDone("verify");
    child_->CloseInput();
    EXPECT_TRUE(child_->Wait(kAnswerTimeout).Succeeded()) << child_->errors();
  }

  void ExpectDone(const std::string& command) {
    EXPECT_EQ(child_->Ask(command, kAnswerTimeout), "ok") << command;
  }

  std::unique_ptr<Daemon> daemon_;
  std::unique_ptr<Child> child_;
};

TEST_F(Layout, DiscardedPagesReadAsZeros) { ExpectDone("discard"); }
TEST_F(Layout, FreedPagesReadAsTheyWereOrAsZeros) { ExpectDone("free"); }
TEST_F(Layout, NewMappingsInOldPlacesReadAsZeros) { ExpectDone("unmap and map again"); }
TEST_F(Layout, MappingsOverOthersReadAsZeros) { ExpectDone("map over"); }
TEST_F(Layout, MovedPagesAreFoundWhereTheyWent) { ExpectDone("move"); }
TEST_F(Layout, PagesMovedTwiceAreFoundWhereTheyWent) { ExpectDone("move twice"); }
TEST_F(Layout, MovedPagesLeaveZerosInAKeptRange) { ExpectDone("move but keep the range"); }
// The half that was never touched is nobody's business, but it is the same mapping.
TEST_F(Layout, AMappingMovesAsAWholeThoughHalfOfItIsManaged) {
  ExpectDone("map a half filled one");
  daemon_->Evict(child_->pid());
  ExpectDone("move the half filled one");
}
TEST_F(Layout, AShrunkenMappingKeepsItsStart) { ExpectDone("shrink"); }
TEST_F(Layout, ProtectionChangesKeepContents) { ExpectDone("protect"); }
TEST_F(Layout, HugePageAdviceKeepsContents) { ExpectDone("collapse"); }

TEST_F(Layout, InaccessiblePagesAreKeptThroughADrain) {
  ExpectDone("protect only");
  daemon_->Drain(child_->pid());
  ExpectDone("unprotect and verify");
}

TEST_F(Layout, LockedPagesComeBackAndStay) {
  ExpectDone("lock");
  daemon_->Evict(child_->pid());
  ExpectDone("still locked");
}

TEST_F(Layout, GuardPagesAreNotOverwritten) {
  ExpectDone("guard");
  daemon_->Evict(child_->pid());
  ExpectDone("still guarded");
  daemon_->Drain(child_->pid());
  ExpectDone("still guarded");
  ExpectDone("unguard");
}

TEST_F(Layout, AProgramMayCloseEveryDescriptor) {
  ExpectDone("close descriptors");
  EvictAtLeast(*daemon_, *child_, kLeastOut);
  ExpectDone("verify");
}

TEST_F(Layout, AProgramMayDropItsPrivileges) {
  ExpectDone("become nobody");
  EvictAtLeast(*daemon_, *child_, kLeastOut);
  ExpectDone("verify");
}

using LayoutStorm = SystemTest;

TEST_F(LayoutStorm, EveryPageReadsAsItMustUnderRandomChangesAndEvictions) {
  std::printf("seed %llu, %d s\n", static_cast<unsigned long long>(seed), storm_seconds);
  Daemon daemon;
  Child child(Managed(daemon, Subject("layout_storm", {"--seconds", std::to_string(storm_seconds),
                                                       "--seed", std::to_string(seed)})));
  WaitReady(daemon, child);
  EvictAtLeast(daemon, child, 1);
  child.Send("go");
  int evictions = 0;
  auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(storm_seconds);
  while (std::chrono::steady_clock::now() < deadline && child.Running()) {
    CommandResult eviction = daemon.Ctl({"evict", std::to_string(child.pid())});
    if (!child.Running()) break;  // it ended meanwhile; how, is looked at below
    ASSERT_TRUE(eviction.status.Succeeded()) << eviction.status.ToString() << eviction.errors;
    ++evictions;
  }
  ExitStatus status = child.Wait(std::chrono::seconds(60));
  EXPECT_TRUE(status.Succeeded()) << status.ToString() << "\n" << child.output() << child.errors();
  std::string result = child.ReadLine(kAnswerTimeout);
  std::printf("%d evictions; %s\n", evictions, result.c_str());
  EXPECT_GT(evictions, storm_seconds / 2);
  // Undisturbed it takes some ten thousand steps a second. Evictions cost it faults, but neither
  // may hold the other up.
  EXPECT_GT(std::atoi(result.substr(std::strlen("ok ")).c_str()), storm_seconds * kLeastStepsPerS);
  WaitPoolEmpty(daemon);
  daemon.Stop();
}

}  // namespace
}  // namespace zmem

int main(int argc, char** argv) {
  testing::InitGoogleMock(&argc, argv);
  CLI::App app("Changes address spaces whose pages are out.");
  app.add_option("--seconds", zmem::storm_seconds, "how long the random changes go on");
  app.add_option("--seed", zmem::seed, "of the random changes");
  CLI11_PARSE(app, argc, argv);
  return RUN_ALL_TESTS();
}
