// Programs that change their address space while their memory is out: nothing stored comes back
// where it no longer belongs, and nothing is lost where it does.
#include "tests/system_test.h"

namespace zmem {
namespace {

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

}  // namespace
}  // namespace zmem
