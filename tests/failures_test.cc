// Bad luck around a program: no daemon, a wrong one, one that dies, one whose pool is full. The
// program goes on unchanged, or it is told in one line; it never reads a wrong byte.
#include <algorithm>
#include <csignal>

#include "absl/strings/str_cat.h"
#include "libzmem/wire/messages.h"
#include "tests/fake_daemon.h"
#include "tests/system_test.h"

namespace zmem {
namespace {

using std::chrono::seconds;

constexpr int64_t kMib = 128;

std::vector<std::string> Pages(int64_t mib, std::vector<std::string> more = {}) {
  more.insert(more.begin(), {"--mib", std::to_string(mib)});
  return Subject("pages", more);
}

// A program under libzmem.so with nobody, or somebody else, at zmemd's socket.
class NoDaemon : public SystemTest {
 protected:
  std::string socket() const { return directory_.File("zmemd.sock"); }

  ChildOptions Preloaded(const std::map<std::string, std::string>& more) const {
    ChildOptions options{.argv = Pages(kMib), .env = more};
    options.env["ZMEM_DAEMON_TIMEOUT"] = "2";  // for a daemon that does not answer
    options.env.merge(ManagedEnvironment(socket(), Runfile("preload/libzmem.so")));
    return options;
  }

  // The program runs as if there were no zmem, and says nothing.
  void ExpectUnchanged() const {
    Child child(Preloaded({{"ZMEM_VERBOSE", "0"}}));
    EXPECT_EQ(child.ReadLine(kAnswerTimeout), "ready");
    ExpectOk(child, "verify");
    ExpectOk(child, "rewrite");
    child.CloseInput();
    EXPECT_TRUE(child.Wait(kAnswerTimeout).Succeeded());
    EXPECT_EQ(child.errors(), "");
  }

  // The same with ZMEM_VERBOSE=1, except that it says why it is not managed: one line with `hint`.
  void ExpectExplained(const std::string& hint) const {
    Child child(Preloaded({{"ZMEM_VERBOSE", "1"}}));
    EXPECT_EQ(child.ReadLine(kAnswerTimeout), "ready");
    WaitUntil("libzmem.so to say why", seconds(20), [&] { return !child.errors().empty(); });
    ExpectOk(child, "verify");
    child.CloseInput();
    EXPECT_TRUE(child.Wait(kAnswerTimeout).Succeeded());
    ExpectOneLine(child.errors(), hint);
  }

  // With ZMEM_REQUIRED=1 the program ends instead, with the same line.
  void ExpectRequiredFails(const std::string& hint) const {
    Child child(Preloaded({{"ZMEM_REQUIRED", "1"}, {"ZMEM_VERBOSE", "0"}}));
    ExitStatus status = child.Wait(seconds(30));
    EXPECT_FALSE(status.Succeeded());
    EXPECT_FALSE(status.signalled) << status.ToString();
    ExpectOneLine(child.errors(), hint);
  }

  void ExpectOneLine(const std::string& errors, const std::string& hint) const {
    EXPECT_EQ(std::count(errors.begin(), errors.end(), '\n'), 1) << errors;
    EXPECT_TRUE(errors.starts_with("zmem: ")) << errors;
    EXPECT_NE(errors.find(hint), std::string::npos) << errors;
    EXPECT_NE(errors.find(socket()), std::string::npos) << errors;
  }

  void ExpectAllThree(const std::string& hint) const {
    ExpectUnchanged();
    ExpectExplained(hint);
    ExpectRequiredFails(hint);
  }

