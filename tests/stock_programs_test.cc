// Programs as Debian ships them, which know nothing of zmem: python3 and redis-server.
#include <algorithm>
#include <fstream>
#include <numeric>
#include <random>

#include "tests/redis.h"
#include "tests/system_test.h"

namespace zmem {
namespace {

using StockPrograms = SystemTest;

// Debian's python3, whatever else comes first in PATH.
constexpr char kPython[] = "/usr/bin/python3";

TEST_F(StockPrograms, PythonFindsItsDictionaryAgain) {
  Daemon daemon;
  Child child(Managed(daemon, {kPython, Runfile("tests/programs/dictionary.py")}));
  WaitReady(daemon, child);
  int64_t before = ResidentBytes(child.pid());
  daemon.Evict(child.pid());
  EXPECT_LT(ResidentBytes(child.pid()), before / 2);
  EXPECT_EQ(child.Ask("verify", kAnswerTimeout), "ok 300000");
  daemon.Evict(child.pid());
  ExpectOk(child, "rebuild");  // frees and allocates all over evicted memory
  daemon.Evict(child.pid());
  EXPECT_EQ(child.Ask("verify", kAnswerTimeout), "ok 300000");
  child.CloseInput();
  EXPECT_TRUE(child.Wait(kAnswerTimeout).Succeeded()) << child.errors();
  daemon.Stop();
}

// As PostgreSQL waits: signals sent to the process, blocked, and fetched. The agent fetches one of
// its own, and must not get hold of others.
TEST_F(StockPrograms, PythonGetsEverySignalItWaitsFor) {
  constexpr char kScript[] = R"(
import os, signal, time
wanted = set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}
wanted -= {signal.SIGCONT, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}  # they undo each other
signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
lost = 0
for sleep in range(3):
    for number in wanted:
        os.kill(os.getpid(), number)
    time.sleep(0.4)
    for number in wanted:
        lost += signal.sigtimedwait([number], 0) is None
print("lost", lost)
)";
  Daemon daemon;
  CommandResult result = RunCommand(Managed(daemon, {kPython, "-c", kScript}), kAnswerTimeout);
  EXPECT_EQ(result.output, "lost 0\n") << result.errors;
}

constexpr uint64_t kDocuments = 40'000;  // about 140 MB

class StockRedis : public SystemTest {
 protected:
  void SetUp() override {
    SystemTest::SetUp();
    if (IsSkipped()) return;
    daemon_ = std::make_unique<Daemon>();
    redis_ = std::make_unique<RedisServer>(*daemon_);
    client_ = std::make_unique<RedisClient>(redis_->socket());
    LoadDocuments(*client_, 0, kDocuments);
    WaitAttached(*daemon_, redis_->child());
    shuffled_.resize(kDocuments);
    std::iota(shuffled_.begin(), shuffled_.end(), 0);
    std::shuffle(shuffled_.begin(), shuffled_.end(), std::mt19937_64(7));
  }

  // Everything out; at least half of the resident memory must have gone.
  void EvictAll() {
    int64_t before = ResidentBytes(redis_->child().pid());
    daemon_->Evict(redis_->child().pid());
    EXPECT_LT(ResidentBytes(redis_->child().pid()), before / 2);
  }

  std::unique_ptr<Daemon> daemon_;
  std::unique_ptr<RedisServer> redis_;
  std::unique_ptr<RedisClient> client_;
  std::vector<uint64_t> shuffled_;
};

TEST_F(StockRedis, EveryKeyIsReadBackRight) {
  for (int round = 0; round < 2; ++round) {
    EvictAll();
    EXPECT_EQ(WrongDocuments(*client_, shuffled_), std::vector<std::string>());
  }
  redis_->Stop();
  daemon_->Stop();
}

// BGSAVE forks: the child writes all of memory to a file while the parent goes on. The file is then
// loaded by the server itself, which checks it (CRC-64), and read back.
TEST_F(StockRedis, SavesInTheBackgroundWhatWasTakenOut) {
  EvictAll();
  client_->Call({"BGSAVE"});
  for (uint64_t index = 0; index < kDocuments; index += 10) {
    client_->Call({"SET", "written meanwhile", std::to_string(index)});
  }
  WaitUntil("BGSAVE to succeed", std::chrono::seconds(120), [this] {
    std::string info = *client_->Call({"INFO", "persistence"});
    if (info.find("rdb_bgsave_in_progress:0") == std::string::npos) return false;
    EXPECT_NE(info.find("rdb_last_bgsave_status:ok"), std::string::npos) << info;
    return true;
  });
  EXPECT_EQ(WrongDocuments(*client_, shuffled_), std::vector<std::string>());

  EvictAll();
  EXPECT_EQ(client_->Call({"DEBUG", "RELOAD", "NOSAVE"}), "OK") << redis_->child().output();
  EXPECT_EQ(WrongDocuments(*client_, shuffled_), std::vector<std::string>());
  redis_->Stop();
  daemon_->Stop();
}

}  // namespace
}  // namespace zmem
