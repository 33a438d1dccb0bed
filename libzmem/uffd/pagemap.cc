#include "libzmem/uffd/pagemap.h"

#include <errno.h>
#include <fcntl.h>

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "libzmem/base/check.h"
#include "libzmem/base/kernel_abi.h"

namespace zmem {

namespace {

// Bits of an entry (Documentation/admin-guide/mm/pagemap.rst).
constexpr uint64_t kPresent = uint64_t{1} << 63;
constexpr uint64_t kSwapped = uint64_t{1} << 62;
constexpr uint64_t kGuard = uint64_t{1} << 58;           // Linux 6.15
constexpr uint64_t kWriteProtected = uint64_t{1} << 57;  // by a userfaultfd
constexpr uint64_t kExclusive = uint64_t{1} << 56;

}  // namespace

absl::StatusOr<Pagemap> Pagemap::Open(pid_t pid) {
  std::string path = absl::StrCat("/proc/", pid, "/pagemap");
  int fd = sys::Open(path.c_str(), O_RDONLY);
  if (fd < 0) return sys::ErrnoStatus(-fd, absl::StrCat("cannot open ", path));
  Pagemap pagemap;
  pagemap.fd_.reset(fd);
  pm_scan_arg probe{};
  probe.size = sizeof probe;
  int result = sys::Ioctl(fd, PAGEMAP_SCAN, &probe);
  if (result == -ENOTTY) {
    return absl::FailedPreconditionError(
        "this kernel has no PAGEMAP_SCAN; zmem needs Linux 6.8 or later");
  }
  return pagemap;
}

int Pagemap::ScanPresent(AddressRange range, uint64_t first_chunk,
                         std::span<wire::PageSet> present) const {
  constexpr size_t kRegions = 512;  // a call's worth; more calls follow where it fills up
  page_region regions[kRegions];
  Address at = range.start;
  while (at < range.end) {
    pm_scan_arg scan{};
    scan.size = sizeof scan;
    scan.start = at;
    scan.end = range.end;
    scan.vec = reinterpret_cast<uint64_t>(regions);
    scan.vec_len = kRegions;
    scan.category_inverted = PAGE_IS_PFNZERO | PAGE_IS_FILE;
    scan.category_mask = PAGE_IS_PRESENT | PAGE_IS_PFNZERO | PAGE_IS_FILE;
    int found = sys::Ioctl(fd_.get(), PAGEMAP_SCAN, &scan);
    if (found == -ESRCH) return 0;  // gone; older kernels find nothing there
    if (found < 0) return found;
    for (int i = 0; i < found; ++i) {
      for (Address page = regions[i].start; page < regions[i].end; page += kPageBytes) {
        uint64_t chunk = ChunkNumber(page) - first_chunk;
        ZMEM_CHECK(chunk < present.size());
        present[chunk].Add(PageInChunk(page));
      }
    }
    if (scan.walk_end <= at) return -EIO;  // no progress, which no kernel known to us makes
    at = scan.walk_end;
  }
  return 0;
}

int Pagemap::ReadEntries(Address start, uint64_t* entries, size_t count) const {
  ZMEM_CHECK(count <= kPagesPerChunk);
  ssize_t want = static_cast<ssize_t>(count * sizeof entries[0]);
  ssize_t got = sys::Pread(fd_.get(), entries, static_cast<size_t>(want),
                           (start >> kPageShift) * sizeof entries[0]);
  if (got < 0) return static_cast<int>(got);
  return got == want ? 0 : -ESRCH;
}

int Pagemap::FindAbsent(Address start, std::span<bool> absent) const {
  constexpr uint64_t kSomethingThere = kPresent | kSwapped | kGuard | kWriteProtected;
  uint64_t entries[kPagesPerChunk];
  if (int error = ReadEntries(start, entries, absent.size()); error != 0) return error;
  for (size_t i = 0; i < absent.size(); ++i) absent[i] = (entries[i] & kSomethingThere) == 0;
  return 0;
}

bool Pagemap::IsHuge(uint64_t chunk_number) const {
  page_region region{};
  pm_scan_arg scan{};
  scan.size = sizeof scan;
  scan.start = chunk_number << kChunkShift;
  scan.end = scan.start + kChunkBytes;
  scan.vec = reinterpret_cast<uint64_t>(&region);
  scan.vec_len = 1;
  scan.category_mask = PAGE_IS_HUGE;
  int found = sys::Ioctl(fd_.get(), PAGEMAP_SCAN, &scan);
  return found == 1 && region.start == scan.start && region.end == scan.end;
}

int Pagemap::FindExclusive(Address start, std::span<bool> exclusive) const {
  uint64_t entries[kPagesPerChunk];
  if (int error = ReadEntries(start, entries, exclusive.size()); error != 0) return error;
  for (size_t i = 0; i < exclusive.size(); ++i) {
    exclusive[i] = (entries[i] & kPresent) != 0 && (entries[i] & kExclusive) != 0;
  }
  return 0;
}

}  // namespace zmem
