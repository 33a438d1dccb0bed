// Programs that want to help (libzmem/zmem.h): what they say is followed, what they ask is
// answered, and they run on where nobody listens.
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/system_test.h"

namespace zmem {
namespace {

using nlohmann::json;
using std::chrono::seconds;

constexpr int64_t kMib = 48;
constexpr int64_t kPages = kMib * 256;

// A signal that stops a process takes its time where the machine is busy.
bool AllThreadsStopped(pid_t pid) {
  std::string tasks = "/proc/" + std::to_string(pid) + "/task";
  for (const auto& task : std::filesystem::directory_iterator(tasks)) {
    std::ifstream file(task.path() / "stat");
    std::string text;
    std::getline(file, text);
    if (text.find(") T ") == std::string::npos) return false;
  }
  return true;
}

class AdviceTest : public SystemTest {
 protected:
  void SetUp() override {
    SystemTest::SetUp();
    if (IsSkipped()) return;
    daemon_ = std::make_unique<Daemon>();
    child_ = std::make_unique<Child>(
        Managed(*daemon_, Subject("advises", {"--mib", std::to_string(kMib)})));
    WaitReady(*daemon_, *child_);
    // The daemon may know it a moment before its agent does.
    WaitUntil("the program to be heard", seconds(10), [&] { return Ask("stats") != "ENOTCONN"; });
  }

  std::string Ask(const std::string& command) { return child_->Ask(command, kAnswerTimeout); }
  void Do(const std::string& command) { EXPECT_EQ(Ask(command), "ok") << command; }
  json Stats() { return json::parse(Ask("stats")); }
  int64_t Present() { return std::stoll(Ask("present")); }
  void AwaitPresent(int64_t pages) {
    WaitUntil(std::to_string(pages) + " pages to be in memory", seconds(20),
              [&] { return Present() == pages; });
  }

