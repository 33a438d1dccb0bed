// Subject program: memory of every kind that a program can have beside the ordinary, made and used
// while its pages are out, and what it must still be like afterwards.
//   memory_kinds [--huge] [--lock-future] [--directory DIR]
#include <fcntl.h>
#include <liburing.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <cerrno>
#include <csetjmp>
#include <csignal>
#include <cstring>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "tests/programs/command_loop.h"
#include "tests/programs/own_userfaultfd.h"
#include "tests/programs/pattern_region.h"

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102  // Linux 6.13
#define MADV_GUARD_REMOVE 103
#endif

namespace zmem {
namespace {

constexpr size_t kPages = 8192;
constexpr uint64_t kVersion = 1;

// The part that most commands work on: it starts and ends in the middle of a chunk.
constexpr size_t kFirst = 700;
constexpr size_t kCount = 3000;
constexpr size_t kBytes = kCount * kPageBytes;
// Another, apart from it.
constexpr size_t kMoreFirst = 5000;
constexpr size_t kMoreCount = 1000;

std::string Failed(const char* call) { return std::string(call) + ": " + std::strerror(errno); }

std::byte* Map(size_t bytes, int protection, void* at = nullptr, int flags = 0) {
  void* mapping =
      mmap(at, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | flags, -1, 0);
  return mapping == MAP_FAILED ? nullptr : static_cast<std::byte*>(mapping);
}

// ---- what a touch does ----

sigjmp_buf touch_failed;

template <typename Touch>
bool Survives(Touch touch) {
  struct sigaction action = {};
  struct sigaction before = {};
  action.sa_handler = [](int) { siglongjmp(touch_failed, 1); };
  sigaction(SIGSEGV, &action, &before);
  bool survived = sigsetjmp(touch_failed, 1) == 0;
  if (survived) touch();
  sigaction(SIGSEGV, &before, nullptr);
  return survived;
}

bool IsReadable(const std::byte* page) {
  return Survives([page] { *static_cast<const volatile std::byte*>(page); });
}

// Writes the first byte that a pattern page of this number has anyway.
bool IsWritable(std::byte* page, uint64_t number) {
  return Survives(
      [=] { *static_cast<volatile std::byte*>(page) = static_cast<std::byte>(number); });
}

class Subject {
 public:
  Subject(std::string directory, bool huge)
      : directory_(std::move(directory)), region_(kPages, PageContent::kCompressible) {
    if (huge) madvise(region_.page(0), kPages * kPageBytes, MADV_HUGEPAGE);
    region_.Fill(kVersion);
  }

  std::string Verify() const { return region_.Verify(kVersion); }
  std::string Rewrite() const {
    region_.Fill(kVersion);
    return "";
  }

  // ---- locked ----

  std::string LockAll(int flags) {
    if (mlockall(flags) != 0) return Failed("mlockall");
    return "";
  }
  std::string UnlockAll() {
    if (munlockall() != 0) return Failed("munlockall");
    return "";
  }
  // Whether what is locked is all there, without touching it.
  std::string AllPresent() const {
    std::vector<unsigned char> resident(kPages);
    if (mincore(region_.page(0), kPages * kPageBytes, resident.data()) != 0) {
      return Failed("mincore");
    }
    size_t absent = 0;
    for (unsigned char page : resident) absent += (page & 1) == 0 ? 1 : 0;
    return absent == 0 ? "" : std::to_string(absent) + " locked pages are absent";
  }

  // ---- protected ----

