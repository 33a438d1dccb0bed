// The pool's limit changed while zmemd runs: what is held above a lower one goes to the backing
// file, whatever the program does meanwhile, and every page is right afterwards.
#include <nlohmann/json.hpp>

#include "tests/system_test.h"

namespace zmem {
namespace {

constexpr int64_t kMib = 128;
constexpr int64_t kPages = kMib * 256;
constexpr uid_t kNobody = 65534;

class PoolLimit : public SystemTest {
 protected:
  // A program with nearly all of its memory in the pool.
  void Start(const std::string& config) {
    daemon_ = std::make_unique<Daemon>(DaemonOptions{.config = kEvictByHand + config});
    child_ = std::make_unique<Child>(
        Managed(*daemon_, Subject("pages", {"--mib", std::to_string(kMib)})));
    WaitReady(*daemon_, *child_);
    EvictAtLeast(*daemon_, *child_, kPages * 9 / 10);
    ASSERT_GT(PoolFigure("held_bytes"), int64_t{kMib / 4} << 20);
  }
  void TearDown() override { child_.reset(); }

  int64_t PoolFigure(const char* name) const { return daemon_->Status().at("pool").at(name); }
  nlohmann::json Set(const std::string& key, const std::string& value) const {
    return daemon_->CtlJson({"set", key, value, "--json"});
  }

  TempDir backing_directory_;
  std::unique_ptr<Daemon> daemon_;
  std::unique_ptr<Child> child_;
};

TEST_F(PoolLimit, WhatIsAboveALowerOneIsWrittenBack) {
  Start("[backing]\npath=" + backing_directory_.File("backing") + "\nsize=256M\n");
  nlohmann::json answer = Set("max_pool_size", "16M");
  EXPECT_EQ(answer.at("limit_bytes"), 16 << 20);
  EXPECT_EQ(answer.at("shrinks_by"), "writeback");
  WaitUntil("the pool to shrink", kAnswerTimeout,
            [&] { return PoolFigure("held_bytes") <= 16 << 20; });
  nlohmann::json status = daemon_->Status();
  EXPECT_EQ(status.at("pool").at("limit_bytes"), 16 << 20);
  EXPECT_GT(status.at("backing").at("written_back_pages"), kPages / 10);
  ExpectOk(*child_, "verify");
  ExpectOk(*child_, "rewrite");
  daemon_->Evict(child_->pid());
  EXPECT_LE(PoolFigure("held_bytes"), 16 << 20);
  ExpectOk(*child_, "verify");
}

TEST_F(PoolLimit, WithoutABackingFileItShrinksAsPagesAreWantedBack) {
  Start("");
  nlohmann::json answer = Set("max_pool_size", "16M");
  EXPECT_EQ(answer.at("shrinks_by"), "refaults");
  EXPECT_GT(PoolFigure("held_bytes"), 16 << 20);
  ExpectOk(*child_, "rewrite");
  daemon_->Evict(child_->pid());
  EXPECT_LE(PoolFigure("held_bytes"), 16 << 20);
  // A higher one lets the rest out again.
  EXPECT_EQ(Set("max_pool_size", "0").at("shrinks_by"), "nothing");
  EvictAtLeast(*daemon_, *child_, kPages * 9 / 10);
  ExpectOk(*child_, "verify");
}

TEST_F(PoolLimit, OnlyRootMayChangeItAndNonsenseIsRefused) {
  Daemon daemon;
  nlohmann::json before = daemon.Status().at("pool");
  CommandResult nonsense = daemon.Ctl({"set", "max_pool_percent", "0"});
  EXPECT_EQ(nonsense.status.ToString(), "exit 2");
  EXPECT_EQ(nonsense.errors,
            "zmemctl: max_pool_percent: \"0\" is not a whole percentage of RAM from 1 to 100\n");
  CommandResult forbidden =
      RunCommand({.argv = {daemon.directory().Share("zmemd/zmemctl"), "--socket", daemon.socket(),
                           "set", "max_pool_percent", "1"},
                  .uid = kNobody},
                 kAnswerTimeout);
  EXPECT_EQ(forbidden.status.ToString(), "exit 4") << forbidden.errors;
  EXPECT_EQ(daemon.Status().at("pool"), before);
  daemon.CtlJson({"set", "accept_threshold_percent", "50", "--json"});
  nlohmann::json after = daemon.Status().at("pool");
  EXPECT_EQ(after.at("limit_bytes"), before.at("limit_bytes"));
  EXPECT_EQ(after.at("accept_bytes"), before.at("limit_bytes").get<int64_t>() / 100 * 50);
}

}  // namespace
}  // namespace zmem
