#include "libzmem/base/shared_region.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"

namespace zmem {

absl::StatusOr<SharedRegion> SharedRegion::Create(const std::string& name,
                                                  uint64_t reserved_bytes) {
  SharedRegion region;
  region.fd_.reset(memfd_create(name.c_str(), MFD_CLOEXEC));
  if (!region.fd_.valid()) {
    return sys::ErrnoStatus(errno, absl::StrCat("cannot create the shared region ", name));
  }
  if (ftruncate(region.fd_.get(), static_cast<off_t>(reserved_bytes)) != 0) {
    return sys::ErrnoStatus(errno, absl::StrCat("cannot size the shared region ", name, " to ",
                                                reserved_bytes, " bytes"));
  }
  void* data = mmap(nullptr, reserved_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
                    region.fd_.get(), 0);
  if (data == MAP_FAILED) {
    return sys::ErrnoStatus(errno, absl::StrCat("cannot map the shared region ", name, " of ",
                                                reserved_bytes, " bytes"));
  }
  region.data_ = static_cast<std::byte*>(data);
  region.reserved_bytes_ = reserved_bytes;
  return region;
}

SharedRegion::SharedRegion(SharedRegion&& other) noexcept
    : fd_(std::move(other.fd_)),
      data_(std::exchange(other.data_, nullptr)),
      reserved_bytes_(std::exchange(other.reserved_bytes_, 0)) {}

SharedRegion& SharedRegion::operator=(SharedRegion&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(data_, other.data_);
  std::swap(reserved_bytes_, other.reserved_bytes_);
  return *this;
}

SharedRegion::~SharedRegion() {
  if (data_ != nullptr) munmap(data_, reserved_bytes_);
}

int SharedRegion::Discard(uint64_t offset, uint64_t bytes) const {
  return sys::Fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, bytes);
}

}  // namespace zmem
