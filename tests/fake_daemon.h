// Something at zmemd's socket that is not zmemd: it accepts every connection and does to it what a
// test says. It serves on a thread of its own until destroyed.
#pragma once

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "libzmem/base/sys.h"
#include "tests/error.h"

namespace zmem {

class FakeDaemon {
 public:
  // What to do with a connection, once the client's first message is there. The connection stays
  // open until the end unless `behave` shuts it down.
  using Behaviour = std::function<void(int connection)>;

  FakeDaemon(const std::string& path, Behaviour behave)
      : behave_(std::move(behave)),
        listener_(CheckErrno(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), "socket")),
        stop_(CheckErrno(eventfd(0, EFD_CLOEXEC), "eventfd")) {
    sockaddr_un address{.sun_family = AF_UNIX};
    if (path.size() >= sizeof address.sun_path) throw HarnessError("socket path too long: " + path);
    std::strcpy(address.sun_path, path.c_str());
    CheckErrno(bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address),
               "bind " + path);
    CheckErrno(listen(listener_.get(), 16), "listen");
    thread_ = std::thread([this] { Serve(); });
  }

  ~FakeDaemon() {
    eventfd_write(stop_.get(), 1);
    thread_.join();
  }
  FakeDaemon(const FakeDaemon&) = delete;
  FakeDaemon& operator=(const FakeDaemon&) = delete;

 private:
  void Serve() {
    std::vector<UniqueFd> connections;
    while (true) {
      std::vector<pollfd> fds = {{stop_.get(), POLLIN, 0}, {listener_.get(), POLLIN, 0}};
      for (const UniqueFd& connection : connections) fds.push_back({connection.get(), POLLIN, 0});
      if (sys::Poll(fds.data(), fds.size(), -1) < 0 || fds[0].revents != 0) return;
      for (size_t at = connections.size(); at > 0; --at) {
        if (fds[at + 1].revents != 0 && !Hear(connections[at - 1].get())) {
          connections.erase(connections.begin() + static_cast<ptrdiff_t>(at - 1));
        }
      }
      if (fds[1].revents != 0) {
        connections.emplace_back(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      }
    }
  }

  // Takes a message off a connection and reacts. Returns false at the connection's end.
  bool Hear(int connection) {
    char message[4096];
    if (recv(connection, message, sizeof message, MSG_DONTWAIT) <= 0) return false;
    behave_(connection);
    return true;
  }

  const Behaviour behave_;
  UniqueFd listener_;
  UniqueFd stop_;
  std::thread thread_;
};

}  // namespace zmem
