// A program's userfaultfd as zmemd sees it: registration, filling pages, reading messages.
// Results are codes, nothing allocates, so the fault path may use all of it. Thread-safe except for
// Read, which belongs to one thread: two readers would tear the order of the events.
// Source: Documentation/admin-guide/mm/userfaultfd.rst, fs/userfaultfd.c.
#pragma once

#include <linux/userfaultfd.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libzmem/base/page.h"
#include "libzmem/base/sys.h"

namespace zmem {

// What filling a page came to. Everything but kDone leaves the page as it was.
enum class FillResult {
  kDone,
  kPresent,   // EEXIST: the page is there already; whoever waits for it was not woken
  kChanging,  // EAGAIN: the layout is changing; read the events, then look the fault up afresh
  kAbsent,    // ENOENT: nothing registered there (any more)
  kGone,      // ESRCH: the address space is gone
  kNoMemory,  // ENOMEM: the program's memory cgroup or the host is full; try later
  kFailed,    // anything else: a bug, or a kernel that behaves otherwise than we know
};

class Userfaultfd {
 public:
  // The features zmem asks for; all are needed.
  static constexpr uint64_t kFeatures = UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP |
                                        UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP |
                                        UFFD_FEATURE_THREAD_ID;

  // Takes a descriptor of unknown kind (a client sent it) and makes the handshake on it.
  // Errors: InvalidArgument if it is not a fresh userfaultfd; FailedPrecondition if the kernel
  // lacks a feature or the caller lacks CAP_SYS_PTRACE, which EVENT_FORK needs.
  static absl::StatusOr<Userfaultfd> Handshake(UniqueFd fd);

  // Takes a descriptor whose handshake was made: a forked child's, from a FORK event.
  static Userfaultfd Adopt(UniqueFd fd) { return Userfaultfd(std::move(fd)); }

  int fd() const { return fd_.get(); }

  // Missing faults of `range` (page-aligned) come to us from now on. Returns 0 or a negative errno;
  // -EBUSY: somebody else's userfaultfd has part of it.
  int Register(AddressRange range) const;
  // The reverse; wakes whoever waits in it. Returns 0 or a negative errno.
  int Unregister(AddressRange range) const;

  // Whether those who wait for what is filled are woken, or sleep on until Wake. Messages of those
  // who sleep can still be read.
  enum class Waiters { kWake, kLeave };
  // Fills the `pages` absent pages from `target` with the bytes at `source`. `filled` receives the
  // pages done, which may be fewer: then the result is about the page behind them.
  FillResult Copy(Address target, const std::byte* source, size_t pages, size_t* filled,
                  Waiters waiters = Waiters::kWake) const;
  // The same with zeros.
  FillResult Zero(Address target, size_t pages, size_t* filled,
                  Waiters waiters = Waiters::kWake) const;
  // Makes the absent page at `target` raise SIGBUS when touched (Linux 6.6).
  FillResult Poison(Address target) const;
  // Lets whoever waits in `range` fault again.
  void Wake(AddressRange range) const;

  // Reads as many messages as there are, up to messages.size(); never blocks. Returns their number,
  // 0 if there are none, or a negative errno. A FORK message creates a descriptor that the caller
  // then owns.
  int Read(std::span<uffd_msg> messages) const;

 private:
  explicit Userfaultfd(UniqueFd fd) : fd_(std::move(fd)) {}

  UniqueFd fd_;
};

}  // namespace zmem
