// The harness itself: a test is worth what it reports when something goes wrong.
#include "tests/harness.h"

#include <gtest/gtest.h>

#include <csignal>
#include <filesystem>

#include "tests/page_pattern.h"

namespace zmem {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

ChildOptions Shell(const std::string& script) { return {.argv = {"sh", "-c", script}}; }

TEST(Child, ReportsHowItEnded) {
  EXPECT_EQ(RunCommand(Shell("exit 3"), seconds(10)).status.ToString(), "exit 3");
  EXPECT_EQ(RunCommand(Shell("kill -9 $$"), seconds(10)).status.ToString(), "signal 9 (Killed)");
  EXPECT_TRUE(RunCommand(Shell("true"), seconds(10)).status.Succeeded());
}

TEST(Child, KeepsItsOutputApart) {
  CommandResult result = RunCommand(Shell("echo out; echo err >&2"), seconds(10));
  EXPECT_EQ(result.output, "out\n");
  EXPECT_EQ(result.errors, "err\n");
}

TEST(Child, AnswersLineByLine) {
  Child child(Shell("while read line; do echo got $line; done"));
  EXPECT_EQ(child.Ask("one", seconds(10)), "got one");
  EXPECT_EQ(child.Ask("two", seconds(10)), "got two");
  child.CloseInput();
  EXPECT_TRUE(child.Wait(seconds(10)).Succeeded());
}

// Calls `action`, which must throw; returns its message.
template <typename Action>
std::string MessageOf(Action action) {
  try {
    action();
  } catch (const HarnessError& error) {
    return error.what();
  }
  return "nothing was thrown";
}

TEST(Child, SaysWhatItWaitedFor) {
  Child silent(Shell("read line"));
  EXPECT_NE(MessageOf([&] { silent.ReadLine(milliseconds(20)); }).find("a line from sh"),
            std::string::npos);
  EXPECT_NE(MessageOf([&] { silent.Wait(milliseconds(20)); }).find("sh to end"), std::string::npos);
  Child dead(Shell("echo why >&2; exit 4"));
  EXPECT_NE(MessageOf([&] { dead.ReadLine(seconds(10)); }).find("(exit 4)"), std::string::npos);
  EXPECT_NE(MessageOf([&] { dead.ReadLine(seconds(10)); }).find("why"), std::string::npos);
  EXPECT_NE(MessageOf([] { Child({.argv = {"/no/such/program"}}); }).find("/no/such/program"),
            std::string::npos);
}

TEST(Child, IsGoneWithItsObject) {
  pid_t pid;
  {
    Child child(Shell("read line"));
    pid = child.pid();
    EXPECT_EQ(kill(pid, 0), 0);
  }
  EXPECT_EQ(kill(pid, 0), -1);
}

TEST(Child, SeesTheEnvironmentItWasGiven) {
  ChildOptions options = Shell("echo $ZMEM_TEST $HOME");
  options.env = {{"ZMEM_TEST", "here"}, {"HOME", "/nowhere"}};
  EXPECT_EQ(RunCommand(options, seconds(10)).output, "here /nowhere\n");
}

TEST(Child, RunsAsAnotherUser) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root";
  ChildOptions options = Shell("id -u; id -g; id -G");
  options.uid = 65534;
  EXPECT_EQ(RunCommand(options, seconds(10)).output, "65534\n65534\n65534\n");
}

TEST(WaitUntil, SaysWhatItWaitedFor) {
  EXPECT_EQ(MessageOf([] { WaitUntil("the moon", milliseconds(20), [] { return false; }); }),
            "waited 0.0 s for the moon");
}

TEST(TempDir, IsGoneWithItsFiles) {
  std::string path;
  {
    TempDir directory;
    path = directory.path();
    EXPECT_TRUE(std::filesystem::exists(directory.Write("file", "text")));
  }
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST(ResidentBytes, SeesMemoryThatWasTouched) {
  int64_t before = ResidentBytes(getpid());
  std::vector<char> memory(64 << 20, 1);
  EXPECT_GE(ResidentBytes(getpid()), before + (60 << 20));
}

}  // namespace
}  // namespace zmem