  // Gives the part this protection and touches pages of it that nothing has touched before: what a
  // touch may not do it must not do because the page was out, and the page must be right.
  std::string Protect(int protection) {
    if (mprotect(part(), kBytes, protection) != 0) return Failed("mprotect");
    constexpr uint64_t kStretch = 100;
    uint64_t first = kFirst + next_stretch_++ * kStretch % (kCount - kStretch);
    bool readable = (protection & (PROT_READ | PROT_EXEC)) != 0;
    bool writable = (protection & PROT_WRITE) != 0;
    if (IsWritable(region_.page(first), first) != writable) return "a write went the wrong way";
    if (IsReadable(region_.page(first + 1)) != readable) return "a read went the wrong way";
    for (uint64_t number = first; readable && number < first + kStretch; ++number) {
      if (!VerifyPage(region_.page(number), number, kVersion)) {
        return region_.Describe(number, kVersion);
      }
    }
    return "";
  }

  // ---- guarded ----

  // Guards and removal of guards, with no touch in between: what was there is gone for good.
  std::string GuardForAMoment() {
    if (!GuardsExist()) return "";
    if (madvise(part(), kBytes, MADV_GUARD_INSTALL) != 0 ||
        madvise(part(), kBytes, MADV_GUARD_REMOVE) != 0) {
      return Failed("MADV_GUARD");
    }
    size_t wrong = 0;
    for (size_t page = 0; page < kCount; ++page) {
      wrong += InspectPage(part() + page * kPageBytes).all_zero ? 0 : 1;
    }
    Rewrite();
    return wrong == 0 ? ""
                      : "WRONG: formerly guarded pages that are not zero: " + std::to_string(wrong);
  }

  // Every eighth page of the part; then all others are read in order, so that zmemd reads ahead.
  std::string GuardBetween() {
    if (!GuardsExist()) return "";
    for (uint64_t number = kFirst; number < kFirst + kCount; number += 8) {
      if (madvise(region_.page(number), kPageBytes, MADV_GUARD_INSTALL) != 0) {
        return Failed("MADV_GUARD_INSTALL");
      }
    }
    return ReadAroundGuards();
  }
  std::string ReadAroundGuards() {
    if (!GuardsExist()) return "";
    for (uint64_t number = kFirst; number < kFirst + kCount; ++number) {
      bool guarded = (number - kFirst) % 8 == 0;
      if (guarded && IsReadable(region_.page(number))) return "a guard page is readable";
      if (!guarded && !VerifyPage(region_.page(number), number, kVersion)) {
        return region_.Describe(number, kVersion);
      }
    }
    return "";
  }
  std::string Unguard() {
    if (GuardsExist() && madvise(part(), kBytes, MADV_GUARD_REMOVE) != 0) {
      return Failed("MADV_GUARD_REMOVE");
    }
    return Rewrite();
  }

  // ---- merged ----

  // Two different pages, many times each.
  std::string MapTwins() {
    twins_ = Map(kTwins * kPageBytes, PROT_READ | PROT_WRITE);
    if (twins_ == nullptr) return Failed("mmap");
    FillTwins(0, kTwins);
    if (madvise(twins_, kTwins * kPageBytes, MADV_MERGEABLE) != 0) return Failed("MADV_MERGEABLE");
    return "";
  }
  std::string VerifyTwins() const {
    for (size_t page = 0; page < kTwins; ++page) {
      if (!VerifyPage(twins_ + page * kPageBytes, page % 2, twin_version_)) {
        return "WRONG merged page " + std::to_string(page);
      }
    }
    return "";
  }
  // One twin at a time: the others, which may be the same page frame, must not change with it.
  std::string RewriteTwins() {
    FillPage(twins_, 0, twin_version_ + 1);
    for (size_t page = 1; page < kTwins; ++page) {
      if (!VerifyPage(twins_ + page * kPageBytes, page % 2, twin_version_)) {
        return "WRONG merged page " + std::to_string(page) + " after its twin was written";
      }
    }
    ++twin_version_;
    FillTwins(1, kTwins);
    return "";
  }

  // ---- pinned ----