  TempDir directory_;
};

TEST_F(NoDaemon, NobodyAtTheSocket) { ExpectAllThree("no zmemd is listening"); }

TEST_F(NoDaemon, ADeadSocketRefuses) {
  {
    FakeDaemon gone(socket(), [](int) {});
  }
  ExpectAllThree("no zmemd is listening");
}

TEST_F(NoDaemon, ADaemonOfAnotherProtocolVersion) {
  FakeDaemon old(socket(), [](int connection) {
    wire::Refuse answer;
    answer.header.version = wire::kVersion + 1;
    answer.reason = wire::RefuseReason::kVersion;
    send(connection, &answer, sizeof answer, MSG_NOSIGNAL);
  });
  ExpectAllThree(absl::StrCat("protocol ", wire::kVersion));
}

TEST_F(NoDaemon, SomethingThatAnswersGarbage) {
  FakeDaemon other(socket(), [](int connection) {
    std::string garbage = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
    send(connection, garbage.data(), garbage.size(), MSG_NOSIGNAL);
  });
  ExpectAllThree("not zmemd");
}

TEST_F(NoDaemon, ARightHeaderWithNothingBehindIt) {
  FakeDaemon other(socket(), [](int connection) {
    wire::Welcome answer;  // without the descriptor that belongs to it
    send(connection, &answer, sizeof answer, MSG_NOSIGNAL);
  });
  ExpectAllThree("zmemd");
}

TEST_F(NoDaemon, ADaemonThatHangsUp) {
  FakeDaemon other(socket(), [](int connection) { shutdown(connection, SHUT_RDWR); });
  ExpectAllThree("hung up");
}

TEST_F(NoDaemon, ADaemonThatNeverAnswers) {
  FakeDaemon silent(socket(), [](int) {});
  ExpectAllThree("does not answer");
}

TEST_F(NoDaemon, SwitchedOffProgramsAreLeftAlone) {
  Daemon daemon;
  ChildOptions off = Managed(daemon, Pages(kMib));
  off.env["ZMEM"] = "0";
  Child left_alone(off);
  EXPECT_EQ(left_alone.ReadLine(kAnswerTimeout), "ready");
  // One that starts later and is managed shows that the first one's time has come, and passed.
  Child managed(Managed(daemon, Pages(kMib)));
  WaitReady(daemon, managed);
  EXPECT_FALSE(daemon.FindProcess(left_alone.pid()).has_value());
  ExpectOk(left_alone, "verify");
}

using DaemonDies = SystemTest;

constexpr char kShortTimeout[] = "2";

// How a program ends whose daemon is gone with its pages: by itself, in time, saying why.
void ExpectEnded(Child& child) {
  ExitStatus status = child.Wait(seconds(30));
  EXPECT_FALSE(status.Succeeded());
  EXPECT_EQ(child.output().find("WRONG"), std::string::npos) << child.output();
  EXPECT_NE(child.errors().find("zmemd"), std::string::npos) << child.errors();
}

TEST_F(DaemonDies, ProgramBlocksAndIsEndedButReadsNoZeros) {
  Daemon daemon;
  ChildOptions options = Managed(daemon, Pages(kMib));
  options.env["ZMEM_DAEMON_TIMEOUT"] = kShortTimeout;
  Child child(options);
  WaitReady(daemon, child);
  EvictAtLeast(daemon, child, kMib * 256 * 9 / 10);

  auto killed = std::chrono::steady_clock::now();
  daemon.child().Signal(SIGKILL);
  daemon.child().Wait(seconds(10));
  child.Send("watch");
  ExpectEnded(child);
  EXPECT_GE(std::chrono::steady_clock::now() - killed, std::chrono::milliseconds(1500))
      << "ended before its time";
}

TEST_F(DaemonDies, BusyThreadsReadNoWrongPageEither) {
  Daemon daemon;
  ChildOptions options = Managed(daemon, Subject("touches", {"--mib", "256", "--seconds", "120"}));
  options.env["ZMEM_DAEMON_TIMEOUT"] = kShortTimeout;
  Child child(options);
  WaitReady(daemon, child);
  child.Send("go");
  EvictAtLeast(daemon, child, 1);
  daemon.child().Signal(SIGKILL);
  daemon.child().Wait(seconds(10));
  ExpectEnded(child);
}

TEST_F(DaemonDies, AProgramOfAForkIsEndedToo) {
  Daemon daemon;
  ChildOptions options = Managed(daemon, Subject("forks", {"--mib", "128"}));
  options.env["ZMEM_DAEMON_TIMEOUT"] = kShortTimeout;
  Child child(options);
  WaitReady(daemon, child);
  EvictAtLeast(daemon, child, 128 * 256 * 9 / 10);
  daemon.child().Signal(SIGKILL);
  daemon.child().Wait(seconds(10));
  child.Send("verify");
  ExpectEnded(child);
}

using PoolLimit = SystemTest;

constexpr char kSmallPool[] =
    "[pool]\nmax_pool_percent=1\n[policy]\ncold_age=1h\nscan_interval=1h\nmin_resident=1M\n";

int64_t HeldBytes(const Daemon& daemon) { return daemon.Status()["pool"]["held_bytes"]; }
int64_t LimitBytes(const Daemon& daemon) { return daemon.Status()["pool"]["limit_bytes"]; }

TEST_F(PoolLimit, EvictionPausesAtTheLimitAndNothingIsLost) {
  Daemon daemon({.config = kSmallPool});
  int64_t limit = LimitBytes(daemon);
  ASSERT_GT(limit, 0);
  if (limit > int64_t{512} << 20) GTEST_SKIP() << "1 % of this machine's memory is " << limit;
  int64_t mib = limit * 4 >> 20;  // compresses 2.4 to 1, so a good third does not fit
  Child child(Managed(daemon, Pages(mib)));
  WaitReady(daemon, child);
  daemon.Evict(child.pid());
  EXPECT_GT(HeldBytes(daemon), limit * 8 / 10);
  EXPECT_LE(HeldBytes(daemon), limit);
  EXPECT_LT(Stored(daemon, child), mib * 256);
  daemon.Evict(child.pid());  // full: not an error
  EXPECT_LE(HeldBytes(daemon), limit);
  EXPECT_TRUE(daemon.Attached(child.pid()));
  ExpectOk(child, "verify");
  ExpectOk(child, "rewrite");
  daemon.Evict(child.pid());
  ExpectOk(child, "verify");
}

TEST_F(PoolLimit, IncompressiblePagesAreNotLostEither) {
  Daemon daemon({.config = kSmallPool});
  int64_t limit = LimitBytes(daemon);
  ASSERT_GT(limit, 0);
  if (limit > int64_t{1} << 30) GTEST_SKIP() << "1 % of this machine's memory is " << limit;
  Child child(Managed(daemon, Pages(limit * 5 / 3 >> 20, {"--random"})));
  WaitReady(daemon, child);
  for (int round = 0; round < 2; ++round) {
    daemon.Evict(child.pid());
    EXPECT_LE(HeldBytes(daemon), limit);
    EXPECT_TRUE(daemon.Attached(child.pid()));
    ExpectOk(child, "verify");
    ExpectOk(child, "rewrite");
  }
}

}  // namespace
}  // namespace zmem
