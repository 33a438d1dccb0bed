// Subject program: lets the kernel, not the program, be the first to touch pages that were taken
// out: system calls that read from them, write into them, wait on a word in them or pin them.
// Every command first makes sure that its pages are out.
//   kernel_touches DIRECTORY      (where it keeps files; for direct I/O not on tmpfs)
#include <fcntl.h>
#include <liburing.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>

#include "tests/programs/command_loop.h"
#include "tests/programs/pattern_region.h"

namespace zmem {
namespace {

constexpr size_t kBufferPages = 64;
constexpr size_t kBufferBytes = kBufferPages * kPageBytes;
// The upper half of the region is a cushion: memory just below a thread's control block may stay.
constexpr size_t kRegionPages = 8192;
constexpr uint64_t kOldVersion = 1;  // what the buffers hold
constexpr uint64_t kNewVersion = 2;  // what the kernel writes into them

// One command's pages, 2 MiB from the next one's, so that no readahead joins them.
struct Buffer {
  std::byte* data;
  uint64_t first_page;

  bool Present(size_t page) const {
    unsigned char resident = 0;
    mincore(data + page * kPageBytes, kPageBytes, &resident);
    return (resident & 1) != 0;
  }
  bool AllOut() const {
    for (size_t page = 0; page < kBufferPages; ++page) {
      if (Present(page)) return false;
    }
    return true;
  }
  bool AllPresent() const {
    for (size_t page = 0; page < kBufferPages; ++page) {
      if (!Present(page)) return false;
    }
    return true;
  }
};

// Whether `data` holds the pages that belong to `buffer`, in this version.
std::string Check(const std::byte* data, const Buffer& buffer, uint64_t version) {
  for (size_t page = 0; page < kBufferPages; ++page) {
    if (!VerifyPage(data + page * kPageBytes, buffer.first_page + page, version)) {
      return "WRONG page " + std::to_string(page) + " of the buffer";
    }
  }
  return "ok";
}

std::string Failed(const char* call, ssize_t result) {
  return std::string(call) + " returned " + std::to_string(result) + ": " +
         std::strerror(result < 0 ? errno : 0);
}

// A file of kBufferBytes, mapped shared, so that what is in it is seen without any of our own
// memory. O_DIRECT transfers bypass the mapping's pages coherently on the file systems we use.
class PeerFile {
 public:
  PeerFile(const std::string& path, int flags)
      : fd_(open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | flags, 0600)) {
    unlink(path.c_str());
    if (fd_ < 0 || ftruncate(fd_, kBufferBytes) != 0) {
      std::perror(path.c_str());
      std::exit(2);
    }
    void* mapping = mmap(nullptr, kBufferBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
    if (mapping == MAP_FAILED) {
      std::perror("mmap");
      std::exit(2);
    }
    data_ = static_cast<std::byte*>(mapping);
  }
  ~PeerFile() {
    munmap(data_, kBufferBytes);
    close(fd_);
  }

  int fd() const { return fd_; }
  std::byte* data() const { return data_; }
  // Fills it with the new version of `buffer`'s pages, and sees them to the disk.
  void Prepare(const Buffer& buffer) const {
    for (size_t page = 0; page < kBufferPages; ++page) {
      FillPage(data_ + page * kPageBytes, buffer.first_page + page, kNewVersion);
    }
    msync(data_, kBufferBytes, MS_SYNC);
  }

 private:
  int fd_;
  std::byte* data_;
};

// One request through a fresh ring. `prepare` fills in the request. Returns its result.
template <typename Prepare>
int RunUring(io_uring& ring, Prepare prepare) {
  prepare(io_uring_get_sqe(&ring));
  io_uring_submit_and_wait(&ring, 1);
  io_uring_cqe* entry = nullptr;
  int error = io_uring_wait_cqe(&ring, &entry);
  if (error != 0) return error;
  int result = entry->res;
  io_uring_cqe_seen(&ring, entry);
  return result;
}

class Subject {
 public:
  explicit Subject(std::string directory)
      : directory_(std::move(directory)), region_(kRegionPages, PageContent::kCompressible) {
    region_.Fill(kOldVersion);
    int error = io_uring_queue_init(8, &ring_, 0);
    if (error != 0) {
      std::fprintf(stderr, "io_uring_queue_init: %s\n", std::strerror(-error));
      std::exit(2);
    }
  }
  ~Subject() { io_uring_queue_exit(&ring_); }

