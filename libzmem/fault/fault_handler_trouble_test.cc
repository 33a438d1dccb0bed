// What goes wrong: damaged objects, calls that fail, threads and programs that end.
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>

#include <atomic>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "libzmem/base/kernel_abi.h"
#include "libzmem/fault/fault_handler.h"
#include "libzmem/fault/fault_handler_fixture.h"

namespace zmem {
namespace {

TEST_F(FaultHandlerTest, ADamagedPageRaisesSigbusAndIsNeverWrong) {
  PageEntry entry = Store(0, CompressiblePage(0));
  Store(1, CompressiblePage(1));
  store_.Damage(entry);
  Serve();
  pid_t child = ForkChild([&] {
    signal(SIGBUS, [](int) { _exit(kGotSigbus); });
    if (!memory_.Holds(1, expected_.at(1))) return kWrongBytes;
    return memory_.Holds(0, expected_.at(0)) ? kAsExpected : kWrongBytes;
  });
  EXPECT_EQ(Await(child), kGotSigbus);
  ASSERT_EQ(faults_->children().size(), 1u);
  Process& child_process = faults_->children()[0]->process();
  faults_->children()[0]->Settle();
  EXPECT_EQ(Count(child_process.counters.poisoned_pages), 1);
  EXPECT_EQ(Count(process_->counters.poisoned_pages), 0);
  EXPECT_TRUE(memory_.Holds(1, expected_[1]));
}

// Fails the first `times` calls of an ioctl.
class FailIoctl : public sys::FailureInjector {
 public:
  FailIoctl(uint64_t request, int error, int times)
      : request_(request), error_(error), left_(times) {}
  int ErrnoFor(sys::Call call, uint64_t detail) override {
    if (call != sys::Call::kIoctl || detail != request_) return 0;
    ++calls_;
    return left_.fetch_sub(1) > 0 ? error_ : 0;
  }
  bool spent() const { return left_ <= 0; }
  int calls() const { return calls_; }

 private:
  const uint64_t request_;
  const int error_;
  std::atomic<int> left_;
  std::atomic<int> calls_{0};
};

class FailedFills : public FaultHandlerTest, public testing::WithParamInterface<int> {};

TEST_P(FailedFills, ComeLateButRight) {
  StoreVaried(0, 8);
  FailIoctl fail(UFFDIO_COPY, GetParam(), 40);  // more than the rounds tried without a pause
  Injected injected(fail);
  Serve();
  ExpectAllHeld();
  EXPECT_TRUE(fail.spent());
  faults_->Settle();
  ExpectNothingStored();
}

TEST_P(FailedFills, OfFirstTouchesComeLateButRight) {
  FailIoctl fail(UFFDIO_ZEROPAGE, GetParam(), 40);
  Injected injected(fail);
  Serve();
  EXPECT_TRUE(memory_.Holds(0, FilledPage(0)));
  EXPECT_TRUE(fail.spent());
}

TEST_P(FailedFills, DoNotStopADrain) {
  StoreVaried(0, 200);
  FailIoctl fail(UFFDIO_COPY, GetParam(), 40);
  Injected injected(fail);
  Serve();
  faults_->Drain();
  ExpectNothingStored();
  ExpectAllHeld();
}

INSTANTIATE_TEST_SUITE_P(Errors, FailedFills, testing::Values(EAGAIN, ENOMEM, EIO),
                         [](const auto& info) {
                           return info.param == EAGAIN   ? "EAGAIN"
                                  : info.param == ENOMEM ? "ENOMEM"
                                                         : "EIO";
                         });

TEST_F(FaultHandlerTest, MoreWaitingThreadsThanItRemembersAreAllAnswered) {
  constexpr size_t kThreads = 160;  // kMaxPending is 128
  StoreVaried(0, kThreads);
  FailIoctl fail(UFFDIO_COPY, EAGAIN, 2000);
  Injected injected(fail);
  Serve();
  std::atomic<size_t> right{0};
  std::vector<std::thread> threads;
  for (size_t page = 0; page < kThreads; ++page) {
    threads.emplace_back([&, page] { right += memory_.Holds(page, expected_.at(page)); });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(right, kThreads);
}

TEST_F(FaultHandlerTest, ADescriptorThatTheProgramMadeBlockingIsServed) {
  StoreVaried(0, 16);
  ASSERT_EQ(fcntl(process_->uffd.fd(), F_SETFL, 0), 0);
  Serve();
  ExpectAllHeld();
}

TEST_F(FaultHandlerTest, StopEndsTheThreadWithFaultsStillWaiting) {
  Store(0, CompressiblePage(0));
  FailIoctl fail(UFFDIO_COPY, EAGAIN, 1 << 30);
  std::thread toucher;
  {
    Injected injected(fail);
    Serve();
    toucher = std::thread([&] { EXPECT_TRUE(memory_.Holds(0, CompressiblePage(0))); });
    while (fail.calls() == 0) std::this_thread::yield();
    faults_->handler().Stop();
    faults_->Join();
  }
  // Somebody else takes over; what the first one had read is asked for again.
  faults_.reset();
  process_->uffd.Wake(memory_.range());
  Serve();
  toucher.join();
}

// A child that maps memory, sends its userfaultfd, and ends when told.
class Subject {
 public:
  Subject() {
    int ends[2];
    ZMEM_CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
    UniqueFd theirs(ends[1]);
    channel_.emplace(UniqueFd(ends[0]));
    pid_ = ForkChild([&] {
      wire::Channel channel(std::move(theirs));
      UniqueFd fd = NewUserfaultfd();
      if (!channel.Send(wire::Userfaultfd{}, fd.get()).ok()) return 1;
      wire::Detach detach;
      channel.Receive(detach, -1).IgnoreError();
      return 0;
    });
    wire::Userfaultfd message;
    ZMEM_CHECK(channel_->Receive(message, -1, &uffd_).ok());
  }
  UniqueFd TakeUserfaultfd() { return std::move(uffd_); }
  int End() {
    ZMEM_CHECK(channel_->Send(wire::Detach{}).ok());
    return Await(pid_);
  }

 private:
  std::optional<wire::Channel> channel_;
  UniqueFd uffd_;
  pid_t pid_;
};

TEST(FaultHandler, NoticesTheEndOfTheAddressSpaceAndTellsOfIt) {
  MonotonicClock clock;
  Mapping memory(1);
  TestStore store;
  Subject subject;  // forked: has the mapping too, at the same addresses
  auto process = std::make_shared<Process>(
      store.store, *store.arena, OrDie(Userfaultfd::Handshake(subject.TakeUserfaultfd())));
  RegisterRange(*process, memory.range());
  StorePage(store, *process, memory.address(0), CompressiblePage(0));
  EXPECT_EQ(subject.End(), 0);
  FaultThread faults(process, clock);
  faults.Drain();
  faults.Join();
  EXPECT_TRUE(faults.gone());
  EXPECT_TRUE(process->gone);
}

}  // namespace
}  // namespace zmem
