#include "tests/redis.h"

#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "tests/documents.h"

namespace zmem {
namespace {

constexpr std::chrono::seconds kStartTimeout{10};
constexpr std::chrono::seconds kStopTimeout{60};
constexpr size_t kReadBytes = 256 << 10;
// Pipelined commands in flight: enough to hide the round trips, few enough for the buffers.
constexpr size_t kPipeline = 32;

std::string SocketIn(const TempDir& directory) { return directory.File("redis.sock"); }

std::vector<std::string> Arguments(const TempDir& directory) {
  return {"redis-server",
          "--port",
          "0",
          "--unixsocket",
          SocketIn(directory),
          "--save",
          "",
          "--appendonly",
          "no",
          "--enable-debug-command",
          "yes",
          "--dir",
          directory.path()};
}

}  // namespace

RedisClient::RedisClient(const std::string& path)
    : fd_(CheckErrno(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket")) {
  sockaddr_un address{.sun_family = AF_UNIX};
  if (path.size() >= sizeof address.sun_path) throw HarnessError("socket path too long: " + path);
  std::strcpy(address.sun_path, path.c_str());
  timeval timeout{.tv_sec = 60};
  CheckErrno(setsockopt(fd_.get(), SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout),
             "setsockopt");
  CheckErrno(connect(fd_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address),
             "connect to redis at " + path);
}

void RedisClient::Send(const std::vector<std::string>& arguments) {
  absl::StrAppend(&unsent_, "*", arguments.size(), "\r\n");
  for (const std::string& argument : arguments) {
    absl::StrAppend(&unsent_, "$", argument.size(), "\r\n", argument, "\r\n");
  }
}

void RedisClient::Flush() {
  size_t sent = 0;
  while (sent < unsent_.size()) {
    sent += static_cast<size_t>(
        CheckErrno(send(fd_.get(), unsent_.data() + sent, unsent_.size() - sent, MSG_NOSIGNAL),
                   "send to redis"));
  }
  unsent_.clear();
}

std::optional<std::string> RedisClient::Receive() {
  Flush();
  if (consumed_ > kReadBytes) {
    received_.erase(0, consumed_);
    consumed_ = 0;
  }
  std::string line = ReadLine();
  if (line.empty()) throw HarnessError("redis sent an empty reply");
  char kind = line[0];
  std::string rest = line.substr(1);
  if (kind == '-') throw HarnessError("redis: " + rest);
  if (kind == '+' || kind == ':') return rest;
  int64_t bytes = 0;
  if (kind != '$' || !absl::SimpleAtoi(rest, &bytes)) {
    throw HarnessError("redis sent a reply we do not know: " + line);
  }
  if (bytes < 0) return std::nullopt;
  size_t end = consumed_ + static_cast<size_t>(bytes) + 2;
  while (received_.size() < end) ReadMore();
  std::string value = received_.substr(consumed_, static_cast<size_t>(bytes));
  consumed_ = end;
  return value;
}

std::optional<std::string> RedisClient::Call(const std::vector<std::string>& arguments) {
  Send(arguments);
  return Receive();
}

std::string RedisClient::ReadLine() {
  size_t end;
  while ((end = received_.find("\r\n", consumed_)) == std::string::npos) ReadMore();
  std::string line = received_.substr(consumed_, end - consumed_);
  consumed_ = end + 2;
  return line;
}

void RedisClient::ReadMore() {
  size_t before = received_.size();
  received_.resize(before + kReadBytes);
  ssize_t bytes = recv(fd_.get(), received_.data() + before, kReadBytes, 0);
  received_.resize(before + static_cast<size_t>(std::max<ssize_t>(bytes, 0)));
  if (bytes == 0) throw HarnessError("redis closed the connection");
  CheckErrno(bytes, "receive from redis");
}

RedisServer::RedisServer(const Daemon& daemon) : socket_(SocketIn(daemon.directory())) {
  ChildOptions options = Managed(daemon, Arguments(daemon.directory()));
  options.env.erase("ZMEM_MIN_RESIDENT");  // as for any program, the daemon's configuration decides
  Start(options);
}

RedisServer::RedisServer(const TempDir& directory) : socket_(SocketIn(directory)) {
  Start({.argv = Arguments(directory)});
}

void RedisServer::Start(const ChildOptions& options) {
  child_ = std::make_unique<Child>(options);
  WaitUntil("redis-server to accept", kStartTimeout, [this] {
    if (!child_->Running()) {
      throw HarnessError(
          absl::StrCat("redis-server ended at its start: ", child_->output(), child_->errors()));
    }
    try {
      return RedisClient(socket_).Call({"PING"}) == "PONG";
    } catch (const HarnessError&) {
      return false;  // not yet
    }
  });
}

void RedisServer::Stop() {
  RedisClient client(socket_);
  client.Send({"SHUTDOWN", "NOSAVE"});
  client.Flush();
  ExitStatus status = child_->Wait(kStopTimeout);
  if (!status.Succeeded()) throw HarnessError("redis-server ended with " + status.ToString());
}

int64_t LoadDocuments(RedisClient& client, uint64_t first, uint64_t last) {
  uint64_t replies = first;
  int64_t bytes = 0;
  for (uint64_t index = first; index < last; ++index) {
    std::string document = Document(index);
    bytes += static_cast<int64_t>(document.size());
    client.Send({"SET", DocumentKey(index), document});
    if (index + 1 - replies < kPipeline) continue;
    for (; replies <= index; ++replies) client.Receive();
  }
  for (; replies < last; ++replies) client.Receive();
  return bytes;
}

std::vector<std::string> WrongDocuments(RedisClient& client, const std::vector<uint64_t>& indices) {
  std::vector<std::string> wrong;
  for (size_t start = 0; start < indices.size(); start += kPipeline) {
    size_t end = std::min(start + kPipeline, indices.size());
    for (size_t at = start; at < end; ++at) client.Send({"GET", DocumentKey(indices[at])});
    for (size_t at = start; at < end; ++at) {
      if (client.Receive() != Document(indices[at])) wrong.push_back(DocumentKey(indices[at]));
    }
  }
  return wrong;
}

}  // namespace zmem
