#include "libzmem/backing/io_ring.h"

#include <errno.h>

#include "absl/status/status.h"

namespace zmem {
namespace {

// Submitting fails when the kernel is interrupted or short of memory for a moment.
constexpr int kSubmitAttempts = 4;

// The word of a request that could not be submitted.
constexpr uint64_t kForgotten = ~uint64_t{0};

// A request's word: the transfer's tag, and above it the errno that a test wants to see.
uint64_t RequestWord(uint32_t tag, int injected_error) {
  return uint64_t{static_cast<uint32_t>(injected_error)} << 32 | tag;
}

}  // namespace

absl::StatusOr<std::unique_ptr<IoRing>> IoRing::Create(unsigned most_transfers, int file,
                                                       std::span<const iovec> buffers) {
  std::unique_ptr<IoRing> ring(new IoRing());
  int error = io_uring_queue_init(most_transfers, &ring->ring_, 0);
  if (error != 0) {
    ring->ring_.ring_fd = -1;
    return sys::ErrnoStatus(-error,
                            "cannot set up io_uring for the backing file (check the sysctl "
                            "kernel.io_uring_disabled and the limit of locked memory)");
  }
  ring->file_ = file;
  ring->is_file_registered_ = io_uring_register_files(&ring->ring_, &file, 1) == 0;
  ring->are_buffers_registered_ =
      io_uring_register_buffers(&ring->ring_, buffers.data(),
                                static_cast<unsigned>(buffers.size())) == 0;
  return ring;
}

IoRing::~IoRing() {
  if (ring_.ring_fd < 0) return;
  // The kernel takes a ring down later, in its own time. The file is to be free at once: a device
  // could not be opened again, a file system not be unmounted.
  if (is_file_registered_) io_uring_unregister_files(&ring_);
  io_uring_queue_exit(&ring_);
}

int IoRing::Start(sys::Call call, const Transfer& transfer) {
  io_uring_sqe* request = io_uring_get_sqe(&ring_);
  if (request == nullptr) return -EBUSY;
  size_t length = transfer.length;
  int injected = sys::AdmitRingTransfer(call, transfer.offset, length);
  int file = is_file_registered_ ? 0 : file_;
  auto bytes = static_cast<unsigned>(length);
  if (injected != 0) {
    io_uring_prep_nop(request);
  } else if (call == sys::Call::kRingRead) {
    io_uring_prep_read(request, file, transfer.bytes, bytes, transfer.offset);
    if (are_buffers_registered_) request->opcode = IORING_OP_READ_FIXED;
  } else {
    io_uring_prep_write(request, file, transfer.bytes, bytes, transfer.offset);
    if (are_buffers_registered_) request->opcode = IORING_OP_WRITE_FIXED;
  }
  if (injected == 0 && are_buffers_registered_) {
    request->buf_index = static_cast<uint16_t>(transfer.buffer);
  }
  if (injected == 0 && is_file_registered_) io_uring_sqe_set_flags(request, IOSQE_FIXED_FILE);
  io_uring_sqe_set_data64(request, RequestWord(transfer.tag, -injected));
  return Submit(request);
}

int IoRing::Submit(io_uring_sqe* request) {
  int result = 0;
  for (int attempt = 0; attempt < kSubmitAttempts; ++attempt) {
    result = io_uring_submit(&ring_);
    if (io_uring_sq_ready(&ring_) == 0) return 0;
  }
  // The kernel has not seen it yet, and will with the next one. Nobody waits for it then.
  io_uring_prep_nop(request);
  io_uring_sqe_set_data64(request, kForgotten);
  return result < 0 ? result : -EAGAIN;
}

size_t IoRing::Reap(absl::FunctionRef<void(uint32_t tag, int result)> take) {
  size_t reaped = 0;
  io_uring_cqe* completion;
  while (io_uring_peek_cqe(&ring_, &completion) == 0) {
    uint64_t word = io_uring_cqe_get_data64(completion);
    int result = completion->res;
    io_uring_cqe_seen(&ring_, completion);
    if (word == kForgotten) continue;
    if (int injected = static_cast<int>(word >> 32)) result = -injected;
    take(static_cast<uint32_t>(word), result);
    ++reaped;
  }
  return reaped;
}

}  // namespace zmem
