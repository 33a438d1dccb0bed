#include "preload/agent.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/prctl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

#include "libzmem/base/kernel_abi.h"
#include "preload/keep.h"
#include "preload/line.h"
#include "preload/lockdown.h"
#include "preload/raw_syscall.h"

namespace zmem {
namespace {

using raw::AsLong;
using raw::NowMs;
using raw::Syscall;

// Short-lived programs end before this and have paid one thread start and no more.
constexpr int64_t kFirstSleepMs = 250;
// How often a small program looks at its size at most: a wake-up costs some microseconds.
constexpr int64_t kLongestSleepMs = 4000;
constexpr int64_t kLongestReconnectMs = 30'000;
// Slabs tried for the staging area, most first: it is address space, which RLIMIT_AS may bound.
constexpr size_t kStagingSlabs[] = {64, 16, 4};
// How often a move's EAGAIN is tried again. It may be a page's lock, which is soon free; or an
// event that waits to be read, which zmemd will not do before we have answered.
constexpr int kMoveRetries = 3;

enum class Outcome {
  kTooSmall,    // come again: later, when larger, or at once with a wiped token
  kNoDaemon,    // come again later: nobody listens, it hung up, or there is no room for staging
  kRefused,     // for good
  kDetached,    // zmemd has put everything back
  kDaemonDied,  // while pages may be out
};

constexpr uint64_t kBellMask = uint64_t{1} << (kBellSignal - 1);

// Makes a call on the connection. That the kernel is short of memory for it says nothing about
// zmemd, and is over soon: the call is made again, for a second at most. So it is when zmemd has
// closed its end with a message of ours unread, which is told once, before what zmemd had sent.
template <typename Call>
long Persist(Call call) {
  constexpr int kTries = 1000;
  constexpr timespec kPause{0, 1'000'000};
  long result = call();
  for (int tries = 1; tries < kTries; ++tries) {
    bool passing = result == -ENOMEM || result == -ENOBUFS || result == -EAGAIN ||
                   result == -EINTR || result == -ECONNRESET;
    if (!passing) break;
    Syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, AsLong(&kPause), 0);
    result = call();
  }
  return result;
}

class Agent {
 public:
  explicit Agent(AgentState* state) : state_(*state) {}

  [[noreturn]] void Run();

 private:
  int64_t FirstSleepMs() const;
  void SleepUnnoticed(int64_t ms);
  bool SetUp();
  // The bell must be heard in every long wait.
  void Sleep(int64_t ms);
  // Takes the bell's signal, if it came within `timeout_ms` (-1: for ever) and nothing else did.
  // True if there is something to receive from zmemd.
  bool Listen(int64_t timeout_ms);
  // What threads of the program have asked for: passed on to zmemd while it may hold pages, else
  // granted.
  void HearWishes();
  void Grant(wire::Wish wish);
  // Passes on what they have handed in at the desk, which is open only while zmemd answers.
  void HearQueries();
  [[noreturn]] void Leave();
  [[noreturn]] void GiveUp(const char* why);
  uint64_t ResidentBytes() const;
  Outcome AttachAndServe();
  Outcome Connect();
  Outcome SayHello();
  Outcome HandOverUserfaultfd();
  Outcome Serve();
  bool MapStaging();
  void UnmapStaging();
  void UnlockStaging();
  void WipeTokenPage();
  bool RunMove(const wire::Move& move);
  // Moves what of `part` it can; adds that to `done` and the rest to the report's counts. False if
  // the layout is changing: what was to come after it waits for another time.
  bool MoveRuns(const wire::MovePart& part, wire::PageSet* done, wire::Report* report);
  bool RunDiscard(const wire::Discard& discard);
  bool RunPopulate(const wire::Populate& populate);
  // madvise(advice) on each run of `pages`, counted from `start`; adds those that it worked for to
  // `done`.
  void Advise(Address start, const wire::PageSet& pages, int advice, wire::PageSet* done,
              wire::Report* report);
  // Whether `slab` is one of the staging area's.
  bool IsSlab(Address slab) const;
  // Keeps account of the slots that hold a page; tells the bell when all is noted.
  void NoteSlots(Address slab, const wire::PageSet& pages, bool hold);
  void TellStaged();
  // One UFFDIO_MOVE; returns 0 or the error of the first page that did not move, and sets `moved`.
  int MovePages(Address target, Address source, size_t pages, size_t* moved);

