#include "preload/connection.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

#include <cstdint>

#include "libzmem/wire/messages.h"
#include "preload/raw_syscall.h"

namespace zmem {
namespace {

using raw::AsLong;
using raw::Syscall;

// Makes a call on the connection. That the kernel is short of memory for it says nothing about
// zmemd, and is over soon: the call is made again, for a second at most. So it is when zmemd has
// closed its end with a message of ours unread, which is told once, before what zmemd had sent.
template <typename Call>
long Persist(Call call) {
  constexpr int kTries = 1000;
  constexpr timespec kPause{0, 1'000'000};
  long result = call();
  for (int tries = 1; tries < kTries; ++tries) {
    bool passing = result == -ENOMEM || result == -ENOBUFS || result == -EAGAIN ||
                   result == -EINTR || result == -ECONNRESET;
    if (!passing) break;
    Syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, AsLong(&kPause), 0);
    result = call();
  }
  return result;
}

}  // namespace

long Connection::Open(const char* path) {
  socket_ = static_cast<int>(Syscall(SYS_socket, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  for (size_t i = 0; i < sizeof address.sun_path; ++i) address.sun_path[i] = path[i];
  return Syscall(SYS_connect, socket_, AsLong(&address), sizeof address);
}

void Connection::Close() {
  if (socket_ >= 0) Syscall(SYS_close, socket_);
  socket_ = -1;
}

bool Connection::Send(const void* message, size_t message_bytes, int descriptor) {
  iovec vector{const_cast<void*>(message), message_bytes};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr header{};
  header.msg_iov = &vector;
  header.msg_iovlen = 1;
  if (descriptor >= 0) {
    header.msg_control = control;
    header.msg_controllen = sizeof control;
    cmsghdr* rights = CMSG_FIRSTHDR(&header);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof descriptor);
    *reinterpret_cast<int*>(CMSG_DATA(rights)) = descriptor;
  }
  long sent = Persist([&] { return Syscall(SYS_sendmsg, socket_, AsLong(&header), MSG_NOSIGNAL); });
  return sent == static_cast<long>(message_bytes);
}

long Connection::Receive(void* buffer, int* descriptor) {
  iovec vector{buffer, wire::kMaxMessageBytes};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  msghdr header{};
  header.msg_iov = &vector;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof control;
  long got =
      Persist([&] { return Syscall(SYS_recvmsg, socket_, AsLong(&header), MSG_CMSG_CLOEXEC); });
  cmsghdr* rights = got >= 0 ? CMSG_FIRSTHDR(&header) : nullptr;
  if (rights != nullptr && rights->cmsg_level == SOL_SOCKET && rights->cmsg_type == SCM_RIGHTS) {
    int received = *reinterpret_cast<int*>(CMSG_DATA(rights));
    if (descriptor != nullptr) {
      *descriptor = received;
    } else {
      Syscall(SYS_close, received);
    }
  }
  return got;
}

}  // namespace zmem
