// memcached: every value is read back right, again and again, while others are written.
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "libzmem/base/sys.h"
#include "tests/documents.h"
#include "tests/real_programs/program.h"

namespace zmem {
namespace {

using std::chrono::seconds;

constexpr seconds kTimeout{60};
constexpr uint64_t kDocuments = 25'000;  // about 90 MB
constexpr uint64_t kBriefDocuments = 8'000;
constexpr uint64_t kPipeline = 32;

// Speaks the text protocol (memcached's doc/protocol.txt).
class Client {
 public:
  explicit Client(const std::string& path)
      : fd_(CheckErrno(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket")) {
    sockaddr_un address{.sun_family = AF_UNIX};
    if (path.size() >= sizeof address.sun_path) throw HarnessError("socket path too long: " + path);
    std::strcpy(address.sun_path, path.c_str());
    timeval timeout{.tv_sec = kTimeout.count()};
    CheckErrno(setsockopt(fd_.get(), SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout),
               "setsockopt");
    CheckErrno(connect(fd_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address),
               "connect to memcached at " + path);
  }

  void Send(const std::string& text) {
    for (size_t sent = 0; sent < text.size();) {
      sent += static_cast<size_t>(
          CheckErrno(send(fd_.get(), text.data() + sent, text.size() - sent, MSG_NOSIGNAL),
                     "send to memcached"));
    }
  }

  std::string ReadLine() {
    size_t end;
    while ((end = received_.find("\r\n")) == std::string::npos) ReadMore();
    return Take(end);
  }

  // The value of one `get`, or nothing if there is none.
  std::optional<std::string> ReadValue() {
    std::string line = ReadLine();
    if (line == "END") return std::nullopt;
    std::vector<std::string> words = absl::StrSplit(line, ' ');
    size_t bytes = 0;
    if (words.size() != 4 || words[0] != "VALUE" || !absl::SimpleAtoi(words[3], &bytes)) {
      throw HarnessError("memcached answered " + line);
    }
    while (received_.size() < bytes + 2) ReadMore();
    std::string value = Take(bytes);
    if (ReadLine() != "END") throw HarnessError("memcached sent more than one value");
    return value;
  }

 private:
  // The first `bytes` that came, which a line end follows.
  std::string Take(size_t bytes) {
    std::string text = received_.substr(0, bytes);
    received_.erase(0, bytes + 2);
    return text;
  }

  void ReadMore() {
    char buffer[64 << 10];
    ssize_t bytes = CheckErrno(recv(fd_.get(), buffer, sizeof buffer, 0), "receive from memcached");
    if (bytes == 0) throw HarnessError("memcached closed the connection");
    received_.append(buffer, static_cast<size_t>(bytes));
  }

  UniqueFd fd_;
  std::string received_;
};

// Each key gets the document of another number: `shift` tells the generations apart.
void Store(Client& client, uint64_t first, uint64_t last, uint64_t shift) {
  for (uint64_t start = first; start < last; start += kPipeline) {
    uint64_t end = std::min(start + kPipeline, last);
    std::string commands;
    for (uint64_t i = start; i < end; ++i) {
      std::string value = Document(i + shift);
      absl::StrAppend(&commands, "set ", DocumentKey(i), " 0 0 ", value.size(), "\r\n", value,
                      "\r\n");
    }
    client.Send(commands);
    for (uint64_t i = start; i < end; ++i) {
      std::string answer = client.ReadLine();
      if (answer != "STORED") throw HarnessError("memcached answered " + answer);
    }
  }
}

void Check(Client& client, uint64_t first, uint64_t last, uint64_t shift) {
  for (uint64_t start = first; start < last; start += kPipeline) {
    uint64_t end = std::min(start + kPipeline, last);
    std::string commands;
    for (uint64_t i = start; i < end; ++i) {
      absl::StrAppend(&commands, "get ", DocumentKey(i), "\r\n");
    }
    client.Send(commands);
    for (uint64_t i = start; i < end; ++i) {
      if (client.ReadValue() != Document(i + shift)) {
        throw HarnessError("memcached lost or changed " + DocumentKey(i));
      }
    }
  }
}

std::string RunMemcached(Stage& stage) {
  std::string socket = stage.directory().File("memcached.sock");
  // 1 GiB, so that it never throws a value out of its own accord.
  Child server(stage.Options({"memcached", "-u", "root", "-m", "1024", "-t", "4", "-s", socket}));
  WaitUntil("memcached to accept", kTimeout, [&] {
    if (!server.Running()) throw HarnessError("memcached ended: " + server.errors());
    try {
      Client client(socket);
      client.Send("version\r\n");
      return absl::StrContains(client.ReadLine(), "VERSION");
    } catch (const HarnessError&) {
      return false;  // not yet
    }
  });
  uint64_t documents = stage.brief() ? kBriefDocuments : kDocuments;
  constexpr uint64_t kGenerations = 3;
  Client client(socket);
  for (uint64_t generation = 0; generation < kGenerations; ++generation) {
    Store(client, 0, documents, generation);
    Check(client, 0, documents, generation);
  }
  // Half of them another time; the others stay.
  Store(client, 0, documents / 2, kGenerations);
  Check(client, 0, documents / 2, kGenerations);
  Check(client, documents / 2, documents, kGenerations - 1);
  server.Signal(SIGTERM);
  ExitStatus status = server.Wait(kTimeout);
  if (!status.Succeeded()) throw HarnessError("memcached: " + status.ToString());
  return absl::StrCat(documents, " documents");
}

}  // namespace

Program Memcached() {
  return {.name = "memcached",
          .what = "every value read back, 4 threads",
          .packages = {"memcached"},
          .is_installed = [] { return IsCommand("memcached"); },
          .run = RunMemcached,
          .in_test = true};
}

}  // namespace zmem