  // A read into registered buffers waits for its data, in the kernel, with the pages pinned.
  std::string StartFixedRead() {
    int error = io_uring_queue_init(kPinned, &ring_, 0);
    if (error != 0 || pipe(pipe_) != 0) return "no ring or pipe";
    iovec buffer{part(), kPinned * kPageBytes};
    error = io_uring_register_buffers(&ring_, &buffer, 1);
    if (error != 0) return std::string("io_uring_register_buffers: ") + std::strerror(-error);
    for (uint64_t page = 0; page < kPinned; ++page) {
      io_uring_sqe* entry = io_uring_get_sqe(&ring_);
      io_uring_prep_read_fixed(entry, pipe_[0], part() + page * kPageBytes, kPageBytes, 0, 0);
      entry->flags |= IOSQE_IO_LINK;  // one after the other
    }
    return io_uring_submit(&ring_) == static_cast<int>(kPinned) ? "" : "cannot submit";
  }
  std::string FinishFixedRead() {
    for (uint64_t number = kFirst; number < kFirst + kPinned; ++number) {
      alignas(kPageBytes) std::byte page[kPageBytes];
      FillPage(page, number, kVersion + 1);
      if (write(pipe_[1], page, sizeof page) != sizeof page) return Failed("write");
    }
    for (uint64_t page = 0; page < kPinned; ++page) {
      io_uring_cqe* entry = nullptr;
      if (io_uring_wait_cqe(&ring_, &entry) != 0) return "io_uring_wait_cqe failed";
      int result = entry->res;
      io_uring_cqe_seen(&ring_, entry);
      if (result != static_cast<int>(kPageBytes)) return "read " + std::to_string(result);
    }
    for (uint64_t number = kFirst; number < kFirst + kPinned; ++number) {
      if (!VerifyPage(region_.page(number), number, kVersion + 1)) {
        return region_.Describe(number, kVersion + 1);
      }
    }
    io_uring_queue_exit(&ring_);
    return Rewrite();
  }

  // Reads a file past the page cache, over and over, until told to stop: at most moments some of
  // the part's pages are pinned by a transfer.
  std::string StartDirectReads() {
    std::string path = directory_ + "/source";
    int fd = open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_DIRECT | O_CLOEXEC, 0600);
    if (fd < 0) return Failed("open O_DIRECT");
    unlink(path.c_str());
    std::byte* bounce = Map(kDirect * kPageBytes, PROT_READ | PROT_WRITE);
    for (uint64_t page = 0; page < kDirect; ++page) {
      FillPage(bounce + page * kPageBytes, kFirst + page, kVersion + 1);
    }
    if (pwrite(fd, bounce, kDirect * kPageBytes, 0) != kDirect * ssize_t{kPageBytes}) {
      return Failed("pwrite");
    }
    stop_ = false;
    reader_ = std::thread([this, fd] { ReadDirectly(fd); });
    return "";
  }
  std::string StopDirectReads() {
    stop_ = true;
    reader_.join();
    if (wrong_.empty() && direct_reads_ == 0) return "no read came to an end";
    Rewrite();
    return wrong_;
  }

  // ---- generated code ----

  // A function a page that returns its number: mov eax, imm32; ret.
  std::string WriteCode() {
    if (code_ == nullptr) code_ = Map(kFunctions * kPageBytes, PROT_READ | PROT_WRITE);
    if (code_ == nullptr) return Failed("mmap");
    if (mprotect(code_, kFunctions * kPageBytes, PROT_READ | PROT_WRITE) != 0) {
      return Failed("mprotect");
    }
    ++generation_;
    for (uint32_t function = 0; function < kFunctions; ++function) {
      unsigned char text[6] = {0xb8, 0, 0, 0, 0, 0xc3};
      uint32_t result = generation_ * kFunctions + function;
      std::memcpy(text + 1, &result, sizeof result);
      std::memcpy(code_ + function * kPageBytes, text, sizeof text);
    }
    return "";
  }
  std::string RunCode() {
    if (mprotect(code_, kFunctions * kPageBytes, PROT_READ | PROT_EXEC) != 0) {
      return Failed("mprotect");
    }
    for (uint32_t function = 0; function < kFunctions; ++function) {
      auto call = reinterpret_cast<uint32_t (*)()>(code_ + function * kPageBytes);
      if (call() != generation_ * kFunctions + function) {
        return "WRONG: function " + std::to_string(function) + " returned something else";
      }
    }
    return "";
  }

