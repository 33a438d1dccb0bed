// A stock redis-server on a unix socket, without persistence of its own accord, and a small client
// that pipelines. Not thread-safe.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "libzmem/base/sys.h"
#include "tests/harness.h"

namespace zmem {

// Speaks RESP2 (redis.io, "Redis serialization protocol specification").
class RedisClient {
 public:
  // Connects; throws if nobody accepts at `path`.
  explicit RedisClient(const std::string& path);

  // Queues a command. It leaves with the next Flush or Receive.
  void Send(const std::vector<std::string>& arguments);
  void Flush();
  // The oldest reply not yet received: a string, an integer or a status as text; none for nil.
  // Throws on an error reply, and after a minute without one.
  std::optional<std::string> Receive();
  std::optional<std::string> Call(const std::vector<std::string>& arguments);

 private:
  std::string ReadLine();
  void ReadMore();

  UniqueFd fd_;
  std::string unsent_;
  std::string received_;
  size_t consumed_ = 0;  // how much of received_ was handed out
};

// Starts redis-server, waits until it answers.
class RedisServer {
 public:
  // Under libzmem.so, in the daemon's directory.
  explicit RedisServer(const Daemon& daemon);
  // Without zmem, in `directory`.
  explicit RedisServer(const TempDir& directory);

  Child& child() { return *child_; }
  const std::string& socket() const { return socket_; }
  // SHUTDOWN, and waits for its end.
  void Stop();

 private:
  void Start(const ChildOptions& options);

  std::string socket_;
  std::unique_ptr<Child> child_;
};

// Stores documents [first, last) under their keys. Returns their bytes.
int64_t LoadDocuments(RedisClient& client, uint64_t first, uint64_t last);

// Reads documents back, in the order of `indices`, and returns the keys of those that are not what
// was stored.
std::vector<std::string> WrongDocuments(RedisClient& client, const std::vector<uint64_t>& indices);

}  // namespace zmem
