// The agent's connection to zmemd: whole messages, and descriptors with them. It does not wait for
// a message: who receives has looked whether there is one.
// Belongs to the agent's thread; calls nothing of libc.
#pragma once

#include <cstddef>

namespace zmem {

class Connection {
 public:
  // To the socket at `path`, of a sun_path's size. Returns 0 or a negative errno.
  long Open(const char* path);
  void Close();
  int fd() const { return socket_; }

  // False if the connection has ended. `descriptor` goes along unless it is negative.
  bool Send(const void* message, size_t message_bytes, int descriptor = -1);
  // Into `buffer`, of wire::kMaxMessageBytes. Returns the message's size, 0 at the end of the
  // connection, or a negative errno. A descriptor that came along is put into `descriptor`, or
  // closed if that is null.
  long Receive(void* buffer, int* descriptor);

 private:
  int socket_ = -1;
};

}  // namespace zmem
