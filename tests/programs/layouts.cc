// Subject program: changes its own address space in every way that C libraries and servers do,
// with its memory stored, and checks that everything reads as it must afterwards.
//   layouts            (32 MiB; every command starts from a region full of pattern pages)
#include <linux/close_range.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <map>
#include <string>

#include "tests/programs/command_loop.h"
#include "tests/programs/pattern_region.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25  // Linux 6.1
#endif
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102  // Linux 6.13
#define MADV_GUARD_REMOVE 103
#endif

namespace zmem {
namespace {

constexpr size_t kPages = 8192;
constexpr uint64_t kNumberOfNobody = 65534;

// The pages that a command works on: they start and end in the middle of a chunk.
constexpr size_t kFirst = 700;
constexpr size_t kCount = 3000;
constexpr size_t kBytes = kCount * kPageBytes;

std::string Failed(const char* call) { return std::string(call) + ": " + std::strerror(errno); }

bool AllZero(const std::byte* data, size_t pages) {
  for (size_t page = 0; page < pages; ++page) {
    if (!InspectPage(data + page * kPageBytes).all_zero) return false;
  }
  return true;
}

class Subject {
 public:
  Subject() : region_(kPages, PageContent::kCompressible) { region_.Fill(kVersion); }

  std::string Verify() const { return region_.Verify(kVersion); }

  std::string Discard() {
    if (madvise(part(), kBytes, MADV_DONTNEED) != 0) return Failed("MADV_DONTNEED");
    return ExpectZeros("discarded pages");
  }

  // Freed pages keep their contents until the kernel wants them: right or zero, nothing else.
  std::string Free() {
    if (madvise(part(), kBytes, MADV_FREE) != 0) return Failed("MADV_FREE");
    for (uint64_t number = kFirst; number < kFirst + kCount; ++number) {
      if (!VerifyPage(region_.page(number), number, kVersion) &&
          !AllZero(region_.page(number), 1)) {
        return region_.Describe(number, kVersion);
      }
    }
    return FillPart();
  }

  std::string UnmapAndMapAgain() {
    if (munmap(part(), kBytes) != 0) return Failed("munmap");
    if (!MapPart()) return Failed("mmap");
    return ExpectZeros("newly mapped pages");
  }

  std::string MapOver() {
    if (!MapPart()) return Failed("mmap");
    return ExpectZeros("pages mapped over others");
  }

  std::string Move() {
    std::byte* target = Reserve();
    if (mremap(part(), kBytes, kBytes, MREMAP_MAYMOVE | MREMAP_FIXED, target) != target) {
      return Failed("mremap");
    }
    std::string wrong = VerifyAt(target);
    if (!wrong.empty()) return wrong;
    if (mremap(target, kBytes, kBytes, MREMAP_MAYMOVE | MREMAP_FIXED, part()) != part()) {
      return Failed("mremap back");
    }
    return Verify();
  }

  // There and back without a touch in between.
  std::string MoveTwice() {
    std::byte* target = Reserve();
    if (mremap(part(), kBytes, kBytes, MREMAP_MAYMOVE | MREMAP_FIXED, target) != target ||
        mremap(target, kBytes, kBytes, MREMAP_MAYMOVE | MREMAP_FIXED, part()) != part()) {
      return Failed("mremap");
    }
    return Verify();
  }

  std::string MapHalfFilled() {
    half_filled_ = Reserve();
    if (mprotect(half_filled_, kBytes, PROT_READ | PROT_WRITE) != 0) return Failed("mprotect");
    for (uint64_t number = kFirst; number < kFirst + kCount / 2; ++number) {
      FillPage(half_filled_ + (number - kFirst) * kPageBytes, number, kVersion);
    }
    return "";
  }
  std::string MoveHalfFilled() {
    std::byte* target = Reserve();
    if (mremap(half_filled_, kBytes, kBytes, MREMAP_MAYMOVE | MREMAP_FIXED, target) != target) {
      return Failed("mremap");
    }
    for (uint64_t number = kFirst; number < kFirst + kCount / 2; ++number) {
      if (!VerifyPage(target + (number - kFirst) * kPageBytes, number, kVersion)) {
        return "WRONG page " + std::to_string(number) + " where it was moved";
      }
    }
    if (!AllZero(target + kBytes / 2, kCount / 2)) return "WRONG: untouched pages are not zero";
    munmap(target, kBytes);
    return "";
  }

  std::string MoveButKeepTheRange() {
    std::byte* target = Reserve();
    int flags = MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP;
    if (mremap(part(), kBytes, kBytes, flags, target) != target) return Failed("mremap");
    std::string wrong = VerifyAt(target);
    munmap(target, kBytes);
    return wrong.empty() ? ExpectZeros("the range that was left") : wrong;
  }

  std::string Shrink() {
    std::byte* target = Reserve();
    if (mremap(part(), kBytes, kBytes, MREMAP_MAYMOVE | MREMAP_FIXED, target) != target ||
        mremap(target, kBytes, kBytes / 2, 0) != target) {
      return Failed("mremap");
    }
    for (uint64_t number = kFirst; number < kFirst + kCount / 2; ++number) {
      if (!VerifyPage(target + (number - kFirst) * kPageBytes, number, kVersion)) {
        return "WRONG page " + std::to_string(number) + " of the shrunken mapping";
      }
    }
    munmap(target, kBytes / 2);
    return MapPart() ? ExpectZeros("newly mapped pages") : Failed("mmap");
  }

  std::string Protect() {
    if (mprotect(part(), kBytes, PROT_NONE) != 0) return Failed("mprotect");
    if (mprotect(part(), kBytes, PROT_READ) != 0) return Failed("mprotect");
    std::string wrong = Verify();
    if (!wrong.empty()) return wrong;
    if (mprotect(part(), kBytes, PROT_READ | PROT_WRITE) != 0) return Failed("mprotect");
    return FillPart();
  }

