// A program's own use of userfaultfd, as an emulator or a garbage collector has it: it fills the
// pages of a range itself when they are touched.
#pragma once

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <string>
#include <thread>

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

  // Maps and registers a range, serves its faults from a thread, and touches its first half.
  std::string Start() {
    void* mapping = mmap(nullptr, kPages * kPageBytes, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    data_ = static_cast<std::byte*>(mapping);
    std::string wrong = Register(data_, kPages * kPageBytes);
    if (!wrong.empty()) return wrong;
    handler_ = std::thread([this] { Serve(); });
    return Touch(kPages / 2);
  }

  // Makes a userfaultfd and registers a range with it.
  std::string Register(std::byte* data, size_t bytes) {
    int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
    uffd_ = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
    close(device);
    uffdio_api api{.api = UFFD_API, .features = 0, .ioctls = 0};
    uffdio_register range{};
    range.range = {reinterpret_cast<Address>(data), bytes};
    range.mode = UFFDIO_REGISTER_MODE_MISSING;
    if (ioctl(uffd_, UFFDIO_API, &api) != 0) return "no userfaultfd";
    if (ioctl(uffd_, UFFDIO_REGISTER, &range) != 0) {
      return std::string("UFFDIO_REGISTER: ") + std::strerror(errno);
    }
    return "";
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

  std::string Touch(uint64_t pages) {
    for (uint64_t number = 0; number < pages; ++number) {
      if (!VerifyPage(data_ + number * kPageBytes, number, 1)) {
        return "WRONG page " + std::to_string(number) + " of the program's own userfaultfd";
      }
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
  uint64_t touched_ = 0;
  std::atomic<uint64_t> served_{0};
  std::atomic<bool> stop_{false};
  std::thread handler_;
};

}  // namespace zmem
