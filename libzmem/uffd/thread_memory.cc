#include "libzmem/uffd/thread_memory.h"

#include <dirent.h>
#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <cstdlib>
#include <string>

#include "absl/strings/str_cat.h"
#include "libzmem/base/sys.h"
#include "libzmem/wire/kept_memory.h"

namespace zmem {
namespace {

// Below a robust list's head lies the static thread-local storage, above it the rest of glibc's
// control block. (The stack further below is left out by its shape.)
constexpr uint64_t kBelowControlBlockBytes = 64 * 1024;
constexpr uint64_t kAboveControlBlockBytes = 16 * 1024;
// A mutex of libc's, from its futex word to the end of its links.
constexpr uint64_t kMutexBytes = 64;
// The kernel looks at no more (ROBUST_LIST_LIMIT).
constexpr int kMaxHeld = 2048;

AddressRange PagesAround(Address at, uint64_t below, uint64_t above) {
  Address start = at > below ? at - below : 0;
  return {PageStart(start), PageStart(at + above + kPageBytes - 1)};
}

// Adds the pages of the mutex whose link is `entry`, as a robust list names it.
void AddMutex(Address entry, long futex_offset, std::vector<AddressRange>& ranges) {
  constexpr Address kPriorityInheriting = 1;
  Address link = entry & ~kPriorityInheriting;
  ranges.push_back(PagesAround(link, 0, kMutexBytes));
  ranges.push_back(PagesAround(link + static_cast<Address>(futex_offset), 0, sizeof(uint32_t)));
}

void AddHeldMutexes(Address head_address, const RemoteMemory& memory,
                    std::vector<AddressRange>& ranges) {
  robust_list_head head;
  if (!memory.Read(head_address, &head, sizeof head)) return;
  Address pending = reinterpret_cast<Address>(head.list_op_pending);
  if (pending != 0) AddMutex(pending, head.futex_offset, ranges);
  Address entry = reinterpret_cast<Address>(head.list.next);
  for (int held = 0; held < kMaxHeld && entry != head_address && entry != 0; ++held) {
    AddMutex(entry, head.futex_offset, ranges);
    Address next;
    if (!memory.Read(entry & ~Address{1}, &next, sizeof next)) return;
    entry = next;
  }
}

}  // namespace

absl::StatusOr<std::vector<AddressRange>> ThreadMemory(pid_t pid, const RemoteMemory& memory) {
  std::string path = absl::StrCat("/proc/", pid, "/task");
  DIR* directory = opendir(path.c_str());
  if (directory == nullptr) return sys::ErrnoStatus(errno, absl::StrCat("cannot open ", path));
  std::vector<AddressRange> ranges;
  while (dirent* entry = readdir(directory)) {
    pid_t tid = std::atoi(entry->d_name);
    if (tid == 0) continue;
    robust_list_head* head = nullptr;
    size_t length = 0;
    if (syscall(SYS_get_robust_list, tid, &head, &length) != 0) continue;  // it has just ended
    if (head == nullptr) continue;  // not a thread of libc's: the agent, a runtime of its own
    Address at = reinterpret_cast<Address>(head);
    ranges.push_back(PagesAround(at, kBelowControlBlockBytes, kAboveControlBlockBytes));
    AddHeldMutexes(at, memory, ranges);
  }
  closedir(directory);
  return ranges;
}

std::optional<KeptRanges> ReadKept(Address kept, const RemoteMemory& memory) {
  using wire::KeptMemory;
  KeptRanges result;
  std::array<uint64_t, KeptMemory::kRanges> packed;
  // The generation first: what is added while the rest is read is then not counted.
  if (!memory.Read(kept + offsetof(KeptMemory, generation), &result.generation,
                   sizeof result.generation) ||
      !memory.Read(kept + offsetof(KeptMemory, ranges), packed.data(), sizeof packed)) {
    return std::nullopt;
  }
  for (uint64_t each : packed) {
    if (each != 0) result.ranges.push_back(KeptMemory::Unpack(each));
  }
  return result;
}

}  // namespace zmem
