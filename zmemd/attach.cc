#include "zmemd/attach.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "libzmem/base/kernel_abi.h"
#include "libzmem/wire/kept_memory.h"

namespace zmem {
namespace {

// An agent sends its next message at once; a client that does not is not waited for.
constexpr int kHandshakeTimeoutMs = 5000;
// The top of a program's address space on x86-64, with five-level page tables too.
constexpr Address kHighestAddress = uint64_t{1} << 56;

absl::Status Refuse(wire::Channel& channel, wire::RefuseReason reason, absl::Status why,
                    uint64_t min_resident_bytes = 0) {
  wire::Refuse message{};
  message.reason = reason;
  message.min_resident_bytes = min_resident_bytes;
  absl::string_view text = why.message();
  std::memcpy(message.text, text.data(), std::min(text.size(), sizeof message.text - 1));
  channel.Send(message).IgnoreError();
  return why;
}

bool Alive(const UniqueFd& pidfd) {
  pollfd ended{pidfd.get(), POLLIN, 0};
  return sys::Poll(&ended, 1, 0) == 0;
}

absl::StatusOr<Identity> Identify(int socket) {
  Identity identity;
  ucred credentials{};
  socklen_t length = sizeof credentials;
  if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &length) != 0) {
    return sys::ErrnoStatus(errno, "cannot tell who the client is");
  }
  int pidfd = -1;
  length = sizeof pidfd;
  if (getsockopt(socket, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &length) != 0) {
    return sys::ErrnoStatus(errno, "cannot get a descriptor of the client (Linux 6.5 can)");
  }
  identity.pid = credentials.pid;
  identity.uid = credentials.uid;
  identity.pidfd.reset(pidfd);
  if (identity.pid <= 0) {
    return absl::FailedPreconditionError(
        "the client lives in a PID namespace that zmemd cannot see");
  }
  std::string comm;
  if (!sys::ReadFile(absl::StrCat("/proc/", identity.pid, "/comm"), comm).ok()) {
    return absl::UnavailableError("the client is gone");
  }
  identity.comm = std::string(absl::StripSuffix(comm, "\n"));
  return identity;
}

absl::Status CheckHello(const wire::Hello& hello) {
  auto aligned = [](AddressRange range, uint64_t to) {
    return range.start % to == 0 && range.end % to == 0 && !range.empty() &&
           range.end <= kHighestAddress;
  };
  bool sane = aligned(hello.agent, kPageBytes) && aligned(hello.staging, kChunkBytes) &&
              hello.staging.bytes() / kChunkBytes <= Process::kMaxSlabs &&
              hello.token_page % kPageBytes == 0 && hello.token_page != 0 &&
              hello.token_page < kHighestAddress && hello.kept % alignof(wire::KeptMemory) == 0 &&
              hello.agent.Contains(hello.kept) &&
              hello.agent.end - hello.kept >= sizeof(wire::KeptMemory);
  if (sane) return absl::OkStatus();
  return absl::InvalidArgumentError("the client's greeting makes no sense");
}

// Opens the process's memory and makes sure that it was that process's, by its pidfd.
absl::Status OpenMemory(const Identity& identity, RemoteMemory* memory, Pagemap* pagemap) {
  absl::StatusOr<RemoteMemory> opened = RemoteMemory::Open(identity.pid);
  if (!opened.ok()) return opened.status();
  absl::StatusOr<Pagemap> map = Pagemap::Open(identity.pid);
  if (!map.ok()) return map.status();
  if (!Alive(identity.pidfd)) return absl::UnavailableError("the client is gone");
  *memory = *std::move(opened);
  *pagemap = *std::move(map);
  return absl::OkStatus();
}

bool HoldsToken(const RemoteMemory& memory, Address token_page, const wire::Token& token) {
  wire::Token there;
  return memory.Read(token_page, &there, sizeof there) && there == token;
}

absl::StatusOr<std::shared_ptr<Session>> AttachForked(wire::Channel& channel,
                                                      SessionRegistry& registry, Identity identity,
                                                      const wire::Hello& hello) {
  RemoteMemory memory;
  Pagemap pagemap;
  if (absl::Status status = OpenMemory(identity, &memory, &pagemap); !status.ok()) {
    return Refuse(channel, wire::RefuseReason::kFailed, status);
  }
  std::shared_ptr<Session> session = registry.FindForked(hello.token);
  if (session == nullptr) {
    return Refuse(channel, wire::RefuseReason::kUnknownToken,
                  absl::NotFoundError("the client shows a token that nobody knows"));
  }
  Process& process = session->process();
  if (hello.token_page != process.token_page ||
      !HoldsToken(memory, process.token_page, process.token) || !session->ClaimForAgent()) {
    return Refuse(channel, wire::RefuseReason::kNotAllowed,
                  absl::PermissionDeniedError("the client shows a token that is not its own"));
  }
  int registered = process.uffd.Register(hello.staging);
  if (registered != 0) {
    return Refuse(channel, wire::RefuseReason::kFailed,
                  sys::ErrnoStatus(-registered, "cannot register the staging area"));
  }
  session->Bind(std::move(identity), std::move(memory), std::move(pagemap), hello);
  registry.Promise(*session, hello.limit_bytes);
  // If the agent is gone already, the session's own loop finds out and ends it.
  channel.Send(wire::Attached{}, process.uffd.fd()).IgnoreError();
  return session;
}