  // ---- reserved, and in many pieces ----

  // As a language runtime's heap: room for much more than there is, of which a few stretches are
  // used, and those that were committed out of an inaccessible reserve.
  std::string MapReserve() {
    open_ = Map(kReserveBytes, PROT_READ | PROT_WRITE);
    closed_ = Map(kReserveBytes, PROT_NONE);
    if (open_ == nullptr || closed_ == nullptr) return Failed("mmap");
    for (size_t stretch = 0; stretch < kStretches; ++stretch) {
      if (mprotect(StretchOf(closed_, stretch), kStretchPages * kPageBytes,
                   PROT_READ | PROT_WRITE) != 0) {
        return Failed("mprotect");
      }
      for (uint64_t page = 0; page < kStretchPages; ++page) {
        uint64_t number = stretch * kStretchPages + page;
        FillPage(StretchOf(open_, stretch) + page * kPageBytes, number, kVersion);
        FillPage(StretchOf(closed_, stretch) + page * kPageBytes, number, kVersion + 1);
      }
    }
    return "";
  }
  std::string VerifyReserve() const {
    for (size_t stretch = 0; stretch < kStretches; ++stretch) {
      for (uint64_t page = 0; page < kStretchPages; ++page) {
        uint64_t number = stretch * kStretchPages + page;
        if (!VerifyPage(StretchOf(open_, stretch) + page * kPageBytes, number, kVersion) ||
            !VerifyPage(StretchOf(closed_, stretch) + page * kPageBytes, number, kVersion + 1)) {
          return "WRONG page " + std::to_string(number) + " of a reserve";
        }
      }
      // Beyond what was used there is nothing yet.
      if (!InspectPage(StretchOf(open_, stretch) + kStretchPages * kPageBytes).all_zero) {
        return "WRONG: a page that was never used is not zero";
      }
    }
    return "";
  }
  std::string UnmapReserve() {
    if (munmap(open_, kReserveBytes) != 0 || munmap(closed_, kReserveBytes) != 0) {
      return Failed("munmap");
    }
    return "";
  }

  // Every other page is read-only: as many mappings as pages.
  std::string MapPieces() {
    pieces_ = Map(kPieces * kPageBytes, PROT_READ | PROT_WRITE);
    if (pieces_ == nullptr) return Failed("mmap");
    for (uint64_t page = 0; page < kPieces; ++page) {
      FillPage(pieces_ + page * kPageBytes, page, kVersion);
      if (page % 2 == 1 && mprotect(pieces_ + page * kPageBytes, kPageBytes, PROT_READ) != 0) {
        return Failed("mprotect");
      }
    }
    return "";
  }
  std::string VerifyPieces() const {
    for (uint64_t page = 0; page < kPieces; ++page) {
      if (!VerifyPage(pieces_ + page * kPageBytes, page, kVersion)) {
        return "WRONG page " + std::to_string(page) + " of many pieces";
      }
    }
    return "";
  }
  // Room for as many again must be left: the kernel's limit is 65,530 for all.
  std::string MapMorePieces() {
    std::byte* more = Map(kPieces * kPageBytes, PROT_READ | PROT_WRITE);
    for (uint64_t page = 1; page < kPieces; page += 2) {
      if (mprotect(more + page * kPageBytes, kPageBytes, PROT_READ) != 0) return Failed("mprotect");
    }
    return munmap(more, kPieces * kPageBytes) == 0 ? "" : Failed("munmap");
  }

  // ---- shared with a child ----

