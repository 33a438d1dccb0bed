// Userfaultfd against the kernel, on this process's own memory. Nobody serves faults here but the
// test, message by message.
#include "libzmem/uffd/userfaultfd.h"

#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <functional>
#include <thread>

#include "libzmem/testing/memory.h"
#include "libzmem/wire/channel.h"

namespace zmem {
namespace {

absl::StatusCode HandshakeCode(UniqueFd fd) {
  return Userfaultfd::Handshake(std::move(fd)).status().code();
}

TEST(Handshake, RefusesWhatIsNotAUserfaultfd) {
  EXPECT_EQ(HandshakeCode(UniqueFd()), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(HandshakeCode(UniqueFd(eventfd(0, EFD_CLOEXEC))), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(HandshakeCode(UniqueFd(sys::Open("/dev/null", O_RDWR))),
            absl::StatusCode::kInvalidArgument);
}

TEST(Handshake, RefusesAUserfaultfdThatSomebodyHasUsed) {
  UniqueFd fd = NewUserfaultfd();
  UniqueFd copy(dup(fd.get()));
  ASSERT_TRUE(Userfaultfd::Handshake(std::move(fd)).ok());
  absl::Status again = Userfaultfd::Handshake(std::move(copy)).status();
  EXPECT_TRUE(absl::IsInvalidArgument(again)) << again;
}

class FailApi : public sys::FailureInjector {
 public:
  explicit FailApi(int error) : error_(error) {}
  int ErrnoFor(sys::Call, uint64_t detail) override { return detail == UFFDIO_API ? error_ : 0; }

 private:
  const int error_;
};

TEST(Handshake, SaysWhatTheKernelOrTheUserLacks) {
  for (int error : {EPERM, EINVAL}) {
    FailApi fail(error);
    sys::SetFailureInjector(&fail);
    absl::Status status = Userfaultfd::Handshake(NewUserfaultfd()).status();
    sys::SetFailureInjector(nullptr);
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    EXPECT_NE(status.message().find(error == EPERM ? "CAP_SYS_PTRACE" : "Linux 6.8"),
              absl::string_view::npos);
  }
}

class UserfaultfdTest : public testing::Test {
 protected:
  UserfaultfdTest() : memory_(1), uffd_(ReadyUserfaultfd()) {}

  void Register() { ASSERT_EQ(uffd_.Register(memory_.range()), 0); }
  FillResult Copy(size_t page, const PageBytes& bytes) {
    return uffd_.Copy(memory_.address(page), bytes.bytes.data(), 1, &filled_);
  }
  uffd_msg ReadOne() {
    EXPECT_TRUE(AwaitMessage(uffd_));
    std::array<uffd_msg, 1> messages{};
    EXPECT_EQ(uffd_.Read(messages), 1);
    return messages[0];
  }
  // After an event was read, filling may be refused until its thread has run again (FACTS 7).
  FillResult CopyOnceSettled(size_t page, const PageBytes& bytes) {
    FillResult result;
    do {
      result = Copy(page, bytes);
    } while (result == FillResult::kChanging);
    return result;
  }

  Mapping memory_;
  Userfaultfd uffd_;
  size_t filled_ = 99;
};

TEST_F(UserfaultfdTest, AFaultIsReadFilledAndItsThreadGoesOn) {
  Register();
  std::atomic<pid_t> tid{0};
  PageBytes bytes = CompressiblePage(1);
  std::thread toucher([&] {
    tid = static_cast<pid_t>(syscall(SYS_gettid));
    EXPECT_TRUE(memory_.Holds(3, bytes));
  });
  uffd_msg message = ReadOne();
  EXPECT_EQ(message.event, UFFD_EVENT_PAGEFAULT);
  EXPECT_EQ(PageStart(message.arg.pagefault.address), memory_.address(3));
  EXPECT_EQ(message.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WRITE, 0u);
  EXPECT_EQ(static_cast<pid_t>(message.arg.pagefault.feat.ptid), tid);
  EXPECT_EQ(Copy(3, bytes), FillResult::kDone);
  EXPECT_EQ(filled_, 1u);
  toucher.join();
}

TEST_F(UserfaultfdTest, AWriteFaultSaysSo) {
  Register();
  std::thread toucher([&] { *memory_.data(0) = std::byte{1}; });
  EXPECT_NE(ReadOne().arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WRITE, 0u);
  EXPECT_EQ(Copy(0, FilledPage(0)), FillResult::kDone);
  toucher.join();
}

TEST_F(UserfaultfdTest, ThereIsNothingToReadAndReadingDoesNotBlock) {
  Register();
  std::array<uffd_msg, 4> messages;
  EXPECT_EQ(uffd_.Read(messages), 0);
}

TEST_F(UserfaultfdTest, ReadingDoesNotBlockOnADescriptorMadeBlocking) {
  Register();
  ASSERT_EQ(fcntl(uffd_.fd(), F_SETFL, 0), 0);
  std::array<uffd_msg, 4> messages;
  EXPECT_EQ(uffd_.Read(messages), 0);
}

TEST_F(UserfaultfdTest, ManyPagesAreFilledInOneCall) {
  Register();
  std::array<PageBytes, 4> source;
  for (size_t page = 0; page < source.size(); ++page) source[page] = CompressiblePage(page);
  EXPECT_EQ(uffd_.Copy(memory_.address(8), source[0].bytes.data(), source.size(), &filled_),
            FillResult::kDone);
  EXPECT_EQ(filled_, source.size());
  for (size_t page = 0; page < source.size(); ++page) {
    EXPECT_TRUE(memory_.Holds(8 + page, source[page]));
  }
}

TEST_F(UserfaultfdTest, APresentPageIsLeftAsItIs) {
  memory_.Write(2, CompressiblePage(7));
  Register();
  EXPECT_EQ(Copy(2, CompressiblePage(8)), FillResult::kPresent);
  EXPECT_EQ(filled_, 0u);
  EXPECT_EQ(uffd_.Zero(memory_.address(2), 1, &filled_), FillResult::kPresent);
  EXPECT_TRUE(memory_.Holds(2, CompressiblePage(7)));
}

TEST_F(UserfaultfdTest, ARunUpToAPresentPageCountsWhatWasFilled) {
  memory_.Write(2, CompressiblePage(7));
  Register();
  std::array<PageBytes, 4> source;
  source.fill(CompressiblePage(1));
  FillResult result = uffd_.Copy(memory_.address(0), source[0].bytes.data(), 4, &filled_);
  EXPECT_EQ(filled_, 2u);
  // The kernel tells a partial copy from none at all, but not why it ended.
  EXPECT_EQ(result, FillResult::kChanging);
  EXPECT_EQ(Copy(2, source[2]), FillResult::kPresent);
}

TEST_F(UserfaultfdTest, ZeroFillsPages) {
  Register();
  EXPECT_EQ(uffd_.Zero(memory_.address(0), 8, &filled_), FillResult::kDone);
  EXPECT_EQ(filled_, 8u);
  for (size_t page = 0; page < 8; ++page) EXPECT_TRUE(memory_.Holds(page, FilledPage(0)));
}

TEST_F(UserfaultfdTest, WithoutWakingAThreadSleepsUntilItIsWoken) {
  Register();
  std::atomic<bool> through{false};
  std::thread toucher([&] {
    EXPECT_TRUE(memory_.Holds(0, FilledPage(0)));
    through = true;
  });
  ReadOne();
  EXPECT_EQ(uffd_.Zero(memory_.address(0), 1, &filled_, Userfaultfd::Waiters::kLeave),
            FillResult::kDone);
  EXPECT_FALSE(through);
  uffd_.Wake(memory_.pages(0, 1));
  toucher.join();
}

TEST_F(UserfaultfdTest, WhoWaitsForBytesSleepsOnAsWell) {
  Register();
  PageBytes bytes = CompressiblePage(7);
  std::atomic<bool> through{false};
  std::thread toucher([&] {
    EXPECT_TRUE(memory_.Holds(0, bytes));
    through = true;
  });
  ReadOne();
  EXPECT_EQ(
      uffd_.Copy(memory_.address(0), bytes.bytes.data(), 1, &filled_, Userfaultfd::Waiters::kLeave),
      FillResult::kDone);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_FALSE(through);
  uffd_.Wake(memory_.pages(0, 1));
  toucher.join();
}

TEST_F(UserfaultfdTest, AWokenThreadFaultsAgain) {
  Register();
  std::thread toucher([&] { EXPECT_TRUE(memory_.Holds(0, CompressiblePage(1))); });
  ReadOne();
  uffd_.Wake(memory_.range());
  EXPECT_EQ(PageStart(ReadOne().arg.pagefault.address), memory_.address(0));
  EXPECT_EQ(Copy(0, CompressiblePage(1)), FillResult::kDone);
  toucher.join();
}

TEST_F(UserfaultfdTest, AnUnregisteredPageIsAbsent) {
  EXPECT_EQ(Copy(0, CompressiblePage(1)), FillResult::kAbsent);
  EXPECT_EQ(filled_, 0u);
}

TEST_F(UserfaultfdTest, AnUnmappedPageIsAbsent) {
  memory_.Unmap(4, 1);
  EXPECT_EQ(Copy(4, CompressiblePage(1)), FillResult::kAbsent);
}

TEST_F(UserfaultfdTest, ARunThatReachesIntoAnotherMappingFillsNothing) {
  ASSERT_EQ(mprotect(memory_.data(2), kPageBytes, PROT_READ), 0);
  Register();
  std::array<PageBytes, 4> source;
  source.fill(CompressiblePage(1));
  EXPECT_EQ(uffd_.Copy(memory_.address(0), source[0].bytes.data(), 4, &filled_),
            FillResult::kAbsent);
  EXPECT_EQ(filled_, 0u);
}

TEST_F(UserfaultfdTest, OneMappingHasOneUserfaultfd) {
  Register();
  Userfaultfd other = ReadyUserfaultfd();
  EXPECT_EQ(other.Register(memory_.range()), -EBUSY);
  EXPECT_EQ(uffd_.Unregister(memory_.range()), 0);
  EXPECT_EQ(other.Register(memory_.range()), 0);
}

TEST_F(UserfaultfdTest, UnregisteringLetsWaitersGoOn) {
  Register();
  std::thread toucher([&] { EXPECT_TRUE(memory_.Holds(0, FilledPage(0))); });
  ASSERT_TRUE(AwaitMessage(uffd_));
  EXPECT_EQ(uffd_.Unregister(memory_.range()), 0);
  toucher.join();
}

TEST_F(UserfaultfdTest, NothingIsFilledWhileADiscardIsUnread) {
  Register();
  ASSERT_EQ(Copy(0, CompressiblePage(1)), FillResult::kDone);
  std::thread program([&] { madvise(memory_.data(0), 2 * kPageBytes, MADV_DONTNEED); });
  ASSERT_TRUE(AwaitMessage(uffd_));
  EXPECT_EQ(Copy(9, CompressiblePage(9)), FillResult::kChanging);
  EXPECT_EQ(filled_, 0u);
  uffd_msg message = ReadOne();
  EXPECT_EQ(message.event, UFFD_EVENT_REMOVE);
  EXPECT_EQ(message.arg.remove.start, memory_.address(0));
  EXPECT_EQ(message.arg.remove.end, memory_.address(2));
  program.join();
  EXPECT_EQ(CopyOnceSettled(9, CompressiblePage(9)), FillResult::kDone);
}

TEST_F(UserfaultfdTest, AnUnmappingIsTold) {
  Register();
  std::thread program([&] { memory_.Unmap(5, 3); });
  uffd_msg message = ReadOne();
  EXPECT_EQ(message.event, UFFD_EVENT_UNMAP);
  EXPECT_EQ(message.arg.remove.start, memory_.address(5));
  EXPECT_EQ(message.arg.remove.end, memory_.address(8));
  program.join();
}

TEST_F(UserfaultfdTest, AMoveIsToldThenTheUnmappingOfTheOldPlace) {
  Mapping elsewhere(1);
  Register();
  memory_.Forget(0, 4);
  std::thread program([&] {
    mremap(memory_.data(0), 4 * kPageBytes, 4 * kPageBytes, MREMAP_MAYMOVE | MREMAP_FIXED,
           elsewhere.data(2));
  });
  uffd_msg message = ReadOne();
  EXPECT_EQ(message.event, UFFD_EVENT_REMAP);
  EXPECT_EQ(message.arg.remap.from, memory_.address(0));
  EXPECT_EQ(message.arg.remap.to, elsewhere.address(2));
  EXPECT_EQ(message.arg.remap.len, 4 * kPageBytes);
  message = ReadOne();
  EXPECT_EQ(message.event, UFFD_EVENT_UNMAP);
  EXPECT_EQ(message.arg.remove.start, memory_.address(0));
  program.join();
  // The new place is registered; its mapping ends before the descriptor does.
  EXPECT_EQ(uffd_.Unregister(elsewhere.range()), 0);
}

TEST_F(UserfaultfdTest, AForkedChildBringsItsOwnDescriptorWhichFillsItsPages) {
  Register();
  PageBytes bytes = CompressiblePage(1);
  std::atomic<pid_t> child{0};
  std::thread program([&] { child = ForkChild([&] { return memory_.Holds(0, bytes) ? 0 : 1; }); });
  uffd_msg message = ReadOne();
  ASSERT_EQ(message.event, UFFD_EVENT_FORK);
  Userfaultfd of_child = Userfaultfd::Adopt(UniqueFd(static_cast<int>(message.arg.fork.ufd)));
  program.join();
  ASSERT_TRUE(AwaitMessage(of_child));
  std::array<uffd_msg, 1> messages;
  ASSERT_EQ(of_child.Read(messages), 1);
  EXPECT_EQ(of_child.Copy(memory_.address(0), bytes.bytes.data(), 1, &filled_), FillResult::kDone);
  EXPECT_EQ(Await(child), 0);
  // And when it has ended there is nothing left to fill.
  EXPECT_EQ(of_child.Copy(memory_.address(1), bytes.bytes.data(), 1, &filled_), FillResult::kGone);
  EXPECT_EQ(of_child.Zero(memory_.address(1), 1, &filled_), FillResult::kGone);
}

TEST_F(UserfaultfdTest, APoisonedPageRaisesSigbus) {
  memory_.Write(1, CompressiblePage(1));  // without any page of its own a mapping is not copied
  Register();
  ASSERT_EQ(uffd_.Poison(memory_.address(0)), FillResult::kDone);
  ASSERT_EQ(uffd_.Unregister(memory_.range()), 0);
  pid_t child = ForkChild([&] {
    signal(SIGBUS, [](int) { _exit(77); });
    return memory_.Holds(0, FilledPage(0)) ? 1 : 2;
  });
  EXPECT_EQ(Await(child), 77);
}

TEST(Userfaultfd, OfAProgramThatHasEndedIsGone) {
  Mapping memory(1);
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
  wire::Channel ours{UniqueFd(ends[0])};
  UniqueFd theirs(ends[1]);
  pid_t child = ForkChild([&] {
    wire::Channel channel(std::move(theirs));
    bool sent = channel.Send(wire::Userfaultfd{}, NewUserfaultfd().get()).ok();
    wire::Detach wait;
    return sent && channel.Receive(wait, -1).ok() ? 0 : 1;
  });
  wire::Userfaultfd message;
  UniqueFd fd;
  ASSERT_TRUE(ours.Receive(message, 10'000, &fd).ok());
  absl::StatusOr<Userfaultfd> uffd = Userfaultfd::Handshake(std::move(fd));
  ASSERT_TRUE(uffd.ok()) << uffd.status();
  ASSERT_EQ(uffd->Register(memory.range()), 0);
  PageBytes bytes = CompressiblePage(1);
  size_t filled = 99;
  EXPECT_EQ(uffd->Copy(memory.address(0), bytes.bytes.data(), 1, &filled), FillResult::kDone);
  ASSERT_TRUE(ours.Send(wire::Detach{}).ok());
  EXPECT_EQ(Await(child), 0);
  EXPECT_EQ(uffd->Copy(memory.address(1), bytes.bytes.data(), 1, &filled), FillResult::kGone);
  EXPECT_EQ(filled, 0u);
  EXPECT_EQ(uffd->Poison(memory.address(2)), FillResult::kGone);
  EXPECT_LT(uffd->Register(memory.range()), 0);
}

class FailCopy : public sys::FailureInjector {
 public:
  explicit FailCopy(int error) : error_(error) {}
  int ErrnoFor(sys::Call, uint64_t detail) override { return detail == UFFDIO_COPY ? error_ : 0; }

 private:
  const int error_;
};

TEST_F(UserfaultfdTest, EveryErrorIsTriaged) {
  Register();
  for (auto [error, result] :
       {std::pair{EAGAIN, FillResult::kChanging}, std::pair{EEXIST, FillResult::kPresent},
        std::pair{ENOENT, FillResult::kAbsent}, std::pair{ESRCH, FillResult::kGone},
        std::pair{ENOMEM, FillResult::kNoMemory}, std::pair{EINVAL, FillResult::kFailed},
        std::pair{EFAULT, FillResult::kFailed}}) {
    FailCopy fail(error);
    sys::SetFailureInjector(&fail);
    EXPECT_EQ(Copy(0, CompressiblePage(0)), result) << error;
    sys::SetFailureInjector(nullptr);
    EXPECT_EQ(filled_, 0u);
  }
}

}  // namespace
}  // namespace zmem
