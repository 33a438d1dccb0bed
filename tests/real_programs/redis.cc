// redis-server: BGSAVE and BGREWRITEAOF fork it under load, and what their children wrote is loaded
// by fresh servers.
#include "tests/redis.h"

#include <chrono>
#include <numeric>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/documents.h"
#include "tests/real_programs/program.h"

namespace zmem {
namespace {

using std::chrono::seconds;

constexpr uint64_t kDocuments = 30'000;  // about 110 MB
constexpr uint64_t kBriefDocuments = 6'000;
constexpr int kRounds = 2;
constexpr uint64_t kChurn = 500;  // documents written again while a child saves
constexpr seconds kLoadTimeout{60};
constexpr seconds kSaveTimeout{120};

// A server of its own on a unix socket, its files in the stage's directory.
class Server {
 public:
  // `persistence`: the options that say what is loaded and written.
  Server(const Stage& stage, const std::vector<std::string>& persistence)
      : socket_(stage.directory().File("redis.sock")),
        child_(stage.Options(Arguments(stage, socket_, persistence))) {
    WaitUntil("redis-server to accept", kLoadTimeout, [this] {
      if (!child_.Running()) throw HarnessError("redis-server ended: " + child_.output());
      try {
        return RedisClient(socket_).Call({"PING"}) == "PONG";
      } catch (const HarnessError&) {
        return false;  // no socket yet, or still loading
      }
    });
  }

  const std::string& socket() const { return socket_; }

  void Stop() {
    RedisClient client(socket_);
    client.Send({"SHUTDOWN", "NOSAVE"});
    client.Flush();
    ExitStatus status = child_.Wait(kSaveTimeout);
    if (!status.Succeeded()) {
      throw HarnessError(
          absl::StrCat("redis-server: ", status.ToString(), "\n", Tail(child_.output(), 30)));
    }
  }

 private:
  static std::vector<std::string> Arguments(const Stage& stage, const std::string& socket,
                                            const std::vector<std::string>& persistence) {
    std::vector<std::string> argv = {"redis-server",
                                     "--port",
                                     "0",
                                     "--unixsocket",
                                     socket,
                                     "--dir",
                                     stage.directory().path(),
                                     "--save",
                                     "",
                                     "--auto-aof-rewrite-percentage",
                                     "0",
                                     "--enable-debug-command",
                                     "yes"};
    argv.insert(argv.end(), persistence.begin(), persistence.end());
    return argv;
  }

  const std::string socket_;
  Child child_;
};

const std::vector<std::string> kWithAof = {"--appendonly", "yes"};
const std::vector<std::string> kWithoutAof = {"--appendonly", "no"};

// Runs BGSAVE or BGREWRITEAOF to its end, writing documents again meanwhile.
void SaveUnderLoad(RedisClient& client, const std::string& command, const std::string& in_progress,
                   const std::string& good) {
  client.Call({command});
  uint64_t next = 0;
  WaitUntil(command + " to succeed", kSaveTimeout, [&] {
    LoadDocuments(client, next, next + kChurn);
    next = (next + kChurn) % (kBriefDocuments - kChurn);
    std::string info = *client.Call({"INFO", "persistence"});
    if (!absl::StrContains(info, in_progress + ":0")) return false;
    if (!absl::StrContains(info, good + ":ok")) throw HarnessError(command + " failed:\n" + info);
    return true;
  });
}

void Save(RedisClient& client) {
  SaveUnderLoad(client, "BGSAVE", "rdb_bgsave_in_progress", "rdb_last_bgsave_status");
  SaveUnderLoad(client, "BGREWRITEAOF", "aof_rewrite_in_progress", "aof_last_bgrewrite_status");
}

void CheckDocuments(RedisClient& client, uint64_t documents) {
  std::vector<uint64_t> indices(documents);
  std::iota(indices.begin(), indices.end(), 0);
  std::vector<std::string> wrong = WrongDocuments(client, indices);
  if (!wrong.empty()) {
    throw HarnessError(absl::StrCat(wrong.size(), " documents are wrong, first ", wrong[0]));
  }
}

// What a fresh server finds in the files: its digest of everything, after it was checked.
std::string LoadedDigest(const Stage& stage, const std::vector<std::string>& persistence,
                         uint64_t documents) {
  Server server(stage, persistence);
  RedisClient client(server.socket());
  CheckDocuments(client, documents);
  std::string digest = *client.Call({"DEBUG", "DIGEST"});
  server.Stop();
  return digest;
}

std::vector<std::string> Benchmark(const Server& server, bool brief) {
  return {"redis-benchmark",
          "-s",
          server.socket(),
          "--dbnum",
          "1",
          "-q",
          "-c",
          "20",
          "-P",
          "8",
          "-n",
          brief ? "20000" : "50000",
          "-r",
          "20000",
          "-d",
          "200",
          "-t",
          "set,get,incr,lpush,rpop,sadd,hset,zadd,lrange_100,mset"};
}

std::string RunRedis(Stage& stage) {
  uint64_t documents = stage.brief() ? kBriefDocuments : kDocuments;
  Server server(stage, kWithAof);
  RedisClient client(server.socket());
  LoadDocuments(client, 0, documents);
  for (int round = 0; round < (stage.brief() ? 1 : kRounds); ++round) {
    Child benchmark(stage.Options(Benchmark(server, stage.brief())));
    do {
      Save(client);
    } while (benchmark.Running());
    ExitStatus status = benchmark.Wait(seconds(0));
    if (!status.Succeeded()) throw HarnessError("redis-benchmark: " + benchmark.errors());
    CheckDocuments(client, documents);
  }
  Save(client);
  std::string digest = *client.Call({"DEBUG", "DIGEST"});
  server.Stop();
  for (const std::vector<std::string>* persistence : {&kWithoutAof, &kWithAof}) {
    std::string loaded = LoadedDigest(stage, *persistence, documents);
    if (loaded != digest) {
      throw HarnessError(absl::StrCat("the server had ", digest, ", a fresh one with ",
                                      persistence->at(0), " ", persistence->at(1), " has ",
                                      loaded));
    }
  }
  return absl::StrCat(documents, " documents");
}

}  // namespace

Program Redis() {
  return {.name = "redis",
          .what = "BGSAVE, BGREWRITEAOF under redis-benchmark; reload",
          .packages = {"redis-server", "redis-tools"},
          .is_installed = [] { return IsCommand("redis-server") && IsCommand("redis-benchmark"); },
          .run = RunRedis,
          .in_test = true};
}

}  // namespace zmem
