#include "libzmem/backing/backing_storage.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "libzmem/base/quantity.h"

namespace zmem {
namespace {

std::string DirectoryOf(const std::string& path) {
  size_t slash = path.find_last_of('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

absl::Status NoDirectIo(const std::string& path) {
  return absl::FailedPreconditionError(
      absl::StrCat("the file system of the backing file ", path,
                   " has no direct I/O: choose a directory on a disk"));
}

absl::Status InUse(const std::string& path) {
  return absl::UnavailableError(absl::StrCat("the backing file ", path,
                                             " is in use, perhaps by another zmemd: give each one "
                                             "its own"));
}

absl::Status OpenError(int error, const std::string& path, const std::string& object) {
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      return absl::NotFoundError(absl::StrCat("cannot create the backing file ", path,
                                              ": its directory does not exist: create it"));
    case EACCES:
    case EPERM:
    case EROFS:
      return absl::PermissionDeniedError(
          absl::StrCat("cannot open the backing file ", path, ": ", object,
                       " cannot be written: check its permissions and mount options"));
    case ELOOP:
      return absl::InvalidArgumentError(absl::StrCat(
          "the backing file ", path, " is a symbolic link: give the path that it leads to"));
    case ENOSPC:
    case EDQUOT:
      return absl::ResourceExhaustedError(
          absl::StrCat("cannot create the backing file ", path, ": no space left on its disk"));
    default:
      return sys::ErrnoStatus(error, absl::StrCat("cannot open the backing file ", path));
  }
}

// Direct I/O in memory would take the memory that zmem is to save.
bool IsInMemory(int fd) {
  struct statfs info;
  return fstatfs(fd, &info) == 0 && (info.f_type == TMPFS_MAGIC || info.f_type == RAMFS_MAGIC);
}

// Whether the kernel says that direct I/O is impossible or needs more than kDiskBlockBytes.
bool RefusesAlignment(int fd) {
  struct statx info;
  if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &info) != 0) return false;
  if ((info.stx_mask & STATX_DIOALIGN) == 0) return false;  // Linux before 6.1, some file systems
  auto refuses = [](uint32_t align) { return align == 0 || kDiskBlockBytes % align != 0; };
  return refuses(info.stx_dio_mem_align) || refuses(info.stx_dio_offset_align);
}

// A file for direct I/O without a name in the directory of `path`. A negative errno if it fails.
int OpenNameless(const std::string& path) {
  constexpr int kFlags = O_RDWR | O_DIRECT;
  int fd = sys::Open(DirectoryOf(path).c_str(), O_TMPFILE | kFlags, 0600);
  if (fd != -EOPNOTSUPP && fd != -EISDIR) return fd;
  // The file system knows no O_TMPFILE. The lock is held, so the name is ours.
  std::string name = absl::StrCat(path, ".data");
  unlink(name.c_str());
  fd = sys::Open(name.c_str(), O_CREAT | O_EXCL | O_NOFOLLOW | kFlags, 0600);
  unlink(name.c_str());
  return fd;
}

}  // namespace

absl::StatusOr<BackingStorage> BackingStorage::Open(const Request& request) {
  struct stat info;
  bool exists = stat(request.path.c_str(), &info) == 0;
  if (exists && !S_ISREG(info.st_mode) && !S_ISBLK(info.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the backing file ", request.path,
                     " is neither a file nor a block device: give a file in a directory on a "
                     "disk, or a partition of its own"));
  }
  BackingStorage storage;
  storage.is_device_ = exists && S_ISBLK(info.st_mode);
  absl::Status status =
      storage.is_device_ ? storage.OpenDevice(request) : storage.OpenFile(request);
  if (!status.ok()) return status;
  return storage;
}

BackingStorage::~BackingStorage() {
  if (is_device_ && data_.valid()) Discard(0, size_bytes_);
}

int BackingStorage::Discard(uint64_t offset, uint64_t bytes) const {
  if (is_device_) {
    uint64_t range[2] = {offset, bytes};
    return sys::Ioctl(fd(), BLKDISCARD, range);
  }
  return sys::Fallocate(fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, bytes);
}

