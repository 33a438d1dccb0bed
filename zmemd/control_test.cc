#include "zmemd/control.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace zmem {
namespace {

using nlohmann::json;

struct Pair {
  Pair() {
    int fds[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
    client.reset(fds[0]);
    server.reset(fds[1]);
  }
  UniqueFd client;
  UniqueFd server;
};

// Answers what the test puts into it.
class FakeHandler : public ControlHandler {
 public:
  absl::StatusOr<json> Handle(const ControlRequest& request, const ControlPeer& peer,
                              const ControlProgressFn& progress) override {
    ++calls;
    last_request = request;
    last_peer = peer;
    for (uint64_t done = 1; done <= progress_steps; ++done) progress({done, progress_steps});
    return answer;
  }

  absl::StatusOr<json> answer = json{{"ok", true}};
  uint64_t progress_steps = 0;
  int calls = 0;
  ControlRequest last_request;
  ControlPeer last_peer;
};

// One call against a server that runs in a thread of its own.
absl::StatusOr<json> CallServer(FakeHandler& handler, const ControlRequest& request,
                                const ControlProgressFn& progress = nullptr) {
  Pair pair;
  std::thread server([&] {
    ServeControlConnection(pair.server.get(), handler);
    pair.server.reset();
  });
  absl::StatusOr<json> answer = CallControl(pair.client.get(), request, progress);
  server.join();
  return answer;
}

void Send(int fd, absl::string_view packet) {
  ASSERT_EQ(send(fd, packet.data(), packet.size(), MSG_NOSIGNAL),
            static_cast<ssize_t>(packet.size()));
}

// What the client makes of `packets` from a server that then goes away.
absl::StatusOr<json> CallScripted(const std::vector<std::string>& packets,
                                  const ControlProgressFn& progress = nullptr) {
  Pair pair;
  std::thread server([&] {
    char request[kMaxControlRequestBytes];
    EXPECT_GT(recv(pair.server.get(), request, sizeof request, 0), 0);
    for (const std::string& packet : packets) Send(pair.server.get(), packet);
    pair.server.reset();
  });
  absl::StatusOr<json> answer = CallControl(pair.client.get(), {}, progress);
  server.join();
  return answer;
}

// The server's only packet in answer to `request`.
std::string EndFor(absl::string_view request) {
  Pair pair;
  FakeHandler handler;
  Send(pair.client.get(), request);
  ServeControlConnection(pair.server.get(), handler);
  EXPECT_EQ(handler.calls, 0);
  char packet[4096];
  ssize_t bytes = recv(pair.client.get(), packet, sizeof packet, MSG_DONTWAIT);
  return bytes < 0 ? "" : std::string(packet, static_cast<size_t>(bytes));
}

TEST(Control, ACallReachesTheHandlerAndItsAnswerTheClient) {
  FakeHandler handler;
  handler.answer = json{{"evicted_pages", 7}};
  absl::StatusOr<json> answer = CallServer(handler, {ControlCommand::kEvict, 1234});
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(*answer, *handler.answer);
  EXPECT_EQ(handler.last_request.command, ControlCommand::kEvict);
  EXPECT_EQ(handler.last_request.pid, 1234);
  EXPECT_EQ(handler.last_peer.pid, getpid());
  EXPECT_EQ(handler.last_peer.uid, getuid());
}

TEST(Control, EveryCommandHasItsWord) {
  for (auto command :
       {ControlCommand::kStatus, ControlCommand::kPs, ControlCommand::kShow, ControlCommand::kEvict,
        ControlCommand::kDrain, ControlCommand::kReload, ControlCommand::kVersion}) {
    FakeHandler handler;
    EXPECT_TRUE(CallServer(handler, {command, 5}).ok());
    EXPECT_EQ(handler.last_request.command, command);
    EXPECT_EQ(handler.last_request.pid,
              ControlCommandArgument(command) == ControlArgument::kPid ? 5 : 0);
  }
}

TEST(Control, ABigAnswerComesInFragments) {
  FakeHandler handler;
  handler.answer = json{{"text", std::string(1 << 20, 'x')}, {"last", 1}};
  absl::StatusOr<json> answer = CallServer(handler, {});
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(*answer, *handler.answer);
}

TEST(Control, ANameThatIsNotUtf8StillMakesJson) {
  FakeHandler handler;
  handler.answer = json{{"comm", "a\xff\x80z"}};
  absl::StatusOr<json> answer = CallServer(handler, {});
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ((*answer)["comm"], "a\ufffd\ufffdz");
}

TEST(Control, ProgressArrivesBeforeTheAnswer) {
  FakeHandler handler;
  handler.progress_steps = 3;
  std::vector<uint64_t> seen;
  absl::StatusOr<json> answer = CallServer(handler, {}, [&](const ControlProgress& progress) {
    EXPECT_EQ(progress.total, 3u);
    EXPECT_EQ(progress.unit, "pages");
    seen.push_back(progress.done);
  });
  EXPECT_TRUE(answer.ok());
  EXPECT_EQ(seen, (std::vector<uint64_t>{1, 2, 3}));
}

TEST(Control, AHistogramIsOfOneProcessOrOfAll) {
  for (pid_t pid : {0, 5}) {
    FakeHandler handler;
    EXPECT_TRUE(CallServer(handler, {ControlCommand::kHistogram, pid}).ok());
    EXPECT_EQ(handler.last_request.command, ControlCommand::kHistogram);
    EXPECT_EQ(handler.last_request.pid, pid);
  }
}

TEST(Control, ASettingTravelsAsItWasTyped) {
  FakeHandler handler;
  std::string value = "1\xff\"G\n";
  ControlRequest request{.command = ControlCommand::kSet, .key = "max_pool_size", .value = value};
  ASSERT_TRUE(CallServer(handler, request).ok());
  EXPECT_EQ(handler.last_request.command, ControlCommand::kSet);
  EXPECT_EQ(handler.last_request.key, "max_pool_size");
  EXPECT_EQ(handler.last_request.value, "1\xef\xbf\xbd\"G\n");  // what is not UTF-8 is replaced
}

TEST(Control, ALimitTravelsWithItsProcess) {
  FakeHandler handler;
  ControlRequest request{.command = ControlCommand::kLimit, .pid = 5, .value = "60%"};
  ASSERT_TRUE(CallServer(handler, request).ok());
  EXPECT_EQ(handler.last_request.command, ControlCommand::kLimit);
  EXPECT_EQ(handler.last_request.pid, 5);
  EXPECT_EQ(handler.last_request.value, "60%");
}

TEST(Control, ErrorsComeBackAsTheyWereGiven) {
  for (const absl::Status& status :
       {absl::PermissionDeniedError("not yours"), absl::NotFoundError("no process 7"),
        absl::InvalidArgumentError("what?"), absl::UnavailableError("stopping"),
        absl::DataLossError("a:1: x\nb:2: y")}) {
    FakeHandler handler;
    handler.answer = status;
    EXPECT_EQ(CallServer(handler, {}).status(), status);
  }
  FakeHandler handler;
  handler.answer = absl::ResourceExhaustedError("full");
  EXPECT_EQ(CallServer(handler, {}).status(), absl::UnknownError("full"));
}

TEST(Control, ExitCodesAreTheDocumentedOnes) {
  EXPECT_EQ(ControlExitCode(absl::OkStatus()), 0);
  EXPECT_EQ(ControlExitCode(absl::InternalError("")), 1);
  EXPECT_EQ(ControlExitCode(absl::InvalidArgumentError("")), 2);
  EXPECT_EQ(ControlExitCode(absl::NotFoundError("")), 3);
  EXPECT_EQ(ControlExitCode(absl::PermissionDeniedError("")), 4);
  EXPECT_EQ(ControlExitCode(absl::DataLossError("")), 6);
  EXPECT_EQ(ControlExitCode(absl::UnavailableError("")), 7);
}

TEST(ControlServer, RefusesWhatIsNoRequest) {
  for (std::string request : {"{",
                              "{}",
                              "[]",
                              "nonsense",
                              "{\"schema\":2,\"command\":\"ps\"}",
                              "{\"schema\":\"1\",\"command\":\"ps\"}",
                              "{\"schema\":1}",
                              "{\"schema\":1,\"command\":7}",
                              "{\"schema\":1,\"command\":\"histogram\",\"pid\":0}",
                              "{\"schema\":1,\"command\":\"set\"}",
                              "{\"schema\":1,\"command\":\"set\",\"key\":7,\"value\":7}",
                              "{\"schema\":1,\"command\":\"explode\"}",
                              "{\"schema\":1,\"command\":\"show\"}",
                              "{\"schema\":1,\"command\":\"show\",\"pid\":\"7\"}",
                              "{\"schema\":1,\"command\":\"show\",\"pid\":-7}",
                              "{\"schema\":1,\"command\":\"limit\",\"value\":\"1G\"}",
                              "{\"schema\":1,\"command\":\"show\",\"pid\":0}",
                              "{\"schema\":1,\"command\":\"show\",\"pid\":4294967297}",
                              "{\"schema\":1,\"command\":\"show\",\"pid\":18446744073709551615}",
                              "{\"schema\":1,\"command\":\"show\",\"pid\":1e99}"}) {
    std::string end = EndFor(request);
    ASSERT_FALSE(end.empty()) << request;
    EXPECT_EQ(end[0], 'E') << request;
    EXPECT_EQ(json::parse(end.substr(1))["exit_code"], 2) << request << " " << end;
  }
  EXPECT_TRUE(absl::StrContains(EndFor(std::string(4096, '[')), "not a request"));
}

TEST(ControlServer, RefusesAnOverlongRequest) {
  std::string request = R"({"schema":1,"command":"ps","x":")" + std::string(5000, 'x') + "\"}";
  EXPECT_TRUE(absl::StrContains(EndFor(request), "at most 4096 are allowed"));
}

TEST(ControlServer, ReturnsWhenTheClientSaysNothing) {
  Pair pair;
  FakeHandler handler;
  ControlTimeouts timeouts;
  timeouts.request_ms = 1;
  ServeControlConnection(pair.server.get(), handler, timeouts);
  pair.client.reset();
  ServeControlConnection(pair.server.get(), handler);
  EXPECT_EQ(handler.calls, 0);
}

TEST(ControlServer, ReturnsWhenTheClientStopsReading) {
  Pair pair;
  FakeHandler handler;
  handler.answer = json(std::string(8 << 20, 'x'));
  handler.progress_steps = 5'000;  // more than the socket holds; must be dropped, not waited for
  ControlTimeouts timeouts;
  timeouts.packet_ms = 10;
  Send(pair.client.get(), R"({"schema":1,"command":"ps"})");
  ServeControlConnection(pair.server.get(), handler, timeouts);
  EXPECT_EQ(handler.calls, 1);
}

TEST(ControlServer, ReturnsWhenTheClientVanishes) {
  Pair pair;
  FakeHandler handler;
  handler.progress_steps = 3;
  Send(pair.client.get(), R"({"schema":1,"command":"ps"})");
  pair.client.reset();
  ServeControlConnection(pair.server.get(), handler);
  EXPECT_EQ(handler.calls, 1);
}

TEST(ControlClient, AVanishedServerIsUnavailable) {
  EXPECT_TRUE(absl::IsUnavailable(CallScripted({}).status()));
  EXPECT_TRUE(absl::IsUnavailable(CallScripted({"D{\"a\":"}).status()));
  Pair pair;
  pair.server.reset();
  EXPECT_TRUE(absl::IsUnavailable(CallControl(pair.client.get(), {}, nullptr).status()));
}

TEST(ControlClient, ASilentServerIsGivenUp) {
  Pair pair;
  absl::Status status = CallControl(pair.client.get(), {}, nullptr, /*silence_ms=*/1).status();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
}

TEST(ControlClient, WhatIsNotInTheProtocolIsAnError) {
  const std::vector<std::vector<std::string>> scripts = {
      {"X{}"},
      {std::string(1, '\0')},
      {"E"},
      {"E[]"},
      {"E{\"exit_code\":\"0\"}"},
      {"E{\"exit_code\":-1}"},
      {"Pnonsense"},
      {"P[]"},
      {"E{\"exit_code\":0}"},
      {"D{\"half\":", "E{\"exit_code\":0}"},
      {"D\xff\xfe", "E{\"exit_code\":0}"},
      {"D" + std::string(64 << 10, ' '), "D{}", "E{\"exit_code\":0}"},
  };
  for (const auto& script : scripts) {
    absl::Status status = CallScripted(script).status();
    EXPECT_TRUE(absl::IsInternal(status)) << script[0].substr(0, 40) << ": " << status;
  }
}

TEST(ControlClient, AnErrorWithoutAMessageStillHasOne) {
  EXPECT_EQ(CallScripted({"E{\"exit_code\":4}"}).status(),
            absl::PermissionDeniedError("zmemd failed and did not say why"));
}

TEST(ControlClient, UnknownFieldsAndOddProgressAreHarmless) {
  std::vector<uint64_t> done;
  absl::StatusOr<json> answer =
      CallScripted({"P{\"done\":-3,\"total\":null,\"unit\":7}", "D{}", "P{\"done\":9}",
                    "E{\"exit_code\":0,\"more\":[1]}"},
                   [&](const ControlProgress& progress) { done.push_back(progress.done); });
  EXPECT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(done, (std::vector<uint64_t>{0, 9}));
}

TEST(ControlClient, NobodyListening) {
  char directory[] = "/tmp/zmem-XXXXXX";  // a socket's path must be short
  ASSERT_NE(mkdtemp(directory), nullptr);
  std::string path = absl::StrCat(directory, "/zmemd.sock");
  absl::Status status = ConnectControl(path).status();
  EXPECT_EQ(status,
            absl::UnavailableError(absl::StrCat("no zmemd is listening at ", path,
                                                "; start zmemd or name its socket with --socket")));
  UniqueFd plain_file(open(path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600));
  EXPECT_TRUE(absl::IsUnavailable(ConnectControl(path).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(ConnectControl("").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(ConnectControl(std::string(108, 'x')).status()));
  std::filesystem::remove_all(directory);
}

}  // namespace
}  // namespace zmem
