#include "zmemd/kernel_check.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "absl/strings/str_cat.h"
#include "libzmem/base/kernel_abi.h"
#include "libzmem/base/page.h"
#include "libzmem/uffd/pagemap.h"
#include "libzmem/uffd/userfaultfd.h"

namespace zmem {
namespace {

constexpr char kDevice[] = "/dev/userfaultfd";

// Two pages of this process: [0] is moved to [1].
class TwoPages {
 public:
  TwoPages()
      : data_(static_cast<char*>(mmap(nullptr, 2 * kPageBytes, PROT_READ | PROT_WRITE,
                                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))) {}
  ~TwoPages() {
    if (valid()) munmap(data_, 2 * kPageBytes);
  }
  TwoPages(const TwoPages&) = delete;
  TwoPages& operator=(const TwoPages&) = delete;

  bool valid() const { return data_ != MAP_FAILED; }
  char* page(size_t index) const { return data_ + index * kPageBytes; }
  Address address(size_t index) const { return reinterpret_cast<Address>(page(index)); }

 private:
  char* const data_;
};

absl::Status TryMove(const Userfaultfd& uffd) {
  TwoPages pages;
  if (!pages.valid()) return sys::ErrnoStatus(errno, "no memory for a trial move");
  std::memset(pages.page(0), 0x5a, kPageBytes);
  // Only the target: should the move fail, nothing is left that somebody would have to fill.
  AddressRange target{pages.address(1), pages.address(1) + kPageBytes};
  if (int result = uffd.Register(target); result != 0) {
    return sys::ErrnoStatus(-result, "cannot register memory with a userfaultfd");
  }
  uffdio_move move{};
  move.dst = pages.address(1);
  move.src = pages.address(0);
  move.len = kPageBytes;
  int result = sys::Ioctl(uffd.fd(), UFFDIO_MOVE, &move);
  // Or unmapping it would wait for somebody to read the event.
  uffd.Unregister(target);
  if (result < 0) return sys::ErrnoStatus(-result, "UFFDIO_MOVE failed on a trial page");
  if (pages.page(1)[0] != 0x5a || std::memcmp(pages.page(1), pages.page(1) + 1, kPageBytes - 1)) {
    return absl::DataLossError(
        "UFFDIO_MOVE lost the bytes of a trial page; do not use this kernel");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<UniqueFd> CheckKernel() {
  if (sysconf(_SC_PAGESIZE) != static_cast<long>(kPageBytes)) {
    return absl::FailedPreconditionError(absl::StrCat("zmem manages pages of ", kPageBytes,
                                                      " bytes; this kernel's are of ",
                                                      sysconf(_SC_PAGESIZE)));
  }
  UniqueFd device(sys::Open(kDevice, O_RDWR));
  if (device.get() == -EACCES || device.get() == -EPERM) {
    return absl::PermissionDeniedError(
        absl::StrCat("may not open ", kDevice, "; run zmemd as root"));
  }
  if (!device.valid()) {
    return absl::FailedPreconditionError(
        absl::StrCat("cannot open ", kDevice, ": ", strerror(-device.get()),
                     "; zmem needs Linux 6.8 or later with CONFIG_USERFAULTFD"));
  }
  int fd = sys::Ioctl(device.get(), USERFAULTFD_IOC_NEW,
                      reinterpret_cast<void*>(uintptr_t{O_CLOEXEC | O_NONBLOCK}));
  if (fd < 0)
    return sys::ErrnoStatus(-fd, absl::StrCat("cannot make a userfaultfd with ", kDevice));
  absl::StatusOr<Userfaultfd> uffd = Userfaultfd::Handshake(UniqueFd(fd));
  if (!uffd.ok()) return uffd.status();
  if (absl::Status status = TryMove(*uffd); !status.ok()) return status;
  if (absl::StatusOr<Pagemap> pagemap = Pagemap::Open(getpid()); !pagemap.ok()) {
    return pagemap.status();
  }
  return device;
}

}  // namespace zmem
