// Forks of a program whose memory is taken out: every generation sees every page, writes of one are
// never seen by another, and children that become other programs leave nothing behind.
#include "tests/system_test.h"

namespace zmem {
namespace {

constexpr int64_t kMib = 128;
constexpr int64_t kPages = kMib * 256;

class Fork : public SystemTest {
 protected:
  void SetUp() override {
    SystemTest::SetUp();
    if (IsSkipped()) return;
    daemon_ = std::make_unique<Daemon>();
    child_ = std::make_unique<Child>(
        Managed(*daemon_, Subject("forks", {"--mib", std::to_string(kMib)})));
    WaitReady(*daemon_, *child_);
    EvictAtLeast(*daemon_, *child_, kPages * 9 / 10);
  }

  void ExpectForkOk(const std::string& command) {
    EXPECT_EQ(child_->Ask(command, kAnswerTimeout), "ok") << command << "\n" << child_->errors();
  }

  void TearDown() override {
    if (child_ == nullptr) return;
    ExpectForkOk("verify");
    // What the children shared is no longer shared: it can go out, and come back, again.
    EvictAtLeast(*daemon_, *child_, kPages * 9 / 10);
    ExpectForkOk("verify");
    child_->CloseInput();
    EXPECT_TRUE(child_->Wait(kAnswerTimeout).Succeeded()) << child_->errors();
    WaitPoolEmpty(*daemon_);
    daemon_->Stop();
  }

  std::unique_ptr<Daemon> daemon_;
  std::unique_ptr<Child> child_;
};

TEST_F(Fork, ParentAndChildBothSeeEveryPage) { ExpectForkOk("fork"); }
TEST_F(Fork, ChildrensChildrenSeeEveryPage) { ExpectForkOk("generations"); }
TEST_F(Fork, AChildSeesTheSnapshotWhileTheParentWrites) { ExpectForkOk("snapshot"); }
TEST_F(Fork, TheParentDoesNotSeeWhatTheChildWrites) { ExpectForkOk("child writes"); }
TEST_F(Fork, SeveralChildrenAtOnceSeeEveryPage) { ExpectForkOk("many forks"); }
// As redis after a BGSAVE: what was in memory when it forked was shared, and must not stay in
// memory for ever because of that.
TEST_F(Fork, PagesThatWereSharedWithAChildThatHasGoneCanBeTakenOut) {
  ExpectForkOk("verify");  // everything is in memory
  ExpectForkOk("fork");
  EvictAtLeast(*daemon_, *child_, kPages * 9 / 10);
  ExpectForkOk("verify");
}

// As a server that forks its workers after it has loaded its data.
TEST_F(Fork, AChildThatLivesOnIsManagedItself) {
  ExpectForkOk("live on in a child");
  pid_t child = std::stoi(child_->Ask("who", kAnswerTimeout));
  ASSERT_NE(child, child_->pid());
  WaitUntil("the forked child to be attached", std::chrono::seconds(20),
            [&] { return daemon_->Attached(child); });
  ExpectForkOk("verify");
  // What it now shares with its parent cannot be taken out; what it rewrites is its own.
  ExpectForkOk("rewrite");
  daemon_->Evict(child);
  EXPECT_GE(daemon_->Process(child).at("stored_pages"), kPages * 9 / 10);
  ExpectForkOk("verify");
  ExpectForkOk("rewrite");
  daemon_->Evict(child);
  ExpectForkOk("fork");
  ExpectForkOk("snapshot");
  daemon_->Drain(child);
  ExpectForkOk("verify");
  // The next line is the parent's: it answers "live on" when its child has ended well.
  EXPECT_EQ(child_->Ask("end", kAnswerTimeout), "ok") << child_->errors();
  EXPECT_EQ(std::stoi(child_->Ask("who", kAnswerTimeout)), child_->pid());
}

TEST_F(Fork, PopenRunsAnotherProgram) { ExpectForkOk("popen"); }
TEST_F(Fork, SystemRunsAShell) { ExpectForkOk("system"); }
TEST_F(Fork, PosixSpawnRunsAnotherProgram) { ExpectForkOk("spawn"); }

TEST_F(Fork, ForksGoOnDuringEvictions) {
  for (int round = 0; round < 5; ++round) {
    child_->Send("snapshot");
    daemon_->Evict(child_->pid());
    EXPECT_EQ(child_->ReadLine(kAnswerTimeout), "ok") << child_->errors();
  }
}

}  // namespace
}  // namespace zmem
