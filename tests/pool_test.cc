// What zmemd does with what is in the pool, whatever the program does meanwhile: what is held above
// a lowered limit goes to the backing file, what is idle is compressed harder, and what comes back
// and goes out unchanged is not compressed again. Every page is right afterwards.
#include <nlohmann/json.hpp>

#include "tests/system_test.h"

namespace zmem {
namespace {

constexpr int64_t kMib = 128;
constexpr int64_t kPages = kMib * 256;
constexpr uid_t kNobody = 65534;

class PoolTest : public SystemTest {
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

TEST_F(PoolTest, WhatIsAboveALowerOneIsWrittenBack) {
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

TEST_F(PoolTest, WithoutABackingFileItShrinksAsPagesAreWantedBack) {
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

TEST_F(PoolTest, WhatIsIdleIsCompressedHarder) {
  Start("[pool]\nrecompress_age=1s\nrecompress_cpu_percent=100\n");
  int64_t before = PoolFigure("compressed_bytes");
  WaitUntil("most objects to be recompressed", kAnswerTimeout,
            [&] { return PoolFigure("recompressed_objects") > kPages / 2; });
  nlohmann::json pool = daemon_->Status().at("pool");
  EXPECT_LT(pool.at("compressed_bytes"), before);
  EXPECT_GT(pool.at("recompressed_bytes"), 0);
  EXPECT_GT(pool.at("recompress_cpu_ns"), 0);
  ExpectOk(*child_, "verify");
  ExpectOk(*child_, "rewrite");
  daemon_->Evict(child_->pid());
  ExpectOk(*child_, "verify");
}

TEST_F(PoolTest, WhatGoesOutAgainUnchangedIsNotCompressedAgain) {
  Start("[pool]\nclean_pages_percent=100\n");
  ExpectOk(*child_, "verify");
  EXPECT_GT(PoolFigure("clean_pages"), kPages * 9 / 10);
  EvictAtLeast(*daemon_, *child_, kPages * 9 / 10);
  EXPECT_GT(PoolFigure("clean_reused_pages"), kPages * 9 / 10);
  ExpectOk(*child_, "verify");
  ExpectOk(*child_, "rewrite");
  EvictAtLeast(*daemon_, *child_, kPages * 9 / 10);
  EXPECT_GT(PoolFigure("clean_changed_pages"), 0);
  ExpectOk(*child_, "verify");
  daemon_->Drain(child_->pid());
  EXPECT_EQ(PoolFigure("clean_pages"), 0);
  EXPECT_EQ(PoolFigure("objects"), 0);
}

TEST_F(PoolTest, OnlyRootMayChangeItAndNonsenseIsRefused) {
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
