#include "bench/redis_load.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "tests/error.h"

namespace zmem {
namespace {

constexpr unsigned kOneSets = 10;  // of so many requests
constexpr size_t kReadBytes = 64 << 10;
// Requests that are due go out so many at a time, and answers are looked at in between.
constexpr int kBurst = 64;
// Requests under way at most: enough to hide the round trips, few enough for the server's buffers,
// which would be the larger part of its memory if all that are due were sent to one that has fallen
// behind.
constexpr uint64_t kPipeline = 256;
constexpr int64_t kAnswerTimeoutNs = 120'000'000'000;
constexpr absl::string_view kLineEnd = "\r\n";

UniqueFd Connect(const std::string& path) {
  UniqueFd fd(CheckErrno(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket"));
  sockaddr_un address{.sun_family = AF_UNIX};
  if (path.size() >= sizeof address.sun_path) throw HarnessError("socket path too long: " + path);
  std::strcpy(address.sun_path, path.c_str());
  CheckErrno(connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address),
             "connect to redis at " + path);
  return fd;
}

void AppendArgument(absl::string_view argument, std::string& out) {
  absl::StrAppend(&out, "$", argument.size(), kLineEnd, argument, kLineEnd);
}

}  // namespace

RedisLoad::RedisLoad(const std::string& socket, const KeyedValues& values, const Options& options)
    : values_(values),
      items_(options.items, options.exponent, options.order, options.seed),
      random_(options.seed),
      versions_(options.items),
      connections_(options.connections),
      epoll_(CheckErrno(epoll_create1(EPOLL_CLOEXEC), "epoll_create1")),
      buffer_(kReadBytes) {
  for (size_t i = 0; i < connections_.size(); ++i) {
    connections_[i].fd = Connect(socket);
    epoll_event event{.events = EPOLLIN, .data = {.u64 = i}};
    CheckErrno(epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, connections_[i].fd.get(), &event),
               "epoll_ctl");
  }
}

void RedisLoad::Fill() { AskAll(true); }

void RedisLoad::VerifyAll() { AskAll(false); }

void RedisLoad::AskAll(bool sets) {
  Begin();
  for (uint32_t item = 0; item < versions_.size(); ++item) {
    Ask({clock_.now_ns(), item, versions_[item], sets});
    if (awaiting_ < kPipeline) continue;
    FlushAll();
    while (awaiting_ > kPipeline / 2) Await(kAnswerTimeoutNs);
  }
  AwaitAll();
}

LoadResult RedisLoad::AskAsFastAsPossible(double seconds) {
  Begin();
  int64_t start_ns = clock_.now_ns();
  end_ns_ = start_ns + static_cast<int64_t>(seconds * 1e9);
  uint64_t due = 0;
  for (int64_t now_ns = start_ns; now_ns < end_ns_; now_ns = clock_.now_ns()) {
    for (; awaiting_ < connections_.size(); ++due) AskAnything(now_ns);
    FlushAll();
    Await(end_ns_ - now_ns);
  }
  AwaitAll();
  return End(due, seconds);
}

LoadResult RedisLoad::AskAtRate(double per_s, double seconds) {
  Begin();
  std::exponential_distribution<double> gap_ns(per_s / 1e9);
  int64_t start_ns = clock_.now_ns();
  end_ns_ = start_ns + static_cast<int64_t>(seconds * 1e9);
  int64_t due_ns = start_ns;
  uint64_t due = 0;
  auto pass = [&] {
    due_ns += 1 + static_cast<int64_t>(gap_ns(random_));
    ++due;
  };
  for (int64_t now_ns = start_ns; due_ns < end_ns_ && now_ns < end_ns_; now_ns = clock_.now_ns()) {
    for (int burst = 0; burst < kBurst && due_ns <= std::min(now_ns, end_ns_ - 1); ++burst) {
      if (awaiting_ >= kPipeline) break;
      AskAnything(due_ns);
      pass();
    }
    FlushAll();
    Await(awaiting_ >= kPipeline ? end_ns_ - now_ns
                                 : std::max<int64_t>(due_ns - clock_.now_ns(), 0));
  }
  for (; due_ns < end_ns_; pass()) {
    if (awaiting_ < kPipeline) {
      AskAnything(due_ns);
    } else {
      ++dropped_;
    }
  }
  AwaitAll();
  return End(due, seconds);
}

void RedisLoad::AskAnything(int64_t due_ns) {
  uint32_t item = items_(random_);
  bool sets = random_() % kOneSets == 0;
  if (sets) ++versions_[item];
  Ask({due_ns, item, versions_[item], sets});
}

void RedisLoad::Ask(const Request& request) {
  Connection& connection = ConnectionOf(request.item);
  std::string key = KeyedValues::Key(request.item);
  if (request.sets) {
    connection.unsent += "*3\r\n$3\r\nSET\r\n";
    AppendArgument(key, connection.unsent);
    value_.clear();
    values_.Append(request.item, request.version, value_);
    AppendArgument(value_, connection.unsent);
  } else {
    connection.unsent += "*2\r\n$3\r\nGET\r\n";
    AppendArgument(key, connection.unsent);
  }
  connection.awaiting.push_back(request);
  ++awaiting_;
}

void RedisLoad::FlushAll() {
  for (Connection& connection : connections_) {
    if (!connection.unsent.empty() && !connection.waits_for_room) Flush(connection);
  }
}

void RedisLoad::Flush(Connection& connection) {
  while (connection.sent_bytes < connection.unsent.size()) {
    ssize_t bytes =
        send(connection.fd.get(), connection.unsent.data() + connection.sent_bytes,
             connection.unsent.size() - connection.sent_bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (bytes < 0 && errno == EAGAIN) break;
    connection.sent_bytes += static_cast<size_t>(CheckErrno(bytes, "send to redis"));
  }
  bool waits_for_room = connection.sent_bytes < connection.unsent.size();
  if (!waits_for_room) {
    connection.unsent.clear();
    connection.sent_bytes = 0;
  }
  if (waits_for_room == connection.waits_for_room) return;
  connection.waits_for_room = waits_for_room;
  epoll_event event{.events = EPOLLIN | (waits_for_room ? uint32_t{EPOLLOUT} : 0u),
                    .data = {.u64 = static_cast<uint64_t>(&connection - connections_.data())}};
  CheckErrno(epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, connection.fd.get(), &event), "epoll_ctl");
}

void RedisLoad::Await(int64_t timeout_ns) {
  epoll_event events[64];
  timespec timeout{.tv_sec = timeout_ns / 1'000'000'000, .tv_nsec = timeout_ns % 1'000'000'000};
  int ready = epoll_pwait2(epoll_.get(), events, std::size(events), &timeout, nullptr);
  if (ready < 0 && errno == EINTR) return;
  CheckErrno(ready, "epoll_pwait2");
  for (int i = 0; i < ready; ++i) {
    Connection& connection = connections_[events[i].data.u64];
    if ((events[i].events & EPOLLOUT) != 0) Flush(connection);
    if ((events[i].events & ~uint32_t{EPOLLOUT}) != 0) Receive(connection);
  }
  if (ready == 0 && awaiting_ > 0 && clock_.now_ns() - answered_ns_ > kAnswerTimeoutNs) {
    throw HarnessError(absl::StrCat("redis has not answered for ", kAnswerTimeoutNs / 1'000'000'000,
                                    " s; ", awaiting_, " requests wait"));
  }
}

void RedisLoad::Receive(Connection& connection) {
  ssize_t bytes = recv(connection.fd.get(), buffer_.data(), buffer_.size(), MSG_DONTWAIT);
  if (bytes == 0) throw HarnessError("redis closed the connection");
  if (bytes < 0 && errno == EAGAIN) return;
  CheckErrno(bytes, "receive from redis");
  connection.received.append(buffer_.data(), static_cast<size_t>(bytes));
  answered_ns_ = clock_.now_ns();
  while (TakeAnswer(connection)) {
  }
  connection.received.erase(0, connection.used_bytes);
  connection.used_bytes = 0;
}

bool RedisLoad::TakeAnswer(Connection& connection) {
  absl::string_view left(connection.received);
  left.remove_prefix(connection.used_bytes);
  size_t line_bytes = left.find(kLineEnd);
  if (line_bytes == absl::string_view::npos) return false;
  absl::string_view line = left.substr(0, line_bytes);
  size_t answer_bytes = line_bytes + kLineEnd.size();
  absl::string_view value;
  size_t value_bytes = 0;
  bool is_value = absl::SimpleAtoi(absl::StripPrefix(line, "$"), &value_bytes);
  if (is_value) {
    if (left.size() < answer_bytes + value_bytes + kLineEnd.size()) return false;
    value = left.substr(answer_bytes, value_bytes);
    answer_bytes += value_bytes + kLineEnd.size();
  }
  if (connection.awaiting.empty()) throw HarnessError("redis answers what nobody asked");
  const Request& request = connection.awaiting.front();
  CheckAnswer(request, line, value);
  latency_->Record(static_cast<uint64_t>(answered_ns_ - request.due_ns));
  in_time_ += answered_ns_ <= end_ns_;
  connection.awaiting.pop_front();
  --awaiting_;
  connection.used_bytes += answer_bytes;
  return true;
}

void RedisLoad::CheckAnswer(const Request& request, absl::string_view line,
                            absl::string_view value) {
  if (absl::StartsWith(line, "-")) throw HarnessError(absl::StrCat("redis: ", line));
  bool right =
      request.sets ? line == "+OK" : KeyedValues::Right(value, request.item, request.version);
  if (right) return;
  throw WrongValue(request.sets ? absl::StrCat("WRONG answer to a SET: ", line)
                                : KeyedValues::Describe(value, request.item, request.version));
}

void RedisLoad::AwaitAll() {
  FlushAll();
  while (awaiting_ > 0) Await(kAnswerTimeoutNs);
}

void RedisLoad::Begin() {
  latency_ = std::make_unique<LatencyHistogram>();
  end_ns_ = 0;
  in_time_ = 0;
  dropped_ = 0;
  answered_ns_ = clock_.now_ns();
}

LoadResult RedisLoad::End(uint64_t due, double seconds) const {
  return {.asked_per_s = static_cast<double>(due) / seconds,
          .reached_per_s = static_cast<double>(in_time_) / seconds,
          .requests = latency_->count(),
          .dropped = dropped_,
          .p50_ns = latency_->Percentile(50),
          .p90_ns = latency_->Percentile(90),
          .p99_ns = latency_->Percentile(99),
          .p99_9_ns = latency_->Percentile(99.9),
          .max_ns = latency_->max_ns()};
}

}  // namespace zmem