  // A child that shares all memory, touches none, and verifies it when told to end.
  std::string ForkSleeper() {
    if (pipe(pipe_) != 0) return Failed("pipe");
    sleeper_ = fork();
    if (sleeper_ < 0) return Failed("fork");
    if (sleeper_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      close(pipe_[1]);
      char byte;
      if (read(pipe_[0], &byte, 1) < 0) _exit(2);
      _exit(Verify().empty() ? 0 : 1);
    }
    close(pipe_[0]);
    return "";
  }
  std::string Sleeper() const { return std::to_string(sleeper_); }
  std::string EndSleeper() {
    close(pipe_[1]);
    int status = -1;
    if (waitpid(sleeper_, &status, 0) != sleeper_) return Failed("waitpid");
    return status == 0 ? "" : "the child's wait status is " + std::to_string(status);
  }

  // ---- served by the program itself ----

  std::string ServeOwnFaults() { return own_.Start(); }
  // Memory that is managed by zmem already, in two pieces.
  std::string TakeOver() { return own_.TakeOver(region_.page(0), kFirst, kCount); }
  std::string TakeOverMore() { return own_.TakeOver(region_.page(0), kMoreFirst, kMoreCount); }
  std::string TakeOverFromThreads() {
    return own_.TakeOverFromThreads(region_.page(0), kFirst, kCount);
  }
  std::string LetGo() { return own_.LetGo(kFirst, kCount); }
  std::string TakeOverTwice() { return own_.TakeOverTwice(kFirst, kCount); }
  std::string DropTakenOver() { return own_.DropAndTouch(kFirst, kCount); }
  std::string DropMoreTakenOver() { return own_.DropAndTouch(kMoreFirst, kMoreCount); }
  std::string VerifyOwnFaults() { return own_.TouchSome(); }

 private:
  static constexpr size_t kTwins = 4096;
  static constexpr uint64_t kPinned = 16;  // what a pipe holds
  static constexpr uint64_t kDirect = 1024;
  static constexpr uint32_t kFunctions = 1000;
  static constexpr size_t kReserveBytes = size_t{64} << 30;
  static constexpr size_t kStretches = 32;
  static constexpr uint64_t kStretchPages = 64;
  static constexpr uint64_t kPieces = 20'000;

  std::byte* part() const { return region_.page(kFirst); }
  static bool GuardsExist() {
    static std::byte* page = Map(kPageBytes, PROT_READ | PROT_WRITE);
    return madvise(page, kPageBytes, MADV_GUARD_INSTALL) == 0;  // a kernel from 6.13
  }
  static std::byte* StretchOf(std::byte* reserve, size_t stretch) {
    return reserve + stretch * (kReserveBytes / kStretches) + 7 * kPageBytes;
  }
  void FillTwins(size_t first, size_t end) const {
    for (size_t page = first; page < end; ++page) {
      FillPage(twins_ + page * kPageBytes, page % 2, twin_version_);
    }
  }
  void ReadDirectly(int fd) {
    while (!stop_ && wrong_.empty()) {
      for (uint64_t page = 0; page < kDirect; page += 16) {
        if (pread(fd, part() + page * kPageBytes, 16 * kPageBytes,
                  static_cast<off_t>(page * kPageBytes)) != 16 * ssize_t{kPageBytes}) {
          wrong_ = Failed("pread");
        }
      }
      for (uint64_t number = kFirst; number < kFirst + kDirect; ++number) {
        if (!VerifyPage(region_.page(number), number, kVersion + 1)) {
          wrong_ = region_.Describe(number, kVersion + 1);
        }
        FillPage(region_.page(number), number, kVersion);  // the next read's to replace
      }
      ++direct_reads_;
    }
    close(fd);
  }