  std::string ProtectOnly() {
    if (mprotect(part(), kBytes, PROT_NONE) != 0) return Failed("mprotect");
    return "";
  }
  std::string UnprotectAndVerify() {
    if (mprotect(part(), kBytes, PROT_READ | PROT_WRITE) != 0) return Failed("mprotect");
    return Verify();
  }

  // Within RLIMIT_MEMLOCK of an ordinary user.
  std::string Lock() {
    if (mlock(part(), kLockedBytes) != 0) return Failed("mlock");
    unsigned char resident[kLockedBytes / kPageBytes];
    if (mincore(part(), kLockedBytes, resident) != 0) return Failed("mincore");
    for (unsigned char page : resident) {
      if ((page & 1) == 0) return "a locked page is absent";
    }
    return "";
  }
  std::string StillLocked() {
    unsigned char resident[kLockedBytes / kPageBytes];
    if (mincore(part(), kLockedBytes, resident) != 0) return Failed("mincore");
    for (unsigned char page : resident) {
      if ((page & 1) == 0) return "a locked page was taken out";
    }
    munlock(part(), kLockedBytes);
    return Verify();
  }

  // Where the kernel will not make a huge page of it, it must say so and leave the pages alone.
  std::string Collapse() {
    madvise(part(), kBytes, MADV_HUGEPAGE);
    madvise(part(), kBytes, MADV_COLLAPSE);
    return Verify();
  }

  // A guard page is not readable, whatever was stored there.
  std::string Guard() {
    if (madvise(part(), kBytes, MADV_GUARD_INSTALL) != 0) {
      return errno == EINVAL ? "" : Failed("MADV_GUARD_INSTALL");  // a kernel before 6.13
    }
    guarded_ = true;
    return StillGuarded();
  }
  std::string StillGuarded() {
    if (!guarded_) return "";
    char byte;
    iovec here{&byte, 1};
    for (size_t page = 0; page < kCount; page += 37) {
      iovec there{part() + page * kPageBytes, 1};
      if (process_vm_readv(getpid(), &here, 1, &there, 1, 0) != -1)
        return "a guard page is readable";
    }
    return "";
  }
  std::string Unguard() {
    if (guarded_ && madvise(part(), kBytes, MADV_GUARD_REMOVE) != 0) {
      return Failed("MADV_GUARD_REMOVE");
    }
    return guarded_ ? ExpectZeros("formerly guarded pages") : "";
  }

  std::string CloseDescriptors() {
    if (close_range(3, ~0U, 0) != 0) return Failed("close_range");
    return Verify();
  }

  std::string BecomeNobody() {
    if (setgid(kNumberOfNobody) != 0 || setuid(kNumberOfNobody) != 0) return Failed("setuid");
    return Verify();
  }

 private:
  static constexpr uint64_t kVersion = 1;
  static constexpr size_t kLockedBytes = size_t{4} << 20;

  std::byte* part() const { return region_.page(kFirst); }

  bool MapPart() const {
    return mmap(part(), kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
                0) == part();
  }

  // Address space for a move; the move replaces what is here.
  static std::byte* Reserve() {
    return static_cast<std::byte*>(
        mmap(nullptr, kBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  }

  static std::string VerifyAt(const std::byte* data) {
    for (uint64_t number = kFirst; number < kFirst + kCount; ++number) {
      if (!VerifyPage(data + (number - kFirst) * kPageBytes, number, kVersion)) {
        return "WRONG page " + std::to_string(number) + " where it was moved";
      }
    }
    return "";
  }

  // Checks that the part reads as zeros, and puts its pages back.
  std::string ExpectZeros(const char* what) const {
    if (!AllZero(part(), kCount)) return std::string("WRONG: not zero: ") + what;
    return FillPart();
  }

  std::string FillPart() const {
    for (uint64_t number = kFirst; number < kFirst + kCount; ++number) {
      FillPage(region_.page(number), number, kVersion);
    }
    return Verify();
  }

  PatternRegion region_;
  std::byte* half_filled_ = nullptr;
  bool guarded_ = false;
};

}  // namespace
}  // namespace zmem

int main() {
  using zmem::Subject;
  Subject subject;
  std::map<std::string, zmem::Command> commands;
  auto add = [&](const char* name, auto method) {
    commands[name] = [&subject, method] {
      std::string wrong = (subject.*method)();
      return wrong.empty() ? "ok" : wrong;
    };
  };
  add("verify", &Subject::Verify);
  add("discard", &Subject::Discard);
  add("free", &Subject::Free);
  add("unmap and map again", &Subject::UnmapAndMapAgain);
  add("map over", &Subject::MapOver);
  add("move", &Subject::Move);
  add("move twice", &Subject::MoveTwice);
  add("move but keep the range", &Subject::MoveButKeepTheRange);
  add("map a half filled one", &Subject::MapHalfFilled);
  add("move the half filled one", &Subject::MoveHalfFilled);
  add("shrink", &Subject::Shrink);
  add("protect", &Subject::Protect);
  add("protect only", &Subject::ProtectOnly);
  add("unprotect and verify", &Subject::UnprotectAndVerify);
  add("lock", &Subject::Lock);
  add("still locked", &Subject::StillLocked);
  add("collapse", &Subject::Collapse);
  add("guard", &Subject::Guard);
  add("still guarded", &Subject::StillGuarded);
  add("unguard", &Subject::Unguard);
  add("close descriptors", &Subject::CloseDescriptors);
  add("become nobody", &Subject::BecomeNobody);
  return zmem::ServeCommands(commands);
}
