// Runs the zmemctl command itself against a zmemd that this test plays.
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "zmemd/control.h"

namespace zmem {
namespace {

using nlohmann::json;

struct Result {
  int exit_code = -1;
  std::string out;
  std::string err;
};

class FakeHandler : public ControlHandler {
 public:
  absl::StatusOr<json> Handle(const ControlRequest& request, const ControlPeer&,
                              const ControlProgressFn& progress) override {
    if (request.command == ControlCommand::kReload) return absl::DataLossError("a:1: x\nb:2: \x1b");
    if (request.pid == 404) return absl::NotFoundError("process 404 is not managed");
    if (request.pid == 403) return absl::PermissionDeniedError("process 403 is not yours");
    progress({1, 2});
    if (request.value == "nonsense") return absl::InvalidArgumentError("that is nonsense");
    switch (request.command) {
      case ControlCommand::kSet:
        return json{
            {"key", request.key}, {"value", request.value}, {"limit_bytes", uint64_t{1} << 30}};
      case ControlCommand::kPs:
        return json::array({{{"pid", 7}, {"comm", "a\x1b[1m"}}});
      case ControlCommand::kEvict:
        return json{{"evicted_pages", 3}};
      default:
        return json{{"word", std::string(ControlCommandName(request.command))}};
    }
  }
};

class ZmemctlTest : public testing::Test {
 protected:
  ZmemctlTest() {
    EXPECT_NE(mkdtemp(directory_), nullptr);
    socket_path_ = absl::StrCat(directory_, "/zmemd.sock");
  }
  ~ZmemctlTest() override { std::filesystem::remove_all(directory_); }

