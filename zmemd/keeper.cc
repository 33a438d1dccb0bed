#include "zmemd/keeper.h"

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "libzmem/base/sys.h"
#include "libzmem/uffd/userfaultfd.h"

namespace zmem {
namespace {

constexpr int kPeriodMs = 100;
// The lowest address a program may map: no page of a program that zmem manages lies there.
constexpr Address kNoPage = 0x10000;
// All that faults can be about.
constexpr AddressRange kEverything{kNoPage, 0x7ffffffff000};

struct Orphan {
  Userfaultfd uffd;
  bool has_agent;
  int waiting_ms = 0;
};

// Closes what zmemd had open but its userfaultfds: its clients' agents learn by it that it is gone,
// and another zmemd may listen. Returns the userfaultfds.
std::vector<Orphan> TakeOver(const std::atomic<uint8_t>* has_agent, size_t board_size) {
  std::vector<int> others;
  std::vector<Orphan> orphans;
  DIR* directory = opendir("/proc/self/fd");
  if (directory == nullptr) return orphans;
  while (dirent* entry = readdir(directory)) {
    if (entry->d_name[0] == '.') continue;
    int fd = std::atoi(entry->d_name);
    char target[64];
    ssize_t length = readlinkat(dirfd(directory), entry->d_name, target, sizeof target);
    constexpr char kUserfaultfd[] = "anon_inode:[userfaultfd]";
    bool is_uffd = length == static_cast<ssize_t>(sizeof kUserfaultfd - 1) &&
                   std::memcmp(target, kUserfaultfd, sizeof kUserfaultfd - 1) == 0;
    if (is_uffd) {
      bool marked = static_cast<size_t>(fd) < board_size && has_agent[fd].load() != 0;
      orphans.push_back({Userfaultfd::Adopt(UniqueFd(fd)), marked});
    } else if (fd != dirfd(directory)) {
      others.push_back(fd);
    }
  }
  closedir(directory);
  for (int fd : others) close(fd);
  return orphans;
}

bool AddressSpaceIsGone(const Userfaultfd& uffd) {
  alignas(kPageBytes) static const std::byte zeros[kPageBytes] = {};
  size_t filled = 0;
  return uffd.Copy(kNoPage, zeros, 1, &filled) == FillResult::kGone;
}

// Tells whoever waits in `orphan` that its page is lost. Children forked meanwhile join `orphans`.
void PoisonWaiters(Orphan& orphan, std::vector<Orphan>& forked) {
  uffd_msg messages[16];
  int count = orphan.uffd.Read(messages);
  for (int i = 0; i < count; ++i) {
    if (messages[i].event == UFFD_EVENT_PAGEFAULT) {
      Address page = PageStart(messages[i].arg.pagefault.address);
      orphan.uffd.Poison(page);
      orphan.uffd.Wake({page, page + kPageBytes});
    } else if (messages[i].event == UFFD_EVENT_FORK) {
      UniqueFd child(static_cast<int>(messages[i].arg.fork.ufd));
      forked.push_back({Userfaultfd::Adopt(std::move(child)), false});
    }
  }
}

void WatchOver(std::vector<Orphan> orphans, uint32_t timeout_s) {
  // Faults that zmemd had read but not answered go back to the queue (FACTS 2).
  for (const Orphan& orphan : orphans) orphan.uffd.Wake(kEverything);
  while (!orphans.empty()) {
    std::vector<Orphan> forked;
    for (Orphan& orphan : orphans) {
      if (orphan.has_agent) continue;
      pollfd pending{orphan.uffd.fd(), POLLIN, 0};
      bool waits = sys::Poll(&pending, 1, 0) > 0 && (pending.revents & POLLIN) != 0;
      orphan.waiting_ms = waits ? orphan.waiting_ms + kPeriodMs : 0;
      if (orphan.waiting_ms > static_cast<int64_t>(timeout_s) * 1000) PoisonWaiters(orphan, forked);
    }
    std::erase_if(orphans, [](const Orphan& orphan) { return AddressSpaceIsGone(orphan.uffd); });
    for (Orphan& child : forked) orphans.push_back(std::move(child));
    poll(nullptr, 0, kPeriodMs);
  }
}

[[noreturn]] void RunKeeper(int zmemd_pidfd, const std::atomic<uint8_t>* has_agent,
                            size_t board_size, uint32_t timeout_s) {
  prctl(PR_SET_NAME, "zmem-keeper");
  // What stops zmemd in an orderly way must not stop the keeper before it.
  sigset_t all;
  sigfillset(&all);
  sigprocmask(SIG_BLOCK, &all, nullptr);
  pollfd ended{zmemd_pidfd, POLLIN, 0};
  sys::Poll(&ended, 1, -1);
  WatchOver(TakeOver(has_agent, board_size), timeout_s);
  _exit(0);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Keeper>> Keeper::Start(uint32_t timeout_s) {
  void* shared = mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (shared == MAP_FAILED) return sys::ErrnoStatus(errno, "no memory for the keeper's board");
  auto* board = static_cast<Board*>(shared);
  int pidfd = static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0));
  if (pidfd < 0) return sys::ErrnoStatus(errno, "cannot get a descriptor of this process");
  long pid = syscall(SYS_clone, CLONE_FILES | SIGCHLD, nullptr, nullptr, nullptr, 0);
  if (pid < 0) return sys::ErrnoStatus(errno, "cannot start the keeper");
  if (pid == 0) RunKeeper(pidfd, *board, kMaxDescriptors, timeout_s);
  return std::unique_ptr<Keeper>(new Keeper(static_cast<pid_t>(pid), board));
}

Keeper::~Keeper() {
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
  munmap(has_agent_, sizeof(Board));
}

void Keeper::SetHasAgent(int uffd, bool has_agent) {
  if (uffd >= 0 && static_cast<size_t>(uffd) < kMaxDescriptors) (*has_agent_)[uffd] = has_agent;
}

}  // namespace zmem
