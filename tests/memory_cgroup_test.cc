// A program whose memory cgroup is full: bringing a page back charges the cgroup, and the kernel
// kills a program that goes past its limit (FACTS 23). So other pages have to go first.
#include <optional>

#include "tests/limited_cgroup.h"
#include "tests/system_test.h"

namespace zmem {
namespace {

constexpr int64_t kMib = 192;
constexpr int64_t kPages = kMib * 256;
constexpr uint64_t kLimitBytes = uint64_t{64} << 20;

class MemoryCgroupLimit : public SystemTest {
 protected:
  // A program of three times its limit, which fits as long as most of it is out.
  void SetUp() override {
    SystemTest::SetUp();
    if (IsSkipped()) return;
    try {
      cgroup_.emplace();
    } catch (const HarnessError& error) {
      GTEST_SKIP() << error.what();
    }
    daemon_ = std::make_unique<Daemon>(
        DaemonOptions{.config = "[policy]\ncold_age=1h\nscan_interval=1s\nmin_resident=1M\n"});
    child_ = std::make_unique<Child>(
        Managed(*daemon_, Subject("pages", {"--mib", std::to_string(kMib)})));
    WaitReady(*daemon_, *child_);
    EvictAtLeast(*daemon_, *child_, kPages * 9 / 10);
    cgroup_->Add(child_->pid());
    cgroup_->Limit(kLimitBytes);
    WaitUntil("zmemd to know of the limit", kAnswerTimeout,
              [&] { return daemon_->Process(child_->pid()).contains("room_bytes"); });
  }
  void TearDown() override { child_.reset(); }

  std::optional<LimitedCgroup> cgroup_;
  std::unique_ptr<Daemon> daemon_;
  std::unique_ptr<Child> child_;
};

TEST_F(MemoryCgroupLimit, OtherPagesGoOutBeforeOneComesBack) {
  ExpectOk(*child_, "verify");
  ExpectOk(*child_, "rewrite");
  ExpectOk(*child_, "verify");
  EXPECT_LE(ResidentBytes(child_->pid()), static_cast<int64_t>(kLimitBytes) + (16 << 20));
}

// Nothing can be taken out any more: the kernel ends the program, as without zmem, and soon.
TEST_F(MemoryCgroupLimit, WhatCannotFitEndsTheProgramInsteadOfHangingIt) {
  child_->Send("make incompressible");
  ExitStatus status = child_->Wait(std::chrono::seconds(60));
  EXPECT_EQ(status.ToString(), "signal 9 (Killed)") << child_->output();
  daemon_->Stop();
}

TEST_F(MemoryCgroupLimit, ADrainThatWouldKillTheProgramIsRefused) {
  CommandResult drained = daemon_->Ctl({"drain", std::to_string(child_->pid())});
  EXPECT_EQ(drained.status.ToString(), "exit 1");
  EXPECT_NE(drained.errors.find("raise its limit"), std::string::npos) << drained.errors;
  cgroup_->Limit(uint64_t{kMib + 64} << 20);
  daemon_->Drain(child_->pid());
  ExpectOk(*child_, "verify");
}

// What is touched for the first time in memory that zmemd does not know yet nobody holds up, and
// where the limit is passed the kernel kills: zmemd has to see it coming.
class MemoryCgroupGrowth : public SystemTest {};

TEST_F(MemoryCgroupGrowth, AProgramMayFillMoreThanItsLimitAsFastAsItCan) {
  std::optional<LimitedCgroup> cgroup;
  try {
    cgroup.emplace();
  } catch (const HarnessError& error) {
    GTEST_SKIP() << error.what();
  }
  constexpr uint64_t kRoomyLimitBytes = uint64_t{512} << 20;
  Daemon daemon({.config = "[policy]\nmode=limit-only\nscan_interval=1s\nmin_resident=1M\n"});
  Child child(Managed(daemon, Subject("pages", {"--mib", "16", "--grown-mib", "896"})));
  WaitReady(daemon, child);
  cgroup->Add(child.pid());
  cgroup->Limit(kRoomyLimitBytes);
  WaitUntil("zmemd to know of the limit", kAnswerTimeout,
            [&] { return daemon.Process(child.pid()).contains("room_bytes"); });
  ExpectOk(child, "grow");
  EXPECT_LE(ResidentBytes(child.pid()), static_cast<int64_t>(kRoomyLimitBytes) + (16 << 20));
}

}  // namespace
}  // namespace zmem