  void Listen() {
    listener_.reset(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    socket_path_.copy(address.sun_path, sizeof address.sun_path - 1);
    ASSERT_EQ(bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    ASSERT_EQ(listen(listener_.get(), 1), 0);
  }

  // Runs zmemctl with `arguments`, as a shell splits them, and `environment` before it.
  Result Run(const std::string& arguments, const std::string& environment) {
    std::string errors = absl::StrCat(directory_, "/stderr");
    std::string command =
        absl::StrCat(environment, " zmemd/zmemctl ", arguments, " 2>", errors, " </dev/null");
    Result result;
    FILE* out = popen(command.c_str(), "re");
    char buffer[4096];
    for (size_t bytes; (bytes = fread(buffer, 1, sizeof buffer, out)) > 0;) {
      result.out.append(buffer, bytes);
    }
    int status = pclose(out);
    if (WIFEXITED(status)) result.exit_code = WEXITSTATUS(status);
    EXPECT_TRUE(sys::ReadFile(errors, result.err).ok());
    return result;
  }
  Result Run(const std::string& arguments) {
    return Run(arguments, absl::StrCat("ZMEM_SOCKET=", socket_path_));
  }

  // As Run, with a zmemd that serves one connection with `serve`.
  Result RunServed(const std::string& arguments, const std::function<void(int)>& serve) {
    if (!listener_.valid()) Listen();
    std::thread server([&] {
      UniqueFd connection(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      serve(connection.get());
    });
    Result result = Run(arguments);
    server.join();
    return result;
  }
  Result RunServed(const std::string& arguments) {
    return RunServed(arguments, [](int fd) {
      FakeHandler handler;
      ServeControlConnection(fd, handler);
    });
  }

  char directory_[32] = "/tmp/zmemctl-XXXXXX";  // a socket's path must be short
  std::string socket_path_;
  UniqueFd listener_;
};

TEST_F(ZmemctlTest, PrintsATableForPeople) {
  Result result = RunServed("ps");
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_TRUE(absl::StartsWith(result.out, "PID  COMM      ALGORITHM ")) << result.out;
  EXPECT_TRUE(absl::StrContains(result.out, "a\\x1b[1m")) << result.out;
  EXPECT_EQ(result.err, "");
}

TEST_F(ZmemctlTest, PrintsJsonWhereverTheFlagStands) {
  for (const char* arguments : {"--json ps", "ps --json"}) {
    Result result = RunServed(arguments);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_EQ(json::parse(result.out, nullptr, false),
              json::array({{{"pid", 7}, {"comm", "a\x1b[1m"}}}));
  }
}

TEST_F(ZmemctlTest, EveryCommandReachesTheDaemon) {
  for (const char* word : {"status", "version", "show", "drain"}) {
    bool takes_pid = word[0] == 's' ? word[1] == 'h' : word[0] == 'd';
    Result result = RunServed(absl::StrCat(word, takes_pid ? " 5" : "", " --json"));
    EXPECT_EQ(json::parse(result.out, nullptr, false), (json{{"word", word}})) << result.err;
  }
  EXPECT_TRUE(absl::StartsWith(RunServed("evict 5").out, "5: 3 pages (12.00 KiB) taken out"));
}

TEST_F(ZmemctlTest, ASettingReachesTheDaemonAndItsMeaningTheUser) {
  Result result = RunServed("set max_pool_size 1G");
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.out,
            "max_pool_size=1G: the pool holds 0 B of its limit of 1.00 GiB; once full it accepts "
            "pages again at 0 B\n");
  EXPECT_EQ(RunServed("set max_pool_size nonsense").exit_code, 2);
}

TEST_F(ZmemctlTest, TheOptionOverridesTheEnvironment) {
  Listen();
  UniqueFd keep = std::move(listener_);
  Result result = Run(absl::StrCat("status --socket ", directory_, "/other"));
  EXPECT_EQ(result.exit_code, 7);
  EXPECT_TRUE(absl::StrContains(result.err, "/other;")) << result.err;
}

TEST_F(ZmemctlTest, NoDaemonIsSeven) {
  Result result = Run("status");
  EXPECT_EQ(result.exit_code, 7);
  EXPECT_EQ(result.out, "");
  EXPECT_EQ(result.err, absl::StrCat("zmemctl: no zmemd is listening at ", socket_path_,
                                     "; start zmemd or name its socket with --socket\n"));
}

TEST_F(ZmemctlTest, ADaemonThatGoesAwayIsSeven) {
  EXPECT_EQ(RunServed("evict 5", [](int) {}).exit_code, 7);
}

TEST_F(ZmemctlTest, UnknownPidsAreThreeAndForbiddenOnesFour) {
  Result unknown = RunServed("show 404");
  EXPECT_EQ(unknown.exit_code, 3);
  EXPECT_EQ(unknown.err, "zmemctl: process 404 is not managed\n");
  EXPECT_EQ(RunServed("drain 403").exit_code, 4);
}

TEST_F(ZmemctlTest, MistakesInTheConfigurationAreSixAndALineEach) {
  Result result = RunServed("reload");
  EXPECT_EQ(result.exit_code, 6);
  EXPECT_EQ(result.err, "zmemctl: a:1: x\nzmemctl: b:2: \\x1b\n");
}

TEST_F(ZmemctlTest, ASocketThatMayNotBeUsedIsFour) {
  Listen();
  ASSERT_EQ(chmod(socket_path_.c_str(), 0), 0);
  if (getuid() == 0) GTEST_SKIP() << "root may use every socket";
  EXPECT_EQ(Run("status").exit_code, 4);
}

TEST_F(ZmemctlTest, UsageErrorsAreTwoAndOneLine) {
  for (const char* arguments :
       {"", "explode", "show", "show abc", "evict 0", "evict -- -5", "status extra", "--explode",
        "status ps", "--socket", "set", "set max_pool_size", "limit", "limit 7", "limit x 1G"}) {
    Result result = Run(arguments);
    EXPECT_EQ(result.exit_code, 2) << arguments;
    EXPECT_TRUE(absl::StartsWith(result.err, "zmemctl: ")) << result.err;
    EXPECT_TRUE(absl::EndsWith(result.err, "; see zmemctl --help\n")) << result.err;
    EXPECT_EQ(result.err.find('\n'), result.err.size() - 1) << result.err;
  }
}

TEST_F(ZmemctlTest, HelpHasExamplesAndExitCodes) {
  Result result = Run("--help");
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_TRUE(absl::StrContains(result.out, "zmemctl evict $(pidof"));
  EXPECT_TRUE(absl::StrContains(result.out, "zmemctl limit 1234 60%"));
  EXPECT_TRUE(absl::StrContains(result.out, "7 no daemon"));
}

TEST_F(ZmemctlTest, AnAnswerThatCannotBeWrittenIsAnError) {
  Result result = RunServed("version >/dev/full");
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_EQ(result.err, "zmemctl: cannot write the answer: No space left on device\n");
}

}  // namespace
}  // namespace zmem
