// A program's life with zmem, from attaching to every way it can end, and the daemon's orderly
// stop: contents survive, memory is given back, nothing of a program that is gone stays behind.
#include <csignal>

#include "absl/strings/str_cat.h"
#include "tests/system_test.h"

namespace zmem {
namespace {

constexpr int64_t kMib = 256;  // on each subject's memory
constexpr int64_t kPages = kMib * 256;

using Lifecycle = SystemTest;

std::vector<std::string> Pages(std::vector<std::string> more = {}) {
  more.insert(more.begin(), {"--mib", std::to_string(kMib)});
  return Subject("pages", more);
}

TEST_F(Lifecycle, EvictionGivesMemoryBackAndTouchingBringsItBack) {
  Daemon daemon;
  Child child(Managed(daemon, Pages()));
  WaitReady(daemon, child);
  int64_t before = ResidentBytes(child.pid());
  ASSERT_GT(before, kMib << 20);

  EvictAtLeast(daemon, child, kPages * 9 / 10);
  EXPECT_LT(ResidentBytes(child.pid()), before / 2);
  nlohmann::json pool = daemon.Status().at("pool");
  EXPECT_GT(pool.at("objects"), kPages * 9 / 10);
  EXPECT_LT(pool.at("held_bytes").get<int64_t>(), (kMib << 20) / 2) << "ratio 2.4 was expected";

  ExpectOk(child, "verify");
  EXPECT_GT(ResidentBytes(child.pid()), before * 9 / 10);
  EXPECT_GT(daemon.Process(child.pid()).at("faults_total"), 0);
  ExpectOk(child, "rewrite");
  EvictAtLeast(daemon, child, kPages * 9 / 10);
  ExpectOk(child, "verify");
}

TEST_F(Lifecycle, HugePagesAreTakenOutAndComeBack) {
  Daemon daemon;
  Child child(Managed(daemon, Pages({"--huge"})));
  WaitReady(daemon, child);
  EvictAtLeast(daemon, child, kPages * 9 / 10);
  ExpectOk(child, "verify");
  ExpectOk(child, "rewrite");
  EvictAtLeast(daemon, child, kPages * 9 / 10);
  ExpectOk(child, "verify");
}

TEST_F(Lifecycle, ColdPagesAreTakenOutUnasked) {
  Daemon daemon({.config = "[policy]\ncold_age=2s\nscan_interval=1s\nmin_resident=1M\n"});
  Child child(Managed(daemon, Pages()));
  WaitReady(daemon, child);
  WaitUntil("cold pages to be stored", std::chrono::seconds(60),
            [&] { return Stored(daemon, child) > kPages * 9 / 10; });
  ExpectOk(child, "verify");
}

TEST_F(Lifecycle, DrainBringsEverythingBackAndEndsTheManagement) {
  Daemon daemon;
  Child child(Managed(daemon, Pages()));
  WaitReady(daemon, child);
  int64_t before = ResidentBytes(child.pid());
  EvictAtLeast(daemon, child, kPages * 9 / 10);

  daemon.Drain(child.pid());
  EXPECT_FALSE(daemon.Attached(child.pid()));
  EXPECT_GT(ResidentBytes(child.pid()), before * 9 / 10) << "before anything was touched";
  WaitPoolEmpty(daemon);
  ExpectOk(child, "verify");
  daemon.Stop();
  ExpectOk(child, "rewrite");
}

TEST_F(Lifecycle, StoppingTheDaemonPutsEveryPageBackFirst) {
  Daemon daemon;
  Child child(Managed(daemon, Pages()));
  WaitReady(daemon, child);
  int64_t before = ResidentBytes(child.pid());
  EvictAtLeast(daemon, child, kPages * 9 / 10);

  daemon.Stop();
  EXPECT_GT(ResidentBytes(child.pid()), before * 9 / 10) << "before anything was touched";
  ExpectOk(child, "verify");
  ExpectOk(child, "rewrite");
  child.CloseInput();
  EXPECT_TRUE(child.Wait(kAnswerTimeout).Succeeded()) << child.errors();
}

TEST_F(Lifecycle, UnmappedMemoryLeavesThePool) {
  Daemon daemon;
  Child child(Managed(daemon, Pages()));
  WaitReady(daemon, child);
  EvictAtLeast(daemon, child, kPages * 9 / 10);
  ExpectOk(child, "unmap half");
  WaitUntil("the unmapped half to leave the pool", std::chrono::seconds(20),
            [&] { return Stored(daemon, child) <= kPages * 6 / 10; });
  EXPECT_LE(daemon.Status().at("pool").at("objects"), kPages * 6 / 10);
}

// The ways out. Each happens while zmemctl evicts, the program's pages half in and half out.
class LifecycleEnd : public SystemTest {
 protected:
  // Starts a subject and an eviction of it, and leaves once the eviction has got somewhere.
  void StartEviction() {
    daemon_ = std::make_unique<Daemon>();
    child_ = std::make_unique<Child>(Managed(*daemon_, Pages()));
    WaitReady(*daemon_, *child_);
    eviction_ = std::make_unique<Child>(
        ChildOptions{.argv = {Runfile("zmemd/zmemctl"), "--socket", daemon_->socket(), "evict",
                              std::to_string(child_->pid())}});
    WaitUntil("the eviction to be under way", std::chrono::seconds(20), [&] {
      nlohmann::json process = daemon_->Process(child_->pid());
      return process.at("stored_pages").get<int64_t>() > 0 ||
             process.at("staged_pages").get<int64_t>() > 0;
    });
  }

