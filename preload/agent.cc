#include "preload/agent.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/prctl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <time.h>

#include "libzmem/base/kernel_abi.h"
#include "preload/connection.h"
#include "preload/line.h"
#include "preload/lockdown.h"
#include "preload/raw_syscall.h"
#include "preload/staging.h"

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

enum class Outcome {
  kTooSmall,    // come again: later, when larger, or at once with a wiped token
  kNoDaemon,    // come again later: nobody listens, it hung up, or there is no room for staging
  kRefused,     // for good
  kDetached,    // zmemd has put everything back
  kDaemonDied,  // while pages may be out
};

constexpr uint64_t kBellMask = uint64_t{1} << (kBellSignal - 1);

class Agent {
 public:
  explicit Agent(AgentState* state) : state_(*state), staging_(state->bell, state->kept) {}

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
  void WipeTokenPage();
  // Carries out what is ordered, and reports. False if it is no order, or there is nobody to report
  // to.
  bool RunOrder(const wire::Header* order, long message_bytes);

  // As Connection::Receive, of a message that is waited for.
  long Receive(void* buffer, int* descriptor);

  void Explain(const char* what, const char* detail = "");
  void Print(const Line& line);
  [[noreturn]] void EndProgram();
  [[noreturn]] void WatchOrphan();

  AgentState& state_;
  long pid_ = 0;
  int self_ = -1;   // pidfd of this process
  int statm_ = -1;  // /proc/self/statm
  Connection connection_;
  int uffd_ = -1;
  int bell_ = -1;  // signalfd of kBellSignal
  Staging staging_;
  bool serving_ = false;                    // zmemd may hold pages, and answers
  uint32_t passed_on_[wire::kWishes] = {};  // askings that zmemd was told of
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
  pollfd fds[2] = {{connection_.fd(), POLLIN, 0}, {bell_, POLLIN, 0}};
  Syscall(SYS_poll, AsLong(fds), 2, timeout_ms);
  if (fds[1].revents != 0) HearWishes();
  return fds[0].revents != 0;
}

void Agent::HearQueries() {
  while (const wire::Query* query = NextQuery(state_.desk)) connection_.Send(query, sizeof *query);
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
      connection_.Send(&request, sizeof request);  // if zmemd is gone, the next receive tells
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
    staging_.Unmap();
    if (outcome == Outcome::kDetached) WipeTokenPage();
    HearWishes();  // what was passed on and not granted is granted now
  }
  connection_.Close();
  return outcome;
}

// kDetached stands for "connected and attached; go on" here and in the steps below.
Outcome Agent::Connect() {
  if (long error = connection_.Open(state_.options.socket_path); error < 0) {
    Explain(error == -EACCES ? "may not connect to zmemd at " : "no zmemd is listening at ",
            state_.options.socket_path);
    return Outcome::kNoDaemon;
  }
  if (!staging_.Map()) {
    Explain("its limits of address space or locked memory leave no room for the staging area");
    return Outcome::kNoDaemon;  // that may change
  }
  return SayHello();
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
  hello.staging = staging_.range();
  hello.token_page = reinterpret_cast<Address>(state_.token_page);
  hello.kept = reinterpret_cast<Address>(&state_.kept);
  hello.min_resident_bytes =
      state_.options.min_resident_given ? state_.options.min_resident_bytes : 0;
  hello.limit_bytes = state_.options.limit_bytes;
  if (!connection_.Send(&hello, sizeof hello)) return Outcome::kNoDaemon;

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
  if (!connection_.Send(&message, sizeof message, uffd_)) return Outcome::kNoDaemon;
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
    if (!RunOrder(header, got)) return Outcome::kDaemonDied;
  }
}

bool Agent::RunOrder(const wire::Header* order, long message_bytes) {
  wire::Report report{};
  report.header.sequence = order->sequence;
  if (order->type == wire::MessageType::kMove && message_bytes == sizeof(wire::Move)) {
    if (!staging_.Move(*reinterpret_cast<const wire::Move*>(order), uffd_, &report)) return false;
  } else if (order->type == wire::MessageType::kDiscard && message_bytes == sizeof(wire::Discard)) {
    if (!staging_.Discard(*reinterpret_cast<const wire::Discard*>(order), &report)) return false;
  } else if (order->type == wire::MessageType::kPopulate &&
             message_bytes == sizeof(wire::Populate)) {
    staging_.Populate(*reinterpret_cast<const wire::Populate*>(order), &report);
  } else {
    return false;
  }
  return connection_.Send(&report, sizeof report);
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
  return connection_.Receive(buffer, descriptor);
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
