#include "bench/zram_device.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "libzmem/base/page.h"
#include "tests/error.h"

namespace zmem {
namespace {

constexpr char kHotAdd[] = "/sys/class/zram-control/hot_add";
constexpr char kHotRemove[] = "/sys/class/zram-control/hot_remove";
// The owner's descriptor of the device, and udev's, may close a little after the owner has ended.
constexpr int kRemoveTries = 500;
constexpr int kRemovePauseMs = 10;

bool Remove(const char* number) {
  for (int tries = 0; tries < kRemoveTries; ++tries) {
    int remove = open(kHotRemove, O_WRONLY | O_CLOEXEC);
    bool is_removed = write(remove, number, strlen(number)) == static_cast<ssize_t>(strlen(number));
    bool is_busy = !is_removed && errno == EBUSY;
    close(remove);
    if (!is_busy) return is_removed;
    poll(nullptr, 0, kRemovePauseMs);
  }
  return false;
}

// The guardian's whole life: makes a device, tells its number, removes it when nobody holds the
// other end of `owner` any more. Out of reach of the terminal's signals.
[[noreturn]] void Guard(int owner) {
  setsid();
  char number[16] = "";
  int add = open(kHotAdd, O_RDONLY | O_CLOEXEC);
  ssize_t bytes = read(add, number, sizeof number - 1);
  close(add);
  if (bytes <= 0) _exit(1);
  // Without the line's end, which send and hot_remove both do not need.
  number[strcspn(number, "\n")] = '\0';
  send(owner, number, sizeof number, MSG_NOSIGNAL);
  char byte;
  while (read(owner, &byte, 1) < 0) {
  }
  _exit(Remove(number) ? 0 : 1);
}

}  // namespace

std::string ZramDevice::WhyUnavailable() {
  if (geteuid() != 0) return "setting up zram needs root";
  if (access(kHotAdd, R_OK) != 0) return "this kernel has no zram (modprobe zram)";
  return "";
}

ZramDevice::ZramDevice(uint64_t bytes) {
  std::string why = WhyUnavailable();
  if (!why.empty()) throw HarnessError(why);
  int ends[2];
  CheckErrno(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), "socketpair");
  UniqueFd owner(ends[0]);
  alive_.reset(ends[1]);
  guardian_ = CheckErrno(fork(), "fork");
  if (guardian_ == 0) {
    alive_.reset();
    Guard(owner.get());
  }
  owner.reset();
  char number[16];
  if (recv(alive_.get(), number, sizeof number, 0) != sizeof number) {
    throw HarnessError("the kernel gives no zram device: see dmesg");
  }
  number_ = std::atoi(number);
  // From here on whatever throws, or kills us, wakes the guardian.
  SetAttribute("comp_algorithm", "lz4");
  SetAttribute("disksize", std::to_string(bytes));
  std::string path = "/dev/zram" + std::to_string(number_);
  device_.reset(CheckErrno(open(path.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC), path));
}

ZramDevice::~ZramDevice() {
  device_.reset();
  alive_.reset();
  int status = 0;
  if (waitpid(guardian_, &status, 0) != guardian_ || status != 0) {
    std::fprintf(stderr, "/dev/zram%d could not be removed: echo %d > %s\n", number_, number_,
                 kHotRemove);
  }
}

void ZramDevice::Write(uint64_t first_page, std::span<const std::byte> pages) {
  auto offset = static_cast<off_t>(first_page * kPageBytes);
  ssize_t written = pwrite(device_.get(), pages.data(), pages.size(), offset);
  CheckErrno(static_cast<int>(written), "write to zram");
  if (static_cast<size_t>(written) != pages.size()) throw HarnessError("short write to zram");
}

void ZramDevice::Discard(uint64_t page) {
  uint64_t range[2] = {page * kPageBytes, kPageBytes};
  CheckErrno(ioctl(device_.get(), BLKDISCARD, range), "BLKDISCARD on zram");
}

void ZramDevice::Compact() { SetAttribute("compact", "1"); }

ZramDevice::Usage ZramDevice::usage() const {
  std::ifstream file(AttributePath("mm_stat"));
  uint64_t original_bytes = 0;
  Usage usage;
  file >> original_bytes >> usage.compressed_bytes >> usage.held_bytes;
  if (!file) throw HarnessError("cannot read zram's mm_stat");
  return usage;
}

std::string ZramDevice::AttributePath(const char* name) const {
  return "/sys/block/zram" + std::to_string(number_) + "/" + name;
}

void ZramDevice::SetAttribute(const char* name, const std::string& value) {
  std::ofstream file(AttributePath(name));
  file << value;
  file.close();
  if (!file) throw ErrnoError(std::string("cannot set zram's ") + name + " to " + value);
}

}  // namespace zmem
