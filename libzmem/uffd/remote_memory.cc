#include "libzmem/uffd/remote_memory.h"

#include <fcntl.h>

#include <string>

#include "absl/strings/str_cat.h"

namespace zmem {

absl::StatusOr<RemoteMemory> RemoteMemory::Open(pid_t pid) {
  std::string path = absl::StrCat("/proc/", pid, "/mem");
  int fd = sys::Open(path.c_str(), O_RDONLY);
  if (fd < 0) return sys::ErrnoStatus(-fd, absl::StrCat("cannot open ", path));
  RemoteMemory memory;
  memory.fd_.reset(fd);
  return memory;
}

}  // namespace zmem
