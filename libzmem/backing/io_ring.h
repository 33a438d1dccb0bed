// Owns an io_uring over one file: direct reads and writes into memory given once.
// For one thread at a time. Never waits: who wants to polls fd().
// Source: liburing.h, io_uring(7).
#pragma once

#include <liburing.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "libzmem/base/sys.h"

namespace zmem {

class IoRing {
 public:
  // One transfer: all of its bytes lie in the buffer of that number.
  struct Transfer {
    unsigned buffer = 0;
    std::byte* bytes = nullptr;
    size_t length = 0;
    uint64_t offset = 0;  // in the file
    uint32_t tag = 0;     // comes back with the result
  };

  // `file` stays open as long as the ring. `buffers`, which the ring is to use, are registered with
  // the kernel if the limit of locked memory allows it; nothing but speed depends on that.
  // At most `most_transfers` are in flight.
  // Errors: ResourceExhausted, PermissionDenied (io_uring is switched off), or what the system
  // says.
  static absl::StatusOr<std::unique_ptr<IoRing>> Create(unsigned most_transfers, int file,
                                                        std::span<const iovec> buffers);
  ~IoRing();
  IoRing(const IoRing&) = delete;
  IoRing& operator=(const IoRing&) = delete;

  // Readable when Reap has something.
  int fd() const { return ring_.ring_fd; }

  // Starts a transfer. Returns 0, or a negative errno if it has not begun and no result will come.
  int Read(const Transfer& transfer) { return Start(sys::Call::kRingRead, transfer); }
  int Write(const Transfer& transfer) { return Start(sys::Call::kRingWrite, transfer); }

  // Calls `take(tag, result)` for each transfer that is over; result is the bytes done or a
  // negative errno. It may start further ones. Returns how many there were.
  size_t Reap(absl::FunctionRef<void(uint32_t tag, int result)> take);

 private:
  IoRing() = default;
  int Start(sys::Call call, const Transfer& transfer);
  int Submit(io_uring_sqe* request);

  io_uring ring_{};
  int file_ = -1;
  bool is_file_registered_ = false;
  bool are_buffers_registered_ = false;
};

}  // namespace zmem