absl::Status BackingStorage::OpenDevice(const Request& request) {
  // O_EXCL: not while it is mounted, used as swap or taken by another zmemd.
  int fd = sys::Open(request.path.c_str(), O_RDWR | O_EXCL | O_DIRECT);
  if (fd == -EBUSY) return InUse(request.path);
  if (fd == -EINVAL) return NoDirectIo(request.path);
  if (fd < 0) return OpenError(-fd, request.path, "the device");
  UniqueFd device(fd);
  uint64_t device_bytes = 0;
  int error = sys::Ioctl(fd, BLKGETSIZE64, &device_bytes);
  if (error < 0) {
    return sys::ErrnoStatus(-error, absl::StrCat("cannot ask the size of ", request.path));
  }
  absl::Status status = TakeSize(request, device_bytes);
  if (!status.ok()) return status;
  is_preallocated_ = request.preallocate;
  data_ = std::move(device);
  // A device that knows no discard keeps its blocks, which is all the same to it.
  if (Discard(0, size_bytes_) != 0) is_preallocated_ = true;
  return absl::OkStatus();
}

absl::Status BackingStorage::OpenFile(const Request& request) {
  absl::Status status = TakeSize(request, request.size_bytes);
  if (status.ok()) status = LockFile(request);
  if (!status.ok()) return status;
  if (IsInMemory(lock_.get())) return NoDirectIo(request.path);
  int fd = OpenNameless(request.path);
  if (fd == -EINVAL) return NoDirectIo(request.path);
  if (fd < 0) {
    return OpenError(-fd, request.path, absl::StrCat("the directory ", DirectoryOf(request.path)));
  }
  data_.reset(fd);
  if (RefusesAlignment(fd)) return NoDirectIo(request.path);
  return TakeSpace(request);
}

absl::Status BackingStorage::LockFile(const Request& request) {
  int fd = sys::Open(request.path.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW, 0600);
  if (fd < 0) {
    return OpenError(-fd, request.path,
                     absl::StrCat("it or the directory ", DirectoryOf(request.path)));
  }
  lock_.reset(fd);
  if (flock(fd, LOCK_EX | LOCK_NB) == 0) return absl::OkStatus();
  if (errno == EWOULDBLOCK) return InUse(request.path);
  return sys::ErrnoStatus(errno, absl::StrCat("cannot lock the backing file ", request.path));
}

absl::Status BackingStorage::TakeSize(const Request& request, uint64_t available_bytes) {
  uint64_t wanted_bytes = request.size_bytes != 0 ? request.size_bytes : available_bytes;
  uint64_t usable_bytes = std::min({wanted_bytes, available_bytes, request.maximum_bytes});
  uint64_t units = usable_bytes / request.unit_bytes;
  if (units < request.minimum_units) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the backing file ", request.path, " is too small with ", FormatBytes(usable_bytes),
        ": give it at least ", FormatBytes(request.minimum_units * request.unit_bytes)));
  }
  size_bytes_ = units * request.unit_bytes;
  return absl::OkStatus();
}

absl::Status BackingStorage::TakeSpace(const Request& request) {
  auto error_of = [&](int error) {
    std::string what =
        absl::StrCat("cannot give the backing file ", request.path, " ", FormatBytes(size_bytes_));
    if (error == ENOSPC || error == EDQUOT) {
      return absl::ResourceExhaustedError(
          absl::StrCat(what, ": no space left on its disk: make it smaller or make room"));
    }
    return sys::ErrnoStatus(error, what);
  };
  if (ftruncate(fd(), static_cast<off_t>(size_bytes_)) != 0) return error_of(errno);
  if (!request.preallocate) return absl::OkStatus();
  int error = sys::Fallocate(fd(), 0, 0, size_bytes_);
  if (error != 0) return error_of(-error);
  is_preallocated_ = true;
  return absl::OkStatus();
}

}  // namespace zmem