  const std::string directory_;
  PatternRegion region_;
  uint64_t next_stretch_ = 0;
  std::byte* twins_ = nullptr;
  uint64_t twin_version_ = 1;
  io_uring ring_{};
  int pipe_[2] = {-1, -1};
  std::thread reader_;
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> direct_reads_{0};
  std::string wrong_;
  std::byte* code_ = nullptr;
  uint32_t generation_ = 0;
  std::byte* open_ = nullptr;
  std::byte* closed_ = nullptr;
  std::byte* pieces_ = nullptr;
  pid_t sleeper_ = -1;
  OwnUserfaultfd own_;
};

}  // namespace
}  // namespace zmem

int main(int argc, char** argv) {
  using zmem::Subject;
  std::string directory = "/tmp";
  bool huge = false;
  bool lock_future = false;
  CLI::App app("Has memory of every kind and answers commands on stdin.");
  app.add_option("--directory", directory, "where it keeps files");
  app.add_flag("--huge", huge, "ask for transparent huge pages");
  app.add_flag("--lock-future", lock_future, "mlockall(MCL_FUTURE) from the start");
  CLI11_PARSE(app, argc, argv);

  if (lock_future && mlockall(MCL_FUTURE) != 0) return 2;
  Subject subject(directory, huge);
  std::map<std::string, zmem::Command> commands;
  auto add = [&](const char* name, auto method, auto... arguments) {
    commands[name] = [&subject, method, arguments...] {
      std::string wrong = (subject.*method)(arguments...);
      return wrong.empty() ? "ok" : wrong;
    };
  };
  add("verify", &Subject::Verify);
  add("rewrite", &Subject::Rewrite);
  add("lock all", &Subject::LockAll, MCL_CURRENT);
  add("lock all on fault", &Subject::LockAll, MCL_CURRENT | MCL_ONFAULT);
  add("unlock all", &Subject::UnlockAll);
  add("all present", &Subject::AllPresent);
  add("protect none", &Subject::Protect, PROT_NONE);
  add("protect read", &Subject::Protect, PROT_READ);
  add("protect execute", &Subject::Protect, PROT_READ | PROT_EXEC);
  add("protect write", &Subject::Protect, PROT_READ | PROT_WRITE);
  add("protect all", &Subject::Protect, PROT_READ | PROT_WRITE | PROT_EXEC);
  add("guard for a moment", &Subject::GuardForAMoment);
  add("guard between", &Subject::GuardBetween);
  add("read around guards", &Subject::ReadAroundGuards);
  add("unguard", &Subject::Unguard);
  add("map twins", &Subject::MapTwins);
  add("verify twins", &Subject::VerifyTwins);
  add("rewrite twins", &Subject::RewriteTwins);
  add("start fixed read", &Subject::StartFixedRead);
  add("finish fixed read", &Subject::FinishFixedRead);
  add("start direct reads", &Subject::StartDirectReads);
  add("stop direct reads", &Subject::StopDirectReads);
  add("write code", &Subject::WriteCode);
  add("run code", &Subject::RunCode);
  add("map reserve", &Subject::MapReserve);
  add("verify reserve", &Subject::VerifyReserve);
  add("unmap reserve", &Subject::UnmapReserve);
  add("map pieces", &Subject::MapPieces);
  add("verify pieces", &Subject::VerifyPieces);
  add("map more pieces", &Subject::MapMorePieces);
  add("fork sleeper", &Subject::ForkSleeper);
  add("sleeper", &Subject::Sleeper);
  add("end sleeper", &Subject::EndSleeper);
  add("serve own faults", &Subject::ServeOwnFaults);
  add("take over", &Subject::TakeOver);
  add("take over more", &Subject::TakeOverMore);
  add("take over from many threads", &Subject::TakeOverFromThreads);
  add("let go", &Subject::LetGo);
  add("take over twice", &Subject::TakeOverTwice);
  add("drop what was taken over", &Subject::DropTakenOver);
  add("drop more of what was taken over", &Subject::DropMoreTakenOver);
  add("verify own faults", &Subject::VerifyOwnFaults);
  return zmem::ServeCommands(commands);
}
