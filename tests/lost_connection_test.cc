// The connection between zmemd and an agent is lost while both live and pages are out. zmemd puts
// every page back and gives up the program's memory, because nobody reads the userfaultfd that the
// agent still holds: the program goes on as if there were no zmem.
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <filesystem>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "libzmem/base/sys.h"
#include "tests/system_test.h"

namespace zmem {
namespace {

using std::chrono::seconds;

constexpr int64_t kMib = 128;
constexpr int64_t kPages = kMib * 256;

// The daemon's end of its connection to the agent of `pid`; invalid if there is none.
UniqueFd Connection(const Daemon& daemon, pid_t pid) {
  UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, daemon.pid(), 0)));
  std::string directory = absl::StrCat("/proc/", daemon.pid(), "/fd");
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    int number = 0;
    if (!absl::SimpleAtoi(entry.path().filename().string(), &number)) continue;
    UniqueFd fd(static_cast<int>(syscall(SYS_pidfd_getfd, pidfd.get(), number, 0)));
    ucred peer{};
    socklen_t length = sizeof peer;
    bool is_socket = getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0;
    if (is_socket && peer.pid == pid) return fd;
  }
  return UniqueFd();
}

class LostConnection : public SystemTest {
 protected:
  void Start() {
    ChildOptions options = Managed(daemon_, Subject("pages", {"--mib", absl::StrCat(kMib)}));
    options.env["ZMEM_DAEMON_TIMEOUT"] = "2";
    child_ = std::make_unique<Child>(options);
    WaitReady(daemon_, *child_);
  }

  void Lose() {
    UniqueFd connection = Connection(daemon_, child_->pid());
    ASSERT_TRUE(connection.valid());
    ASSERT_EQ(shutdown(connection.get(), SHUT_RDWR), 0);
  }

  // Its pages are right, and what waits for the reader of a userfaultfd does not wait.
  void ExpectOnItsOwn() {
    WaitUntil("zmemd to have let go of the program", seconds(20),
              [&] { return !daemon_.FindProcess(child_->pid()).has_value(); });
    ExpectOk(*child_, "verify");
    ExpectOk(*child_, "fork");
    ExpectOk(*child_, "rewrite");
    ExpectOk(*child_, "unmap half");
    WaitPoolEmpty(daemon_);
    daemon_.Stop();
    child_->CloseInput();
    EXPECT_TRUE(child_->Wait(kAnswerTimeout).Succeeded());
    EXPECT_EQ(child_->errors(), "");
  }

  Daemon daemon_;
  std::unique_ptr<Child> child_;
};

TEST_F(LostConnection, WithEverythingOut) {
  Start();
  EvictAtLeast(daemon_, *child_, kPages * 9 / 10);
  Lose();
  ExpectOnItsOwn();
}

TEST_F(LostConnection, InTheMiddleOfAnEviction) {
  Start();
  Child eviction({.argv = {Runfile("zmemd/zmemctl"), "--socket", daemon_.socket(), "evict",
                           absl::StrCat(child_->pid())}});
  WaitUntil("the eviction to be under way", seconds(20),
            [&] { return daemon_.Process(child_->pid()).at("stored_pages") > 0; });
  Lose();
  eviction.Wait(kAnswerTimeout);
  ExpectOnItsOwn();
}

}  // namespace
}  // namespace zmem