  // The buffer number `index`.
  Buffer BufferAt(size_t index) const {
    uint64_t first = index * kPagesPerChunk + 3;
    return {region_.page(first), first};
  }

  // Calls `fill(fd, buffer)`, which lets the kernel write a file into an absent buffer.
  template <typename Fill>
  std::string Into(Fill fill, int flags = 0) {
    Buffer buffer = BufferAt(0);
    if (!buffer.AllOut()) return "the buffer is not out";
    PeerFile file(directory_ + "/source", flags);
    file.Prepare(buffer);
    ssize_t result = fill(file.fd(), buffer);
    if (result != static_cast<ssize_t>(kBufferBytes)) return Failed("the call", result);
    std::string verdict = Check(buffer.data, buffer, kNewVersion);
    region_.Fill(kOldVersion);
    return verdict;
  }

  // Calls `drain(buffer, fd)`, which lets the kernel read an absent buffer into a file.
  template <typename Drain>
  std::string OutOf(Drain drain, int flags = 0) {
    Buffer buffer = BufferAt(1);
    if (!buffer.AllOut()) return "the buffer is not out";
    PeerFile file(directory_ + "/sink", flags);
    ssize_t result = drain(buffer, file.fd());
    if (result != static_cast<ssize_t>(kBufferBytes)) return Failed("the call", result);
    return Check(file.data(), buffer, kOldVersion);
  }

  // A stream socket is smaller than the buffer: a thread at the other end moves the file's bytes.
  std::string Recv() {
    return Into([](int fd, const Buffer& buffer) -> ssize_t {
      int ends[2];
      if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0) return -1;
      std::thread peer([&] {
        loff_t at = 0;
        while (at < static_cast<loff_t>(kBufferBytes)) {
          if (!Pump(fd, &at, ends[1], nullptr)) break;
        }
        close(ends[1]);
      });
      ssize_t received = recv(ends[0], buffer.data, kBufferBytes, MSG_WAITALL);
      peer.join();
      close(ends[0]);
      return received;
    });
  }

  std::string Send() {
    return OutOf([](const Buffer& buffer, int fd) -> ssize_t {
      int ends[2];
      if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0) return -1;
      std::thread peer([&] {
        loff_t at = 0;
        while (Pump(ends[1], nullptr, fd, &at)) {
        }
      });
      ssize_t sent = send(ends[0], buffer.data, kBufferBytes, 0);
      close(ends[0]);
      peer.join();
      close(ends[1]);
      return sent;
    });
  }

  std::string UringRead(unsigned char flags) {
    return Into([&](int fd, const Buffer& buffer) -> ssize_t {
      return RunUring(ring_, [&](io_uring_sqe* entry) {
        io_uring_prep_read(entry, fd, buffer.data, kBufferBytes, 0);
        entry->flags |= flags;
      });
    });
  }

  std::string UringWrite(unsigned char flags) {
    return OutOf([&](const Buffer& buffer, int fd) -> ssize_t {
      return RunUring(ring_, [&](io_uring_sqe* entry) {
        io_uring_prep_write(entry, fd, buffer.data, kBufferBytes, 0);
        entry->flags |= flags;
      });
    });
  }