// Registers what must be, and proves by a token that the descriptor is of the process's memory.
absl::Status Prove(Process& process, const wire::Hello& hello, const RemoteMemory& memory) {
  AddressRange token_page{hello.token_page, hello.token_page + kPageBytes};
  for (AddressRange range : {token_page, hello.staging}) {
    int result = process.uffd.Register(range);
    if (result != 0) return sys::ErrnoStatus(-result, "cannot register the agent's memory");
  }
  process.token_page = hello.token_page;
  if (process.FillTokenPage() != FillResult::kDone) {
    return absl::FailedPreconditionError("cannot fill the agent's token page");
  }
  if (!HoldsToken(memory, process.token_page, process.token)) {
    return absl::PermissionDeniedError("the client sent a userfaultfd of another process");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<Session>> AttachFresh(wire::Channel& channel,
                                                     SessionRegistry& registry, Identity identity,
                                                     const wire::Hello& hello) {
  if (absl::Status managed = registry.CheckManaged(identity); !managed.ok()) {
    return Refuse(channel, wire::RefuseReason::kNotAllowed, managed);
  }
  uint64_t needed =
      hello.min_resident_bytes != 0 ? hello.min_resident_bytes : registry.min_resident_bytes();
  if (ResidentBytes(identity.pid) < needed) {
    return Refuse(channel, wire::RefuseReason::kTooSmall,
                  absl::OutOfRangeError("the program is smaller than min_resident"), needed);
  }
  RemoteMemory memory;
  Pagemap pagemap;
  if (absl::Status status = OpenMemory(identity, &memory, &pagemap); !status.ok()) {
    return Refuse(channel, wire::RefuseReason::kNotAllowed, status);
  }
  absl::Status status = channel.Send(wire::Welcome{}, registry.userfaultfd_device());
  if (!status.ok()) return status;
  wire::Userfaultfd message;
  UniqueFd descriptor;
  status = channel.Receive(message, kHandshakeTimeoutMs, &descriptor);
  if (!status.ok()) return status;
  absl::StatusOr<Userfaultfd> uffd = Userfaultfd::Handshake(std::move(descriptor));
  if (!uffd.ok()) return Refuse(channel, wire::RefuseReason::kFailed, uffd.status());

  std::shared_ptr<Process> process = registry.MakeProcess(*std::move(uffd));
  if (status = Prove(*process, hello, memory); !status.ok()) {
    return Refuse(channel, wire::RefuseReason::kNotAllowed, status);
  }
  absl::StatusOr<std::shared_ptr<Session>> session = registry.AddSession(std::move(process));
  if (!session.ok()) return Refuse(channel, wire::RefuseReason::kFailed, session.status());
  (*session)->Bind(std::move(identity), std::move(memory), std::move(pagemap), hello);
  registry.Promise(**session, hello.limit_bytes);
  // If the agent is gone already, the session's own loop finds out and ends it.
  channel.Send(wire::Attached{}).IgnoreError();
  return session;
}

}  // namespace

absl::StatusOr<std::shared_ptr<Session>> AttachAgent(wire::Channel& channel,
                                                     SessionRegistry& registry) {
  wire::Hello hello;
  absl::Status received = channel.Receive(hello, kHandshakeTimeoutMs);
  if (absl::IsFailedPrecondition(received)) {
    return Refuse(channel, wire::RefuseReason::kVersion, received);
  }
  if (!received.ok()) return received;
  if (registry.stopping()) {
    return Refuse(channel, wire::RefuseReason::kStopping,
                  absl::UnavailableError("zmemd is stopping"));
  }
  absl::StatusOr<Identity> identity = Identify(channel.fd());
  if (!identity.ok()) return Refuse(channel, wire::RefuseReason::kFailed, identity.status());
  if (absl::Status sane = CheckHello(hello); !sane.ok()) {
    return Refuse(channel, wire::RefuseReason::kFailed, sane);
  }
  if (!hello.token.empty()) return AttachForked(channel, registry, *std::move(identity), hello);
  return AttachFresh(channel, registry, *std::move(identity), hello);
}

}  // namespace zmem