  std::unique_ptr<Daemon> daemon_;
  std::unique_ptr<Child> child_;
};

TEST_F(AdviceTest, ColdMemoryGoesOutAndComesBackAsItWas) {
  Do("cold");
  AwaitPresent(0);
  json stats = Stats();
  EXPECT_EQ(stats.at("out_bytes"), kPages * 4096);
  EXPECT_GT(stats.at("held_bytes"), 0);
  EXPECT_LT(stats.at("held_bytes"), kPages * 4096 / 2);
  Do("verify");
  EXPECT_EQ(Present(), kPages);
  EXPECT_GT(Stats().at("faults_total"), stats.at("faults_total"));
  // Once: it is not taken again.
  EXPECT_EQ(Stats().at("out_bytes"), 0);
}

TEST_F(AdviceTest, NeededMemoryComesBackWithoutAFault) {
  Do("cold");
  AwaitPresent(0);
  json before = Stats();
  Do("will need");
  AwaitPresent(kPages);
  Do("verify");
  json after = Stats();
  EXPECT_EQ(after.at("faults_total"), before.at("faults_total"));
  EXPECT_EQ(after.at("out_bytes"), 0);
}

TEST_F(AdviceTest, KeptMemoryStaysUntilItIsNotKept) {
  Do("cold");
  AwaitPresent(0);
  Do("keep half");
  AwaitPresent(kPages / 2);
  Do("cold");
  daemon_->Evict(child_->pid());
  EXPECT_EQ(Present(), kPages / 2);
  EXPECT_EQ(Stats().at("kept_bytes"), kPages / 2 * 4096);
  Do("normal");
  EXPECT_EQ(Stats().at("kept_bytes"), 0);
  daemon_->Evict(child_->pid());
  EXPECT_EQ(Present(), 0);
  Do("verify");
}

TEST_F(AdviceTest, ANewMappingInThePlaceOfAKeptOneIsNotKept) {
  Do("keep");
  daemon_->Evict(child_->pid());
  EXPECT_EQ(Present(), kPages);
  Do("replace");
  EXPECT_EQ(Stats().at("kept_bytes"), 0);
  daemon_->Evict(child_->pid());
  EXPECT_EQ(Present(), 0);
  Do("verify");
}

TEST_F(AdviceTest, FiguresAreThoseOfZmemctl) {
  Do("keep half");
  daemon_->Evict(child_->pid());
  json stats;
  json shown;
  WaitUntil("the program to have back what it needs for its answers", seconds(20), [&] {
    shown = daemon_->Process(child_->pid());
    stats = Stats();
    return shown == daemon_->Process(child_->pid());
  });
  for (const char* name :
       {"held_bytes", "disk_bytes", "faults_total", "kept_bytes", "limit_bytes", "stall_ns"}) {
    EXPECT_EQ(stats.at(name), shown.at(name)) << name;
  }
  int64_t out = shown.at("stored_pages").get<int64_t>() + shown.at("staged_pages").get<int64_t>();
  EXPECT_EQ(stats.at("out_bytes"), out * 4096);
  EXPECT_GE(out, kPages / 2);
  double resident = stats.at("resident_bytes");
  EXPECT_NEAR(resident, shown.at("resident_bytes").get<double>(), 1 << 20);
  EXPECT_EQ(stats.at("stall_target_ppm"), shown.at("stall_target_percent").get<double>() * 10'000);
  EXPECT_GT(stats.at("stall_ns"), 0);
  EXPECT_EQ(stats.at("connections"), 1);
}

TEST_F(AdviceTest, MistakesAreTold) {
  Do("misuse");
  Do("keep too much");
  EXPECT_EQ(Stats().at("kept_bytes"), 0);
  Do("in a signal handler");
}

TEST_F(AdviceTest, ThreadsAreHeardAllAtOnce) { Do("quarrel"); }

TEST_F(AdviceTest, AForkedChildIsHeardWhenItIsManagedItself) {
  Do("keep half");
  Do("fork");
  Do("fork without libc");
  Do("verify");
}

TEST_F(AdviceTest, AStoppedDaemonCostsASecond) {
  daemon_->child().Signal(SIGSTOP);
  WaitUntil("zmemd to stop", seconds(20),
            [&] { return AllThreadsStopped(daemon_->child().pid()); });
  // More than there are places; the second time the first ones are still taken.
  for (int i = 0; i < 2; ++i) {
    auto begun = std::chrono::steady_clock::now();
    EXPECT_EQ(Ask("crowd"), "ETIMEDOUT");
    EXPECT_LT(std::chrono::steady_clock::now() - begun, seconds(4));
  }
  EXPECT_EQ(Ask("keep"), "ETIMEDOUT");
  daemon_->child().Signal(SIGCONT);
  WaitUntil("zmemd to answer again", seconds(20), [&] { return Ask("crowd") == "ok"; });
  Do("normal");
  Do("cold");
  AwaitPresent(0);
  Do("verify");
}

TEST_F(AdviceTest, ADaemonThatIsGoneIsTold) {
  daemon_->child().Signal(SIGKILL);
  WaitUntil("the agent to notice", seconds(20), [&] { return Ask("stats") == "ENOTCONN"; });
  EXPECT_EQ(Ask("cold"), "ENOTCONN");
  Do("verify");
}

TEST_F(AdviceTest, ADrainedProgramIsNotHeardAnyMore) {
  Do("keep");
  daemon_->Drain(child_->pid());
  WaitUntil("the agent to end", seconds(20), [&] { return Ask("stats") == "ENOTCONN"; });
  Do("verify");
}

TEST_F(AdviceTest, WithoutTheLibraryBothFunctionsAreNull) {
  Child plain({.argv = Subject("advises", {"--mib", "1"})});
  EXPECT_EQ(plain.ReadLine(kAnswerTimeout), "ready");
  EXPECT_EQ(plain.Ask("library", kAnswerTimeout), "none");
  EXPECT_EQ(Ask("library"), "there");
  ChildOptions off = Managed(*daemon_, Subject("advises", {"--mib", "1"}));
  off.env["ZMEM"] = "0";
  Child switched_off(off);
  EXPECT_EQ(switched_off.ReadLine(kAnswerTimeout), "ready");
  EXPECT_EQ(switched_off.Ask("stats", kAnswerTimeout), "ENOTCONN");
}

void ExpectExampleRuns(const Daemon& daemon, const std::string& example) {
  CommandResult plain = RunCommand({.argv = {example}}, kAnswerTimeout);
  EXPECT_TRUE(plain.status.Succeeded()) << plain.output;
  EXPECT_EQ(plain.output, "not managed by zmem\nall is right\n");
  CommandResult managed = RunCommand(Managed(daemon, {example}), kAnswerTimeout);
  EXPECT_TRUE(managed.status.Succeeded()) << managed.output << managed.errors;
  unsigned long resident = 0;
  unsigned long out = 0;
  unsigned long held = 0;
  unsigned long kept = 0;
  unsigned long waits = 0;
  ASSERT_EQ(std::sscanf(managed.output.c_str(),
                        "idle: %lu KiB in memory, %lu KiB out in %lu KiB, %lu KiB kept, %lu waits",
                        &resident, &out, &held, &kept, &waits),
            5)
      << managed.output;
  EXPECT_GE(out, 60u << 10);
  EXPECT_LT(held, out / 2);
  EXPECT_EQ(kept, 1u << 10);
}

TEST_F(AdviceTest, TheExampleDoesWhatItSays) {
  for (const char* name : {"advise", "advise_no_pie"}) {
    SCOPED_TRACE(name);
    ExpectExampleRuns(*daemon_, Runfile(std::string("docs/examples/") + name));
  }
}

}  // namespace
}  // namespace zmem