  // Registering pins the pages: from here on they must stay where they are.
  std::string UringRegister() {
    Buffer buffer = BufferAt(2);
    if (!buffer.AllOut()) return "the buffer is not out";
    iovec vector{.iov_base = buffer.data, .iov_len = kBufferBytes};
    int error = io_uring_register_buffers(&ring_, &vector, 1);
    if (error != 0) return std::string("io_uring_register_buffers: ") + std::strerror(-error);
    return buffer.AllPresent() ? "ok" : "registered pages are absent";
  }

  std::string UringReadFixed() {
    Buffer buffer = BufferAt(2);
    if (!buffer.AllPresent()) return "pinned pages were taken out";
    PeerFile file(directory_ + "/source", 0);
    file.Prepare(buffer);
    int result = RunUring(ring_, [&](io_uring_sqe* entry) {
      io_uring_prep_read_fixed(entry, file.fd(), buffer.data, kBufferBytes, 0, 0);
    });
    if (result != static_cast<int>(kBufferBytes)) return Failed("read_fixed", result);
    return Check(buffer.data, buffer, kNewVersion);
  }

  // What read_fixed brought goes out again, through the same pinned pages.
  std::string UringWriteFixed() {
    Buffer buffer = BufferAt(2);
    if (!buffer.AllPresent()) return "pinned pages were taken out";
    PeerFile file(directory_ + "/sink", 0);
    int result = RunUring(ring_, [&](io_uring_sqe* entry) {
      io_uring_prep_write_fixed(entry, file.fd(), buffer.data, kBufferBytes, 0, 0);
    });
    if (result != static_cast<int>(kBufferBytes)) return Failed("write_fixed", result);
    return Check(file.data(), buffer, kNewVersion);
  }

  std::string UringUnregister() {
    if (io_uring_unregister_buffers(&ring_) != 0) return "unregister failed";
    region_.Fill(kOldVersion);
    return "ok";
  }

  // FUTEX_WAIT with another value than the word's: the kernel reads the absent word and says so.
  std::string FutexCompare() {
    Buffer buffer = BufferAt(3);
    if (!buffer.AllOut()) return "the word is not out";
    uint64_t word = buffer.first_page;  // the page's number is its first word
    long result = syscall(SYS_futex, buffer.data, FUTEX_WAIT, static_cast<uint32_t>(word) + 1,
                          nullptr, nullptr, 0);
    if (result != -1 || errno != EAGAIN) return Failed("futex", result);
    return Check(buffer.data, buffer, kOldVersion);
  }

  // A thread goes to sleep on an absent word. The test may take the page out again meanwhile.
  std::string FutexWait(int operation) {
    Buffer buffer = BufferAt(4);
    if (!buffer.AllOut()) return "the word is not out";
    waiter_id_ = 0;
    waiter_ = std::thread([this, buffer, operation] {
      waiter_id_ = gettid();
      auto value = static_cast<uint32_t>(buffer.first_page);
      waited_ = syscall(SYS_futex, buffer.data, operation, value, nullptr, nullptr, 0);
    });
    // Asleep on the futex once its page is back and the thread is still in the call.
    for (int attempt = 0; attempt < 10'000; ++attempt) {
      if (waiter_id_ != 0 && buffer.Present(0) && InFutex(waiter_id_)) return "ok";
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return "the waiter did not get to sleep in 10 s";
  }

  std::string FutexWake(int operation) {
    Buffer buffer = BufferAt(4);
    if (buffer.Present(0)) return "the word is not out";
    // The waiter is found by the word's address, wherever the word's bytes are meanwhile.
    long woken = syscall(SYS_futex, buffer.data, operation, 1, nullptr, nullptr, 0);
    if (woken != 1) return Failed("futex wake", woken);
    waiter_.join();
    if (waited_ != 0) return "the waiter's call failed";
    return Check(buffer.data, buffer, kOldVersion);
  }

  std::string Verify() {
    std::string wrong = region_.Verify(kOldVersion);
    return wrong.empty() ? "ok" : wrong;
  }

 private:
  // Moves some bytes from one descriptor to another through a pipe, so that none of our memory is
  // in between. Returns whether there were any.
  static bool Pump(int from, loff_t* from_at, int to, loff_t* to_at) {
    int ends[2];
    if (pipe(ends) != 0) return false;
    ssize_t bytes = splice(from, from_at, ends[1], nullptr, kPageBytes * 8, 0);
    ssize_t moved = 0;
    while (moved < bytes) {
      ssize_t step = splice(ends[0], nullptr, to, to_at, static_cast<size_t>(bytes - moved), 0);
      if (step <= 0) break;
      moved += step;
    }
    close(ends[0]);
    close(ends[1]);
    return bytes > 0 && moved == bytes;
  }

  static bool InFutex(pid_t thread) {
    std::ifstream file("/proc/self/task/" + std::to_string(thread) + "/syscall");
    int number = -1;
    return file >> number && number == SYS_futex;
  }

  const std::string directory_;
  PatternRegion region_;
  io_uring ring_;
  std::thread waiter_;
  std::atomic<pid_t> waiter_id_{0};
  std::atomic<long> waited_{-1};
};

}  // namespace
}  // namespace zmem

