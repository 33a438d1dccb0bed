// A program's own use of userfaultfd, as an emulator or a garbage collector has it: it fills the
// pages of a range itself when they are touched.
#pragma once

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "libzmem/base/kernel_abi.h"
#include "libzmem/base/page.h"
#include "tests/page_pattern.h"

namespace zmem {

class OwnUserfaultfd {
 public:
  ~OwnUserfaultfd() {
    stop_ = true;
    if (handler_.joinable()) handler_.join();
    close(uffd_);
  }

  // Maps a range, serves its faults, and touches its first half.
  std::string Start() {
    void* mapping = mmap(nullptr, kPages * kPageBytes, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    std::string wrong = TakeOver(static_cast<std::byte*>(mapping), 0, kPages);
    return wrong.empty() ? Touch(kPages / 2) : wrong;
  }

  // Serves the faults of pages `first` and following of `data` from a thread: what is absent there
  // becomes a pattern page of its number and version 1. `data` is the same in each call.
  std::string TakeOver(std::byte* data, uint64_t first, uint64_t pages) {
    data_ = data;
    if (uffd_ < 0) uffd_ = Open();
    std::string wrong = Register(uffd_, first, pages);
    if (wrong.empty() && !handler_.joinable()) handler_ = std::thread([this] { Serve(); });
    return wrong;
  }

  // The same, each stretch from another thread at the same time.
  std::string TakeOverFromThreads(std::byte* data, uint64_t first, uint64_t pages) {
    constexpr uint64_t kThreads = 10;
    data_ = data;
    if (uffd_ < 0) uffd_ = Open();
    std::vector<std::thread> threads;
    std::vector<std::string> answers(kThreads);
    uint64_t each = pages / kThreads;
    for (uint64_t i = 0; i < kThreads; ++i) {
      threads.emplace_back([&, i] { answers[i] = Register(uffd_, first + i * each, each); });
    }
    for (std::thread& thread : threads) thread.join();
    if (!handler_.joinable()) handler_ = std::thread([this] { Serve(); });
    std::string wrong;
    for (const std::string& answer : answers) wrong += answer;
    return wrong;
  }

  std::string LetGo(uint64_t first, uint64_t pages) {
    uffdio_range range{reinterpret_cast<Address>(data_) + first * kPageBytes, pages * kPageBytes};
    return ioctl(uffd_, UFFDIO_UNREGISTER, &range) == 0 ? "" : "UFFDIO_UNREGISTER";
  }

  // What the kernel says to another descriptor for pages that this one serves: empty if it agrees.
  std::string TakeOverTwice(uint64_t first, uint64_t pages) {
    int other = Open();
    std::string answer = Register(other, first, pages);
    close(other);
    return answer;
  }

  // Drops pages and touches them. Each must come from the program's own handler.
  std::string DropAndTouch(uint64_t first, uint64_t pages) {
    uint64_t served = served_;
    std::byte* start = data_ + first * kPageBytes;
    if (madvise(start, pages * kPageBytes, MADV_DONTNEED) != 0) return "cannot drop pages";
    for (uint64_t number = first; number < first + pages; ++number) {
      if (!VerifyPage(data_ + number * kPageBytes, number, 1)) return Wrong(number);
    }
    return served_ == served + pages ? "" : "somebody else has served the program's own faults";
  }

  // Reads everything touched so far, which must have stayed, and some more, which must come from
  // the program's own handler.
  std::string TouchSome() {
    uint64_t served = served_;
    std::string wrong = Touch(touched_);
    if (!wrong.empty()) return wrong;
    if (served_ != served) return "pages were taken out of the program's own userfaultfd's range";
    wrong = Touch(touched_ + 100);
    if (!wrong.empty()) return wrong;
    return served_ == served + 100 ? "" : "the program's own handler was not asked";
  }

 private:
  static constexpr uint64_t kPages = 2048;

  static std::string Wrong(uint64_t number) {
    return "WRONG page " + std::to_string(number) + " of the program's own userfaultfd";
  }

  static int Open() {
    int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
    int uffd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
    close(device);
    uffdio_api api{.api = UFFD_API, .features = 0, .ioctls = 0};
    ioctl(uffd, UFFDIO_API, &api);
    return uffd;
  }

  // By one of the two ways there are in libc, in turn.
  std::string Register(int uffd, uint64_t first, uint64_t pages) {
    uffdio_register range{};
    range.range = {reinterpret_cast<Address>(data_) + first * kPageBytes, pages * kPageBytes};
    range.mode = UFFDIO_REGISTER_MODE_MISSING;
    bool by_number = registrations_++ % 2 == 1;
    long result = by_number ? syscall(SYS_ioctl, uffd, UFFDIO_REGISTER, &range)
                            : ioctl(uffd, UFFDIO_REGISTER, &range);
    return result == 0 ? "" : std::string("UFFDIO_REGISTER: ") + std::strerror(errno);
  }

  std::string Touch(uint64_t pages) {
    for (uint64_t number = 0; number < pages; ++number) {
      if (!VerifyPage(data_ + number * kPageBytes, number, 1)) return Wrong(number);
    }
    touched_ = pages;
    return "";
  }

  void Serve() {
    alignas(kPageBytes) static std::byte page[kPageBytes];
    while (!stop_) {
      pollfd readable{uffd_, POLLIN, 0};
      uffd_msg message;
      if (poll(&readable, 1, 20) != 1) continue;
      if (read(uffd_, &message, sizeof message) != sizeof message) continue;
      Address address = PageStart(message.arg.pagefault.address);
      FillPage(page, (address - reinterpret_cast<Address>(data_)) / kPageBytes, 1);
      uffdio_copy copy{};
      copy.dst = address;
      copy.src = reinterpret_cast<Address>(page);
      copy.len = kPageBytes;
      ++served_;
      ioctl(uffd_, UFFDIO_COPY, &copy);
    }
  }

  int uffd_ = -1;
  std::byte* data_ = nullptr;
  std::atomic<int> registrations_{0};
  uint64_t touched_ = 0;
  std::atomic<uint64_t> served_{0};
  std::atomic<bool> stop_{false};
  std::thread handler_;
};

}  // namespace zmem
