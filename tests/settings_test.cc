// What programs are promised, from their environment, zmemctl and the configuration to a running
// program, and how all that changes when the configuration is read again.
#include <sys/socket.h>
#include <sys/un.h>

#include <csignal>
#include <cstring>
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "libzmem/base/sys.h"
#include "tests/system_test.h"

namespace zmem {
namespace {

using nlohmann::json;

constexpr uid_t kNobody = 65534;
constexpr int64_t kMib = 1 << 20;
constexpr int64_t kPages = 24 * 256;  // of the subject

using Settings = SystemTest;

std::vector<std::string> Pages() { return Subject("pages", {"--mib", "24"}); }

ChildOptions ManagedWith(const Daemon& daemon, const std::string& variable,
                         const std::string& value) {
  ChildOptions options = Managed(daemon, Pages());
  options.env[variable] = value;
  return options;
}

void Configure(const Daemon& daemon, const std::string& more) {
  daemon.directory().Write("zmemd.conf", kEvictByHand + more);
}

json Show(const Daemon& daemon, const Child& child) {
  return daemon.CtlJson({"show", std::to_string(child.pid()), "--json"});
}

void ExpectLimit(const Daemon& daemon, const Child& child, int64_t mib, const char* source) {
  json shown = Show(daemon, child);
  EXPECT_EQ(shown.at("limit_bytes"), mib * kMib);
  EXPECT_EQ(shown.at("limit_source"), source);
}

// zmemctl as nobody, who cannot reach what was built.
CommandResult CtlAsNobody(const Daemon& daemon, std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(),
                   {daemon.directory().Share("zmemd/zmemctl"), "--socket", daemon.socket()});
  return RunCommand({.argv = arguments, .uid = kNobody}, kAnswerTimeout);
}

bool HasAgent(pid_t pid) {
  for (const auto& task :
       std::filesystem::directory_iterator(absl::StrCat("/proc/", pid, "/task"))) {
    std::string name;
    if (sys::ReadFile(task.path().string() + "/comm", name).ok() && name == "zmem-agent\n") {
      return true;
    }
  }
  return false;
}

TEST_F(Settings, AProgramMayLimitItself) {
  Daemon daemon;
  Child child(ManagedWith(daemon, "ZMEM_LIMIT", "20M"));
  WaitReady(daemon, child);
  ExpectLimit(daemon, child, 20, "environment");
  std::string pid = std::to_string(child.pid());
  EXPECT_TRUE(daemon.Ctl({"limit", pid, "300M"}).status.Succeeded());
  ExpectLimit(daemon, child, 300, "root");
  CommandResult refused = daemon.Ctl({"limit", pid, "1M"});
  EXPECT_EQ(refused.status.ToString(), "exit 1");
  EXPECT_TRUE(absl::StrContains(refused.errors, "of its memory must stay")) << refused.errors;
  EXPECT_EQ(daemon.Ctl({"limit", pid, "lots"}).status.ToString(), "exit 2");
  ExpectLimit(daemon, child, 300, "root");
  EXPECT_TRUE(daemon.Ctl({"limit", pid, "none"}).status.Succeeded());
  ExpectLimit(daemon, child, 0, "root");
  ExpectOk(child, "verify");
}

// What is to come back altogether is not held up by the limit.
TEST_F(Settings, ALimitDoesNotStandInTheWayOfThawAndStop) {
  Daemon daemon;
  Child child(ManagedWith(daemon, "ZMEM_LIMIT", "20M"));
  WaitReady(daemon, child);
  auto out = [&] { return Show(daemon, child).at("stored_pages").get<int64_t>(); };
  auto wait_until_limited = [&] {
    WaitUntil("pages to go out", std::chrono::seconds(20), [&] { return out() > 0; });
  };
  wait_until_limited();
  std::string pid = std::to_string(child.pid());
  CommandResult thawed = daemon.Ctl({"thaw", pid});
  EXPECT_TRUE(thawed.status.Succeeded()) << thawed.errors;
  EXPECT_EQ(out(), 0);
  EXPECT_TRUE(daemon.Ctl({"freeze", pid}).status.Succeeded());
  wait_until_limited();
  daemon.Stop();
  ExpectOk(child, "verify");
}

TEST_F(Settings, ALimitThatCannotBeKeptIsRaised) {
  Daemon daemon;
  Child child(ManagedWith(daemon, "ZMEM_LIMIT", "1K"));
  WaitReady(daemon, child);
  int64_t limit = Show(daemon, child).at("limit_bytes");
  EXPECT_GT(limit, kMib);
  EXPECT_LT(limit, 24 * kMib);
  EXPECT_TRUE(absl::StrContains(daemon.log(), "its limit of 1.00 KiB (environment) is raised to"))
      << daemon.log();
}

TEST_F(Settings, ALimitThatIsNoneIsSaidAndEndsWhatRequiresIt) {
  Daemon daemon;
  for (const char* nonsense : {"lots", "0", "0%", "101%", "5%%", "12Q", "%"}) {
    Child child(ManagedWith(daemon, "ZMEM_LIMIT", nonsense));
    EXPECT_EQ(child.ReadLine(kAnswerTimeout), "ready");
    EXPECT_TRUE(absl::StrContains(child.errors(), "ZMEM_LIMIT takes a size")) << nonsense;
  }
  ChildOptions required = ManagedWith(daemon, "ZMEM_LIMIT", "lots");
  required.env["ZMEM_REQUIRED"] = "1";
  Child child(required);
  EXPECT_EQ(child.Wait(kAnswerTimeout).ToString(), "exit 69");
}

TEST_F(Settings, AnExcludedProgramIsRefusedAndOneThatWasManagedIsLetGo) {
  const std::string excluded = "[program \"pages\"]\nmanaged=no\n";
  Daemon daemon({.config = kEvictByHand + excluded});
  {
    Child child(Managed(daemon, Pages()));
    WaitUntil("the program to be told", kAnswerTimeout, [&] {
      return absl::StrContains(child.errors(), "managed=no in [program \"pages\"]");
    });
    WaitUntil("its agent to end", kAnswerTimeout, [&] { return !HasAgent(child.pid()); });
    EXPECT_FALSE(daemon.Attached(child.pid()));
  }
  Configure(daemon, "");
  EXPECT_TRUE(daemon.Ctl({"reload"}).status.Succeeded());
  Child child(Managed(daemon, Pages()));
  WaitReady(daemon, child);
  EvictAtLeast(daemon, child, kPages * 9 / 10);
  Configure(daemon, excluded);
  json reloaded = daemon.CtlJson({"reload", "--json"});
  EXPECT_EQ(reloaded.at("let_go"), json::array({child.pid()}));
  WaitPoolEmpty(daemon);
  WaitUntil("its agent to end", kAnswerTimeout, [&] { return !HasAgent(child.pid()); });
  EXPECT_FALSE(daemon.Attached(child.pid()));
  ExpectOk(child, "verify");
}

TEST_F(Settings, AProgramMayHaveACodecOfItsOwn) {
  Daemon daemon({.config = std::string(kEvictByHand) +
                           "[pool]\ncompressor=lz4\n[program \"pages\"]\ncompressor=zstd\n"});
  Child child(Managed(daemon, Pages()));
  WaitReady(daemon, child);
  EXPECT_EQ(Show(daemon, child).at("algorithm"), "zstd");
  EvictAtLeast(daemon, child, kPages * 9 / 10);
  int64_t zstd_bytes = Show(daemon, child).at("compressed_bytes");
  ExpectOk(child, "verify");
  Configure(daemon, "[pool]\ncompressor=lz4\n");
  ASSERT_TRUE(daemon.Ctl({"reload"}).status.Succeeded());
  EXPECT_EQ(Show(daemon, child).at("algorithm"), "lz4");
  ExpectOk(child, "rewrite");
  EvictAtLeast(daemon, child, kPages * 9 / 10);
  EXPECT_GT(Show(daemon, child).at("compressed_bytes"), zstd_bytes * 11 / 10);
  ExpectOk(child, "verify");
}

TEST_F(Settings, ReadingTheConfigurationAgainChangesWhatRunsUnlessThereAreMistakes) {
  Daemon daemon;
  Child child(Managed(daemon, Pages()));
  WaitReady(daemon, child);
  ExpectLimit(daemon, child, 0, "none");
  ASSERT_TRUE(daemon.Ctl({"set", "max_pool_percent", "50"}).status.Succeeded());

  Configure(daemon, "limit=100M\n[pool]\nmax_pool_size=64M\n[backing]\nsize=1G\n");
  daemon.child().Signal(SIGHUP);
  WaitUntil("the limit to change", kAnswerTimeout,
            [&] { return Show(daemon, child).at("limit_bytes") == 100 * kMib; });
  ExpectLimit(daemon, child, 100, "configuration");
  EXPECT_EQ(daemon.Status().at("pool").at("limit_bytes"), 64 * kMib);
  EXPECT_TRUE(absl::StrContains(daemon.log(), "[backing] size has changed, which needs a restart"))
      << daemon.log();

  ASSERT_TRUE(daemon.Ctl({"set", "max_pool_size", "32M"}).status.Succeeded());
  Configure(daemon, "limit=90M\nlimt=80M\n[pool]\nmax_pool_size=0%\nmax_pool_percent=0\n");
  CommandResult broken = daemon.Ctl({"reload"});
  EXPECT_EQ(broken.status.ToString(), "exit 6");
  std::string file = daemon.directory().File("zmemd.conf");
  for (const char* line : {":6: unknown key \"limt\"", ":9: max_pool_percent: \"0\" is not"}) {
    EXPECT_TRUE(absl::StrContains(broken.errors, absl::StrCat("zmemctl: ", file, line)))
        << broken.errors;
  }
  daemon.child().Signal(SIGHUP);
  WaitUntil("the mistakes to be told twice", kAnswerTimeout, [&] {
    return absl::StrContains(daemon.log().substr(daemon.log().find("stays as it is") + 1),
                             "stays as it is");
  });
  ExpectLimit(daemon, child, 100, "configuration");
  EXPECT_EQ(daemon.Status().at("pool").at("limit_bytes"), 32 * kMib);

  Configure(daemon, "mode=pressure\n[program \"pages\"]\nlimit=80M\nstall_target_percent=3\n");
  json reloaded = daemon.CtlJson({"reload", "--json"});
  EXPECT_EQ(reloaded.at("overwritten"), json::array({"max_pool_size"}));
  EXPECT_EQ(reloaded.at("needs_restart"), json::array());
  ExpectLimit(daemon, child, 80, "configuration");
  EXPECT_EQ(Show(daemon, child).at("stall_target_percent"), 3.0);
  EXPECT_EQ(Show(daemon, child).at("mode"), "pressure");
  EXPECT_EQ(daemon.Status().at("host").at("reclaim_mode"), "pressure");
  EXPECT_GT(daemon.Status().at("pool").at("limit_bytes"), 64 * kMib);
}

TEST_F(Settings, WhoIsNotRootMayOnlyLimitHisOwnAndOnlyFurther) {
  Daemon daemon({.config = std::string(kEvictByHand) + "limit=100M\n"});
  Child of_root(Managed(daemon, Pages()));
  WaitReady(daemon, of_root);
  ChildOptions options =
      Managed(daemon, {daemon.directory().Share("tests/programs/pages"), "--mib", "24"});
  options.uid = kNobody;
  Child own(options);
  WaitReady(daemon, own);

  std::string pid = std::to_string(own.pid());
  auto exit_of = [&](std::vector<std::string> arguments) {
    return CtlAsNobody(daemon, std::move(arguments)).status.ToString();
  };
  EXPECT_EQ(exit_of({"limit", std::to_string(of_root.pid()), "50M"}), "exit 4");
  EXPECT_EQ(exit_of({"reload"}), "exit 4");
  EXPECT_EQ(exit_of({"limit", pid, "50M"}), "exit 0");
  ExpectLimit(daemon, own, 50, "owner");
  for (const char* more : {"101M", "none"}) {
    CommandResult result = CtlAsNobody(daemon, {"limit", pid, more});
    EXPECT_EQ(result.status.ToString(), "exit 4");
    EXPECT_TRUE(absl::StrContains(result.errors, "gives it 100.0 MiB")) << result.errors;
  }
  ExpectLimit(daemon, own, 50, "owner");
  ExpectLimit(daemon, of_root, 100, "configuration");
  EXPECT_TRUE(daemon.Ctl({"limit", pid, "300M"}).status.Succeeded());
  EXPECT_EQ(exit_of({"limit", pid, "50M"}), "exit 4");
  ExpectLimit(daemon, own, 300, "root");
}

// A socket on which a service manager listens (sd_notify(3)).
class NotifySocket {
 public:
  explicit NotifySocket(const std::string& path)
      : fd_(CheckErrno(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket")) {
    sockaddr_un address{.sun_family = AF_UNIX};
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    CheckErrno(bind(fd_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), "bind");
  }
  // The next message; empty if none comes.
  std::string Next() {
    pollfd readable{fd_.get(), POLLIN, 0};
    char text[512];
    if (sys::Poll(&readable, 1, 20'000) <= 0) return "";
    ssize_t bytes = recv(fd_.get(), text, sizeof text, 0);
    return bytes < 0 ? "" : std::string(text, static_cast<size_t>(bytes));
  }

 private:
  UniqueFd fd_;
};

TEST_F(Settings, TheServiceManagerIsToldOfAReload) {
  TempDir directory;
  NotifySocket manager(directory.File("notify"));
  std::string config = directory.Write("zmemd.conf", "");
  Child daemon({.argv = {Runfile("zmemd/zmemd"), "--config", config, "--socket",
                         directory.File("zmemd.sock")},
                .env = {{"NOTIFY_SOCKET", directory.File("notify")}}});
  EXPECT_EQ(manager.Next(), "READY=1");
  for (const char* text : {"", "nonsense"}) {
    directory.Write("zmemd.conf", text);
    daemon.Signal(SIGHUP);
    EXPECT_TRUE(absl::StartsWith(manager.Next(), "RELOADING=1\nMONOTONIC_USEC="));
    EXPECT_EQ(manager.Next(), "READY=1");
  }
  daemon.Signal(SIGTERM);
  EXPECT_EQ(manager.Next(), "STOPPING=1");
  EXPECT_TRUE(daemon.Wait(kAnswerTimeout).Succeeded());
}

}  // namespace
}  // namespace zmem