int main(int argc, char** argv) {
  using zmem::Buffer;
  using zmem::kBufferBytes;
  if (argc != 2) {
    std::fprintf(stderr, "usage: kernel_touches DIRECTORY\n");
    return 2;
  }
  zmem::Subject subject(argv[1]);
  auto read_in = [](int fd, const Buffer& b) { return pread(fd, b.data, kBufferBytes, 0); };
  auto write_out = [](const Buffer& b, int fd) { return pwrite(fd, b.data, kBufferBytes, 0); };
  // Two pieces that meet in the middle of a page.
  auto pieces = [](const Buffer& b) {
    return std::array<iovec, 2>{iovec{b.data, 5000}, iovec{b.data + 5000, kBufferBytes - 5000}};
  };
  auto readv_in = [&](int fd, const Buffer& b) { return preadv(fd, pieces(b).data(), 2, 0); };
  auto writev_out = [&](const Buffer& b, int fd) { return pwritev(fd, pieces(b).data(), 2, 0); };

  return zmem::ServeCommands({
      {"verify", [&] { return subject.Verify(); }},
      {"read", [&] { return subject.Into(read_in); }},
      {"readv", [&] { return subject.Into(readv_in); }},
      {"direct read", [&] { return subject.Into(read_in, O_DIRECT); }},
      {"write", [&] { return subject.OutOf(write_out); }},
      {"writev", [&] { return subject.OutOf(writev_out); }},
      {"direct write", [&] { return subject.OutOf(write_out, O_DIRECT); }},
      {"recv", [&] { return subject.Recv(); }},
      {"send", [&] { return subject.Send(); }},
      {"uring read", [&] { return subject.UringRead(0); }},
      {"uring read async", [&] { return subject.UringRead(IOSQE_ASYNC); }},
      {"uring write", [&] { return subject.UringWrite(0); }},
      {"uring write async", [&] { return subject.UringWrite(IOSQE_ASYNC); }},
      {"uring register", [&] { return subject.UringRegister(); }},
      {"uring read fixed", [&] { return subject.UringReadFixed(); }},
      {"uring write fixed", [&] { return subject.UringWriteFixed(); }},
      {"uring unregister", [&] { return subject.UringUnregister(); }},
      {"futex compare", [&] { return subject.FutexCompare(); }},
      {"futex wait", [&] { return subject.FutexWait(FUTEX_WAIT); }},
      {"futex wake", [&] { return subject.FutexWake(FUTEX_WAKE); }},
      {"futex wait private", [&] { return subject.FutexWait(FUTEX_WAIT_PRIVATE); }},
      {"futex wake private", [&] { return subject.FutexWake(FUTEX_WAKE_PRIVATE); }},
  });
}
