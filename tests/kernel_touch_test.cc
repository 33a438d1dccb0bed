// Pages that were taken out and are touched first by the kernel: reads into, writes from, waits on
// and pins of absent memory must work as if it had never been away.
#include "tests/system_test.h"

namespace zmem {
namespace {

// Of the 8,192 pages of programs/kernel_touches.cc. That its buffers are out it sees for itself,
// page by page, before each call.
constexpr int64_t kLeastOut = 5000;

class KernelTouch : public SystemTest {
 protected:
  void SetUp() override {
    SystemTest::SetUp();
    if (IsSkipped()) return;
    daemon_ = std::make_unique<Daemon>();
    child_ = std::make_unique<Child>(
        Managed(*daemon_, Subject("kernel_touches", {daemon_->directory().path()})));
    WaitReady(*daemon_, *child_);
  }

  // The first touch after an eviction is the kernel's.
  void EvictAndExpectOk(const std::string& command) {
    EvictAtLeast(*daemon_, *child_, kLeastOut);
    EXPECT_EQ(child_->Ask(command, kAnswerTimeout), "ok") << command;
  }

  void TearDown() override {
    if (child_ == nullptr) return;
    ExpectOk(*child_, "verify");
    child_->CloseInput();
    EXPECT_TRUE(child_->Wait(kAnswerTimeout).Succeeded()) << child_->errors();
    daemon_->Stop();
  }

  std::unique_ptr<Daemon> daemon_;
  std::unique_ptr<Child> child_;
};

TEST_F(KernelTouch, ReadFillsAbsentBuffers) {
  for (const char* call : {"read", "readv", "direct read"}) EvictAndExpectOk(call);
}

TEST_F(KernelTouch, WriteSendsAbsentBuffers) {
  for (const char* call : {"write", "writev", "direct write"}) EvictAndExpectOk(call);
}

TEST_F(KernelTouch, SocketsReceiveIntoAndSendFromAbsentBuffers) {
  for (const char* call : {"recv", "send"}) EvictAndExpectOk(call);
}

TEST_F(KernelTouch, FutexComparesAnAbsentWord) { EvictAndExpectOk("futex compare"); }

TEST_F(KernelTouch, FutexWaiterIsWokenThoughItsWordWasTakenOutMeanwhile) {
  for (const char* kind : {"", " private"}) {
    EvictAndExpectOk(std::string("futex wait") + kind);
    EvictAndExpectOk(std::string("futex wake") + kind);
  }
}

TEST_F(KernelTouch, IoUringReadsIntoAndWritesFromAbsentBuffers) {
  for (const char* call : {"uring read", "uring read async", "uring write", "uring write async"}) {
    EvictAndExpectOk(call);
  }
}

TEST_F(KernelTouch, PagesPinnedByIoUringStayAndAreSeenByBothSides) {
  EvictAndExpectOk("uring register");
  EvictAndExpectOk("uring read fixed");
  EvictAndExpectOk("uring write fixed");
  EXPECT_EQ(child_->Ask("uring unregister", kAnswerTimeout), "ok");
  EvictAndExpectOk("verify");
}

}  // namespace
}  // namespace zmem