  // Returns the message's size, 0 at the end of the connection, or a negative errno.
  long Receive(void* buffer, int* descriptor);
  bool Send(const void* message, size_t message_bytes, int descriptor = -1);

  void Explain(const char* what, const char* detail = "");
  void Print(const Line& line);
  [[noreturn]] void EndProgram();
  [[noreturn]] void WatchOrphan();

  AgentState& state_;
  long pid_ = 0;
  int self_ = -1;    // pidfd of this process
  int statm_ = -1;   // /proc/self/statm
  int socket_ = -1;  // to zmemd
  int uffd_ = -1;
  int bell_ = -1;  // signalfd of kBellSignal
  AddressRange staging_{};
  wire::PageSet occupied_[kStagingSlabs[0]] = {};  // slots that hold a page, by slab
  bool serving_ = false;                           // zmemd may hold pages, and answers
  uint32_t passed_on_[wire::kWishes] = {};         // askings that zmemd was told of
  bool leaving_ = false;
  uint64_t min_resident_bytes_ = 0;
  bool explained_ = false;
  bool for_good_ = false;  // zmemd was told to leave this program alone
};

// Before there are descriptors of our own: the table is still the program's.
void Agent::SleepUnnoticed(int64_t ms) {
  int64_t until_ms = NowMs() + ms;
  for (int64_t left_ms = ms; left_ms > 0 && !leaving_; left_ms = until_ms - NowMs()) {
    timespec timeout{left_ms / 1000, (left_ms % 1000) * 1'000'000};
    Syscall(SYS_rt_sigtimedwait, AsLong(&kBellMask), 0, AsLong(&timeout), sizeof kBellMask);
    HearWishes();
  }
  if (leaving_) Leave();
}

bool Agent::SetUp() {
  // A table of our own, without the program's descriptors: a pipe's far end must not wait for us,
  // and the program must not be able to close what we hold.
  if (Syscall(SYS_close_range, 0, ~0U, CLOSE_RANGE_UNSHARE) < 0) return false;
  Syscall(SYS_prctl, PR_SET_NAME, AsLong("zmem-agent"));
  bell_ = static_cast<int>(
      Syscall(SYS_signalfd4, -1, AsLong(&kBellMask), sizeof kBellMask, SFD_CLOEXEC | SFD_NONBLOCK));
  pid_ = Syscall(SYS_getpid);
  self_ = static_cast<int>(Syscall(SYS_pidfd_open, pid_, 0));
  statm_ = static_cast<int>(
      Syscall(SYS_openat, AT_FDCWD, AsLong("/proc/self/statm"), O_RDONLY | O_CLOEXEC));
  min_resident_bytes_ = state_.options.min_resident_bytes;
  return bell_ >= 0 && self_ >= 0 && statm_ >= 0;
}

void Agent::Sleep(int64_t ms) {
  int64_t until_ms = NowMs() + ms;
  for (int64_t left_ms = ms; left_ms > 0 && !leaving_; left_ms = until_ms - NowMs()) {
    pollfd rung{bell_, POLLIN, 0};
    Syscall(SYS_poll, AsLong(&rung), 1, left_ms);
    if (rung.revents != 0) HearWishes();
  }
}

bool Agent::Listen(int64_t timeout_ms) {
  pollfd fds[2] = {{socket_, POLLIN, 0}, {bell_, POLLIN, 0}};
  Syscall(SYS_poll, AsLong(fds), 2, timeout_ms);
  if (fds[1].revents != 0) HearWishes();
  return fds[0].revents != 0;
}

void Agent::HearQueries() {
  while (const wire::Query* query = NextQuery(state_.desk)) Send(query, sizeof *query);
}

void Agent::HearWishes() {
  signalfd_siginfo ignored;
  if (bell_ >= 0) Syscall(SYS_read, bell_, AsLong(&ignored), sizeof ignored);
  if (serving_) HearQueries();
  for (size_t i = 0; i < wire::kWishes; ++i) {
    wire::Wish wish = static_cast<wire::Wish>(i);
    uint32_t asked = state_.bell.asked[i].load();
    if (asked == state_.bell.granted[i].load() || (serving_ && asked == passed_on_[i])) continue;
    passed_on_[i] = asked;
    if (serving_) {
      wire::Request request{};
      request.wish = wish;
      Send(&request, sizeof request);  // if zmemd is gone, the next receive tells
    } else if (wish == wire::Wish::kLeave) {
      leaving_ = true;
    } else {
      Grant(wish);
    }
  }
}

void Agent::Grant(wire::Wish wish) {
  GrantUpTo(state_.bell, wish, passed_on_[static_cast<size_t>(wish)]);
}

void Agent::Leave() {
  if (leaving_) Grant(wire::Wish::kLeave);
  Syscall(SYS_exit, 0);
  __builtin_unreachable();
}

void Agent::GiveUp(const char* why) {
  Explain(why);
  if (state_.options.required) EndProgram();
  Leave();
}

uint64_t Agent::ResidentBytes() const {
  char text[128];
  long got = Syscall(SYS_pread64, statm_, AsLong(text), sizeof text, 0);
  uint64_t fields[2] = {};
  size_t field = 0;
  for (long i = 0; i < got && field < 2; ++i) {
    if (text[i] == ' ') {
      ++field;
    } else if (text[i] >= '0' && text[i] <= '9') {
      fields[field] = fields[field] * 10 + static_cast<uint64_t>(text[i] - '0');
    }
  }
  return fields[1] * kPageBytes;
}

// Who sends it away again and again has it back later each time: every page comes back for that.
int64_t Agent::FirstSleepMs() const {
  constexpr uint32_t kMostDoublings = 8;
  uint32_t doublings = state_.bell.dismissals.load();
  return kFirstSleepMs << (doublings < kMostDoublings ? doublings : kMostDoublings);
}

void Agent::Run() {
  if (!state_.options.required) SleepUnnoticed(FirstSleepMs());
  if (state_.is_child) state_.family->credit.store(Family::kSample);  // they live
  if (!SetUp()) GiveUp("the kernel gives the agent no descriptors of its own");
  if (LockDownThread() < 0) GiveUp("the kernel does not let the agent lock itself down");
  int64_t sleep_ms = kFirstSleepMs;
  for (;;) {
    HearWishes();  // also of a ring that came before there was a bell
    if (leaving_) Leave();
    bool managed_parent = !state_.token_page->empty();
    if (!managed_parent && ResidentBytes() < min_resident_bytes_) {
      Sleep(sleep_ms);
      if ((sleep_ms *= 2) > kLongestSleepMs) sleep_ms = kLongestSleepMs;
      continue;
    }
    switch (AttachAndServe()) {
      case Outcome::kTooSmall:
        break;
      case Outcome::kDetached:
        if (for_good_) Leave();
        // It was managed, as required; a zmemd that is stopped in an orderly way ends nobody.
        state_.options.required = false;
        sleep_ms = kFirstSleepMs;
        break;
      case Outcome::kNoDaemon:
        if (state_.options.required && !leaving_) EndProgram();
        if ((sleep_ms *= 2) > kLongestReconnectMs) sleep_ms = kLongestReconnectMs;
        break;
      case Outcome::kRefused:
        if (state_.options.required) EndProgram();
        Leave();
      case Outcome::kDaemonDied:
        WatchOrphan();
    }
    Sleep(sleep_ms);
  }
}

Outcome Agent::AttachAndServe() {
  Outcome outcome = Connect();
  if (outcome == Outcome::kDetached) outcome = Serve();
  serving_ = false;
  CloseDesk(state_.desk);
  // After Serve only a clean end may close the descriptor; before Attached nothing is out.
  if (outcome != Outcome::kDaemonDied) {
    if (uffd_ >= 0) Syscall(SYS_close, uffd_);
    uffd_ = -1;
    UnmapStaging();
    if (outcome == Outcome::kDetached) WipeTokenPage();
    HearWishes();  // what was passed on and not granted is granted now
  }
  if (socket_ >= 0) Syscall(SYS_close, socket_);
  socket_ = -1;
  return outcome;
}

// kDetached stands for "connected and attached; go on" here and in the steps below.
Outcome Agent::Connect() {
  socket_ = static_cast<int>(Syscall(SYS_socket, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  for (size_t i = 0; i < sizeof address.sun_path; ++i) {
    address.sun_path[i] = state_.options.socket_path[i];
  }
  long result = Syscall(SYS_connect, socket_, AsLong(&address), sizeof address);
  if (result < 0) {
    Explain(result == -EACCES ? "may not connect to zmemd at " : "no zmemd is listening at ",
            state_.options.socket_path);
    return Outcome::kNoDaemon;
  }
  if (!MapStaging()) {
    Explain("its limits of address space or locked memory leave no room for the staging area");
    return Outcome::kNoDaemon;  // that may change
  }
  return SayHello();
}

bool Agent::MapStaging() {
  for (size_t slabs : kStagingSlabs) {
    uint64_t bytes = slabs * kChunkBytes;
    // One chunk more, of which the unaligned ends are given back.
    long mapped = Syscall(SYS_mmap, 0, static_cast<long>(bytes + kChunkBytes), PROT_NONE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped < 0 && mapped > -4096) continue;
    Address start = static_cast<Address>(mapped);
    Address aligned = ChunkStart(start + kChunkBytes - 1);
    Address end = start + bytes + kChunkBytes;
    if (aligned > start) Syscall(SYS_munmap, mapped, static_cast<long>(aligned - start));
    if (end > aligned + bytes) {
      Syscall(SYS_munmap, static_cast<long>(aligned + bytes),
              static_cast<long>(end - aligned - bytes));
    }
    staging_ = {aligned, aligned + bytes};
    for (wire::PageSet& slab : occupied_) slab = {};
    // A program that locks all it will ever map (MCL_FUTURE) would have these filled with pages.
    UnlockStaging();
    long at = static_cast<long>(aligned);
    long length = static_cast<long>(bytes);
    // A child has no use for the copies, and a dump none for the doubles.
    if (Syscall(SYS_mprotect, at, length, PROT_READ | PROT_WRITE) < 0 ||
        Syscall(SYS_madvise, at, length, MADV_DONTFORK) < 0) {
      UnmapStaging();
      continue;
    }
    Syscall(SYS_madvise, at, length, MADV_DONTDUMP);
    return true;
  }
  return false;
}

void Agent::UnlockStaging() {
  Syscall(SYS_munlock, static_cast<long>(staging_.start), static_cast<long>(staging_.bytes()));
}

void Agent::UnmapStaging() {
  if (staging_.empty()) return;
  Syscall(SYS_munmap, static_cast<long>(staging_.start), static_cast<long>(staging_.bytes()));
  staging_ = {};
}

// Absent again, so that zmemd can fill it, and empty when read.
void Agent::WipeTokenPage() {
  Syscall(SYS_madvise, AsLong(state_.token_page), kPageBytes, MADV_DONTNEED);
}

Outcome Agent::SayHello() {
  wire::Hello hello{};
  hello.token = *state_.token_page;
  if (hello.token.empty()) WipeTokenPage();
  hello.resident_bytes = ResidentBytes();
  hello.agent = state_.mapping;
  hello.staging = staging_;
  hello.token_page = reinterpret_cast<Address>(state_.token_page);
  hello.kept = reinterpret_cast<Address>(&state_.kept);
  hello.min_resident_bytes =
      state_.options.min_resident_given ? state_.options.min_resident_bytes : 0;
  hello.limit_bytes = state_.options.limit_bytes;
  if (!Send(&hello, sizeof hello)) return Outcome::kNoDaemon;

  alignas(8) char buffer[wire::kMaxMessageBytes];
  auto* header = reinterpret_cast<wire::Header*>(buffer);
  int descriptor = -1;
  long got = Receive(buffer, &descriptor);
  if (got == -ECANCELED) return Outcome::kNoDaemon;
  if (got <= 0) {
    Explain(got == -EAGAIN ? "zmemd does not answer at " : "zmemd hung up at ",
            state_.options.socket_path);
    return Outcome::kNoDaemon;
  }
  if (got < static_cast<long>(sizeof *header) || header->magic != wire::kMagic) {
    Explain("something that is not zmemd answers at ", state_.options.socket_path);
    return Outcome::kRefused;
  }
  if (header->version != wire::kVersion) {
    Line line;
    line << "zmem: this library speaks protocol " << wire::kVersion << ", zmemd at "
         << state_.options.socket_path << " speaks " << header->version
         << "; install matching versions\n";
    if (state_.options.verbose || state_.options.required) Print(line);
    return Outcome::kRefused;
  }
  if (header->type == wire::MessageType::kRefuse && got == sizeof(wire::Refuse)) {
    auto* refuse = reinterpret_cast<wire::Refuse*>(buffer);
    if (refuse->reason == wire::RefuseReason::kTooSmall) {
      min_resident_bytes_ = refuse->min_resident_bytes;
      return Outcome::kTooSmall;
    }
    if (refuse->reason == wire::RefuseReason::kUnknownToken) {
      WipeTokenPage();
      return Outcome::kTooSmall;
    }
    refuse->text[sizeof refuse->text - 1] = '\0';
    Explain("zmemd refused: ", refuse->text);
    return refuse->reason == wire::RefuseReason::kStopping ? Outcome::kNoDaemon : Outcome::kRefused;
  }
  if (header->type == wire::MessageType::kAttached && descriptor >= 0) {
    uffd_ = descriptor;  // a forked child's: made by the kernel, handed to us by zmemd
    return Outcome::kDetached;
  }
  if (header->type != wire::MessageType::kWelcome || descriptor < 0) {
    Explain("zmemd's answer makes no sense at ", state_.options.socket_path);
    return Outcome::kRefused;
  }
  uffd_ =
      static_cast<int>(Syscall(SYS_ioctl, descriptor, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK));
  Syscall(SYS_close, descriptor);
  return HandOverUserfaultfd();
}

Outcome Agent::HandOverUserfaultfd() {
  if (uffd_ < 0) {
    Explain("the kernel gives no userfaultfd");
    return Outcome::kRefused;
  }
  wire::Userfaultfd message{};
  if (!Send(&message, sizeof message, uffd_)) return Outcome::kNoDaemon;
  alignas(8) char buffer[wire::kMaxMessageBytes];
  auto* header = reinterpret_cast<wire::Header*>(buffer);
  long got = Receive(buffer, nullptr);
  if (got >= static_cast<long>(sizeof *header) && header->magic == wire::kMagic) {
    if (header->type == wire::MessageType::kAttached) return Outcome::kDetached;
    if (header->type == wire::MessageType::kRefuse && got == sizeof(wire::Refuse)) {
      auto* refuse = reinterpret_cast<wire::Refuse*>(buffer);
      refuse->text[sizeof refuse->text - 1] = '\0';
      Explain("zmemd refused: ", refuse->text);
      return Outcome::kRefused;
    }
  }
  Explain("zmemd hung up while attaching at ", state_.options.socket_path);
  return Outcome::kNoDaemon;
}

Outcome Agent::Serve() {
  // From here on the only bound on a wait is zmemd's life.
  alignas(8) char buffer[wire::kMaxMessageBytes];
  auto* header = reinterpret_cast<wire::Header*>(buffer);
  serving_ = true;
  OpenDesk(state_.desk);
  HearWishes();  // what was asked meanwhile
  for (;;) {
    if (!Listen(-1)) continue;
    long got = Receive(buffer, nullptr);
    if (got == -EINTR || got == -EAGAIN) continue;
    if (got < static_cast<long>(sizeof *header)) return Outcome::kDaemonDied;
    bool answered = false;
    if (header->type == wire::MessageType::kDetach && got == sizeof(wire::Detach)) {
      for_good_ = reinterpret_cast<wire::Detach*>(buffer)->for_good != 0;
      return Outcome::kDetached;
    }
    if (header->type == wire::MessageType::kGranted && got == sizeof(wire::Granted)) {
      wire::Wish wish = reinterpret_cast<wire::Granted*>(buffer)->wish;
      if (static_cast<size_t>(wish) >= wire::kWishes) return Outcome::kDaemonDied;
      Grant(wish);
      continue;
    }
    if (header->type == wire::MessageType::kAnswer && got == sizeof(wire::Answer)) {
      Deliver(state_.desk, *reinterpret_cast<wire::Answer*>(buffer));
      continue;
    }
    if (header->type == wire::MessageType::kMove && got == sizeof(wire::Move)) {
      answered = RunMove(*reinterpret_cast<wire::Move*>(buffer));
    } else if (header->type == wire::MessageType::kDiscard && got == sizeof(wire::Discard)) {
      answered = RunDiscard(*reinterpret_cast<wire::Discard*>(buffer));
    } else if (header->type == wire::MessageType::kPopulate && got == sizeof(wire::Populate)) {
      answered = RunPopulate(*reinterpret_cast<wire::Populate*>(buffer));
    }
    if (!answered) return Outcome::kDaemonDied;
  }
}

int Agent::MovePages(Address target, Address source, size_t pages, size_t* moved) {
  uffdio_move move{};
  move.dst = target;
  move.src = source;
  move.len = pages * kPageBytes;
  long result = Syscall(SYS_ioctl, uffd_, UFFDIO_MOVE, AsLong(&move));
  *moved = result == 0 ? pages : move.move > 0 ? static_cast<size_t>(move.move) / kPageBytes : 0;
  return static_cast<int>(-result);
}

bool Agent::RunMove(const wire::Move& move) {
  if (move.parts == 0 || move.parts > wire::kMaxParts) return false;
  bool out = IsSlab(move.part[0].target);
  for (size_t i = 0; i < move.parts; ++i) {
    if (!IsSlab(out ? move.part[i].target : move.part[i].source)) return false;
  }
  wire::Report report{};
  report.header.sequence = move.header.sequence;
  bool may_move = true;
  if (out) {
    state_.bell.staged.store(true);  // before `forks` is looked at: see bell.h
    may_move = BeginMoveOut(state_.kept, move.kept_generation) && state_.bell.forks.load() == 0;
  }
  for (size_t i = 0; i < move.parts && may_move; ++i) {
    may_move = MoveRuns(move.part[i], &report.done[i], &report);
    NoteSlots(out ? move.part[i].target : move.part[i].source, report.done[i], out);
  }
  if (out) EndMoveOut(state_.kept);
  TellStaged();
  return Send(&report, sizeof report);
}

bool Agent::IsSlab(Address slab) const {
  return slab >= staging_.start && slab + kChunkBytes <= staging_.end &&
         (slab - staging_.start) % kChunkBytes == 0;
}

void Agent::NoteSlots(Address slab, const wire::PageSet& pages, bool hold) {
  wire::PageSet& slots = occupied_[(slab - staging_.start) / kChunkBytes];
  slots = hold ? slots.Or(pages) : slots.Without(pages);
}

void Agent::TellStaged() {
  bool staged = false;
  for (const wire::PageSet& each : occupied_) staged |= !each.empty();
  state_.bell.staged.store(staged);
}

bool Agent::MoveRuns(const wire::MovePart& part, wire::PageSet* done, wire::Report* report) {
  int retries = 0;
  bool unlocked = false;
  size_t page = part.pages.Next(0, true);
  while (page < kPagesPerChunk) {
    size_t end = part.pages.Next(page, false);
    size_t moved = 0;
    int error = MovePages(part.target + page * kPageBytes, part.source + page * kPageBytes,
                          end - page, &moved);
    done->AddRange(page, page + moved);
    page += moved;
    if (moved > 0) retries = 0;
    if (page < end && moved == 0) {
      if (error == EAGAIN) {
        if (++retries < kMoveRetries) continue;
        return false;
      }
      if (error == EINVAL && !unlocked) {
        // The program may have locked all its memory (mlockall), and the staging area with it.
        UnlockStaging();
        unlocked = true;
        continue;
      }
      if (error == EBUSY) {
        ++report->busy;
      } else if (error == EINVAL) {
        ++report->invalid;
      } else if (error == ENOENT) {
        ++report->absent;
      } else if (error == EEXIST) {
        ++report->exists;
      } else {
        ++report->other;
        report->last_errno = error;
      }
      retries = 0;
      ++page;  // judged alone; the rest of the run is tried again
    }
    if (page >= end || !part.pages.Has(page)) page = part.pages.Next(page, true);
  }
  return true;
}

void Agent::Advise(Address start, const wire::PageSet& pages, int advice, wire::PageSet* done,
                   wire::Report* report) {
  size_t page = pages.Next(0, true);
  while (page < kPagesPerChunk) {
    size_t end = pages.Next(page, false);
    long at = static_cast<long>(start + page * kPageBytes);
    long bytes = static_cast<long>((end - page) * kPageBytes);
    long result = Syscall(SYS_madvise, at, bytes, advice);
    if (result == -EINVAL && staging_.Contains(start)) {
      UnlockStaging();
      result = Syscall(SYS_madvise, at, bytes, advice);
    }
    if (result == 0) {
      done->AddRange(page, end);
    } else {
      ++report->other;
      report->last_errno = static_cast<int32_t>(-result);
    }
    page = pages.Next(end, true);
  }
}

bool Agent::RunDiscard(const wire::Discard& discard) {
  if (discard.parts > wire::kMaxParts) return false;
  wire::Report report{};
  report.header.sequence = discard.header.sequence;
  for (size_t i = 0; i < discard.parts; ++i) {
    const wire::DiscardPart& part = discard.part[i];
    // Nothing but the staging area is ever dropped, whatever a message says.
    if (!IsSlab(part.slab)) return false;
    Advise(part.slab, part.pages, MADV_DONTNEED, &report.done[i], &report);
    NoteSlots(part.slab, report.done[i], false);
  }
  TellStaged();
  return Send(&report, sizeof report);
}

bool Agent::RunPopulate(const wire::Populate& populate) {
  constexpr int kMadvPopulateWrite = 23;  // Linux 5.14
  wire::Report report{};
  report.header.sequence = populate.header.sequence;
  Advise(populate.chunk, populate.pages, kMadvPopulateWrite, &report.done[0], &report);
  return Send(&report, sizeof report);
}

bool Agent::Send(const void* message, size_t message_bytes, int descriptor) {
  iovec vector{const_cast<void*>(message), message_bytes};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr header{};
  header.msg_iov = &vector;
  header.msg_iovlen = 1;
  if (descriptor >= 0) {
    header.msg_control = control;
    header.msg_controllen = sizeof control;
    cmsghdr* rights = CMSG_FIRSTHDR(&header);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof descriptor);
    *reinterpret_cast<int*>(CMSG_DATA(rights)) = descriptor;
  }
  long sent = Persist([&] { return Syscall(SYS_sendmsg, socket_, AsLong(&header), MSG_NOSIGNAL); });
  return sent == static_cast<long>(message_bytes);
}

long Agent::Receive(void* buffer, int* descriptor) {
  // zmemd answers within milliseconds; one that does not for this long is treated as absent.
  constexpr int64_t kAnswerTimeoutMs = 10'000;
  int64_t patience_ms = int64_t{state_.options.daemon_timeout_s} * 1000;
  if (patience_ms > kAnswerTimeoutMs) patience_ms = kAnswerTimeoutMs;
  int64_t until_ms = NowMs() + patience_ms;
  for (int64_t left_ms = patience_ms; !Listen(left_ms); left_ms = until_ms - NowMs()) {
    if (leaving_) return -ECANCELED;
    if (NowMs() >= until_ms) return -EAGAIN;
  }
  iovec vector{buffer, wire::kMaxMessageBytes};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  msghdr header{};
  header.msg_iov = &vector;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof control;
  long got =
      Persist([&] { return Syscall(SYS_recvmsg, socket_, AsLong(&header), MSG_CMSG_CLOEXEC); });
  cmsghdr* rights = got >= 0 ? CMSG_FIRSTHDR(&header) : nullptr;
  if (rights != nullptr && rights->cmsg_level == SOL_SOCKET && rights->cmsg_type == SCM_RIGHTS) {
    int received = *reinterpret_cast<int*>(CMSG_DATA(rights));
    if (descriptor != nullptr) {
      *descriptor = received;
    } else {
      Syscall(SYS_close, received);
    }
  }
  return got;
}

void Agent::Explain(const char* what, const char* detail) {
  if (!state_.options.verbose && !state_.options.required) return;
  if (explained_) return;  // once is enough: the same reason comes back at every try
  explained_ = true;
  Line line;
  line << "zmem: this program is not managed: " << what << detail << "\n";
  Print(line);
}

void Agent::Print(const Line& line) {
  int error_output = static_cast<int>(Syscall(SYS_pidfd_getfd, self_, 2, 0));
  if (error_output < 0) return;
  Syscall(SYS_write, error_output, AsLong(line.data()), static_cast<long>(line.length()));
  Syscall(SYS_close, error_output);
}

void Agent::EndProgram() {
  constexpr int kUnavailable = 69;  // EX_UNAVAILABLE of sysexits.h
  Syscall(SYS_exit_group, kUnavailable);
  __builtin_unreachable();
}

// zmemd is gone and pages may be out. Whoever touches one waits; a program that has waited for
// longer than the timeout is ended, since nobody else will bring its memory back. A program that
// touches none runs on.
void Agent::WatchOrphan() {
  constexpr int64_t kPeriodMs = 100;
  HearWishes();  // nobody can put pages back; who waits for it goes on without
  // Faults that zmemd had read but not answered go back to the queue, where the poll below sees
  // them (FACTS 2). The range is all of a program's address space.
  uffdio_range everything{};
  everything.start = 0x10000;
  everything.len = 0x7fffffff0000 - everything.start;
  Syscall(SYS_ioctl, uffd_, UFFDIO_WAKE, AsLong(&everything));
  int64_t waiting_ms = 0;
  for (;;) {
    pollfd pending{uffd_, POLLIN, 0};
    long ready = Syscall(SYS_poll, AsLong(&pending), 1, 0);
    waiting_ms = ready > 0 && (pending.revents & POLLIN) != 0 ? waiting_ms + kPeriodMs : 0;
    if (waiting_ms > int64_t{state_.options.daemon_timeout_s} * 1000) {
      Line line;
      line << "zmem: zmemd died while it kept memory of this program; ended after waiting "
           << state_.options.daemon_timeout_s << " s for it (ZMEM_DAEMON_TIMEOUT)\n";
      Print(line);
      Syscall(SYS_kill, pid_, SIGKILL);
    }
    Sleep(kPeriodMs);
    if (leaving_) Grant(wire::Wish::kLeave);  // it cannot: it holds the last userfaultfd
    leaving_ = false;
  }
}

}  // namespace

void RunAgent(AgentState* state) {
  Agent agent(state);
  agent.Run();
}

}  // namespace zmem
