// Programs of a user who may do nothing: no userfaultfd of his own, no way into the daemon's
// memory, none but his own processes in sight.
#include <fstream>

#include "tests/system_test.h"

namespace zmem {
namespace {

constexpr uid_t kNobody = 65534;
constexpr int64_t kMib = 128;
constexpr int64_t kPages = kMib * 256;

using Unprivileged = SystemTest;

ChildOptions AsNobody(const Daemon& daemon) {
  // What we built lies where nobody else may look.
  std::string program = daemon.directory().Share("tests/programs/pages");
  ChildOptions options = Managed(daemon, {program, "--mib", std::to_string(kMib)});
  options.uid = kNobody;
  return options;
}

TEST_F(Unprivileged, ProgramOfNobodyIsManagedByTheRootDaemon) {
  int allowed = -1;
  std::ifstream("/proc/sys/vm/unprivileged_userfaultfd") >> allowed;
  std::printf("vm.unprivileged_userfaultfd=%d\n", allowed);
  Daemon daemon;
  Child child(AsNobody(daemon));
  WaitReady(daemon, child);
  int64_t before = ResidentBytes(child.pid());
  EvictAtLeast(daemon, child, kPages * 9 / 10);
  EXPECT_LT(ResidentBytes(child.pid()), before / 2);
  ExpectOk(child, "verify");
  ExpectOk(child, "rewrite");
  EvictAtLeast(daemon, child, kPages * 9 / 10);
  daemon.Drain(child.pid());
  ExpectOk(child, "verify");
}

TEST_F(Unprivileged, NobodyMayNotEvictOrDrainAProgramOfRoot) {
  Daemon daemon;
  Child child(Managed(daemon, Subject("pages", {"--mib", std::to_string(kMib)})));
  WaitReady(daemon, child);
  std::string zmemctl = daemon.directory().Share("zmemd/zmemctl");
  for (const char* command : {"evict", "drain"}) {
    CommandResult result = RunCommand(
        {.argv = {zmemctl, "--socket", daemon.socket(), command, std::to_string(child.pid())},
         .uid = kNobody},
        kAnswerTimeout);
    EXPECT_EQ(result.status.ToString(), "exit 4") << command;
    EXPECT_NE(result.errors, "") << command;
  }
  EXPECT_TRUE(daemon.Attached(child.pid()));
  EXPECT_EQ(Stored(daemon, child), 0);
}

}  // namespace
}  // namespace zmem