  // The daemon lives, keeps nothing of the program, and serves the next one.
  void ExpectNothingLeft() {
    // It was faster, or tells that its program went away.
    ExitStatus status = eviction_->Wait(std::chrono::seconds(30));
    if (!status.Succeeded()) {
      EXPECT_EQ(status.ToString(), "exit 3");
      std::string why = absl::StrCat("zmemctl: PID ", child_->pid(), " has ended");
      EXPECT_TRUE(eviction_->errors().starts_with(why)) << eviction_->errors();
    }
    WaitPoolEmpty(*daemon_);
    Child next(Managed(*daemon_, Pages()));
    WaitReady(*daemon_, next);
    EvictAtLeast(*daemon_, next, kPages * 9 / 10);
    ExpectOk(next, "verify");
    daemon_->Stop();
    ExpectOk(next, "verify");
  }

  std::unique_ptr<Daemon> daemon_;
  std::unique_ptr<Child> child_;
  std::unique_ptr<Child> eviction_;
};

TEST_F(LifecycleEnd, ExitDuringAnEviction) {
  StartEviction();
  child_->Send("exit");
  EXPECT_TRUE(child_->Wait(kAnswerTimeout).Succeeded()) << child_->errors();
  ExpectNothingLeft();
}

TEST_F(LifecycleEnd, KillDuringAnEviction) {
  StartEviction();
  child_->Signal(SIGKILL);
  EXPECT_EQ(child_->Wait(kAnswerTimeout).number, SIGKILL);
  ExpectNothingLeft();
}

TEST_F(LifecycleEnd, ExecDuringAnEviction) {
  StartEviction();
  child_->Send("exec");
  // The same process, another program: it starts afresh and is managed afresh.
  EXPECT_EQ(child_->ReadLine(kAnswerTimeout), "ready");
  ExpectOk(*child_, "verify");
  WaitUntil("the program to be attached again", std::chrono::seconds(20),
            [&] { return daemon_->Attached(child_->pid()); });
  EvictAtLeast(*daemon_, *child_, kPages * 9 / 10);
  ExpectOk(*child_, "verify");
  child_->CloseInput();
  EXPECT_TRUE(child_->Wait(kAnswerTimeout).Succeeded()) << child_->errors();
  ExpectNothingLeft();
}

}  // namespace
}  // namespace zmem
