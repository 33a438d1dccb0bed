// Load on a redis-server that holds KeyedValues: nine of ten requests GET and one SETs an item, the
// popular ones more often than others. One thread, several connections, epoll. Every value that
// comes back is checked. A request goes through the connection of its item, whose answers come in
// order, so it is known which version each must be.
// Not thread-safe.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "bench/keyed_values.h"
#include "bench/zipf.h"
#include "libzmem/base/clock.h"
#include "libzmem/base/histogram.h"
#include "libzmem/base/sys.h"

namespace zmem {

// A server answered with something else than what it was given.
class WrongValue : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// What came of a stretch of load. Latencies are at most 6.25 % too high (LatencyHistogram).
struct LoadResult {
  double asked_per_s = 0;    // requests that were due
  double reached_per_s = 0;  // answers that came within the time
  uint64_t requests = 0;     // sent, all of which were answered
  uint64_t dropped = 0;      // due, but not sent when the time was over
  uint64_t p50_ns = 0;
  uint64_t p90_ns = 0;
  uint64_t p99_ns = 0;
  uint64_t p99_9_ns = 0;
  uint64_t max_ns = 0;
};

class RedisLoad {
 public:
  struct Options {
    uint32_t items = 0;
    double exponent = 0.99;
    ZipfOrder order = ZipfOrder::kScrambled;
    uint64_t seed = 1;
    int connections = 16;
  };

  // Connects to the unix socket of a server that has nothing of this in it yet. `values` must
  // outlive the object. Throws HarnessError.
  RedisLoad(const std::string& socket, const KeyedValues& values, const Options& options);
  RedisLoad(const RedisLoad&) = delete;
  RedisLoad& operator=(const RedisLoad&) = delete;

  // All four throw WrongValue, and HarnessError if the server ends, answers with an error, or not
  // at all for two minutes.

  // SETs every item, in order.
  void Fill();
  // GETs every item, in order.
  void VerifyAll();
  // As many requests as the server takes, one for each connection being under way at any time.
  LoadResult AskAsFastAsPossible(double seconds);
  // Requests that come by chance (Poisson), `per_s` on average, whether or not those before have
  // been answered; beyond 256 they wait here until one is. Each has a time at which it is due, and
  // its latency counts from then: who is late with one answer pays for all that had to wait.
  LoadResult AskAtRate(double per_s, double seconds);

 private:
  struct Request {
    int64_t due_ns;
    uint32_t item;
    uint32_t version;  // that is wanted, or is set
    bool sets;
  };
  struct Connection {
    UniqueFd fd;
    std::string unsent;
    size_t sent_bytes = 0;  // of unsent
    std::string received;
    size_t used_bytes = 0;         // of received
    std::deque<Request> awaiting;  // the oldest first
    bool waits_for_room = false;
  };

  Connection& ConnectionOf(uint32_t item) { return connections_[item % connections_.size()]; }
  void AskAnything(int64_t due_ns);
  void Ask(const Request& request);
  // Asks for all items in order, in the same way.
  void AskAll(bool sets);
  void FlushAll();
  void Flush(Connection& connection);
  // Waits for answers, for `timeout_ns` at most, and takes in what there is.
  void Await(int64_t timeout_ns);
  void Receive(Connection& connection);
  // Takes the oldest answer out of what was received, if it is there as a whole.
  bool TakeAnswer(Connection& connection);
  // `line` is the answer's first, `value` what follows it.
  static void CheckAnswer(const Request& request, absl::string_view line, absl::string_view value);
  void AwaitAll();
  void Begin();
  LoadResult End(uint64_t due, double seconds) const;

  const KeyedValues& values_;
  const ZipfItems items_;
  const MonotonicClock clock_;
  std::mt19937_64 random_;
  std::vector<uint32_t> versions_;  // of the items
  std::string value_;               // that is being set
  std::vector<Connection> connections_;
  UniqueFd epoll_;
  std::vector<char> buffer_;  // of one recv
  uint64_t awaiting_ = 0;     // of all connections
  int64_t answered_ns_ = 0;   // when the last answer came

  // Of the stretch that is measured.
  std::unique_ptr<LatencyHistogram> latency_;
  int64_t end_ns_ = 0;
  uint64_t in_time_ = 0;
  uint64_t dropped_ = 0;
};

}  // namespace zmem
