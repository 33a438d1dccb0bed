// Every page comes back when a drain is asked for.
#include <sys/mman.h>

#include <functional>
#include <thread>

#include "libzmem/fault/fault_handler.h"
#include "libzmem/fault/fault_handler_fixture.h"

namespace zmem {
namespace {

TEST_F(FaultHandlerTest, ADrainPutsEveryPageBack) {
  StoreVaried(0, memory_.page_count());
  Serve();
  EXPECT_FALSE(faults_->handler().drained());
  faults_->Drain();
  ExpectNothingStored();
  // Without anybody who answers: the pages are there.
  faults_->handler().Stop();
  faults_->Join();
  ExpectAllHeld();
}

TEST_F(FaultHandlerTest, ADrainLeavesTheProgramsOwnPagesAndGuardsAlone) {
  StoreVaried(0, 64);
  // As if the kernel had put pages there by itself.
  ASSERT_EQ(process_->uffd.Unregister(memory_.range()), 0);
  memory_.Write(5, CompressiblePage(1005));
  expected_[5] = CompressiblePage(1005);
  ASSERT_EQ(process_->uffd.Register(memory_.range()), 0);
  Serve();
  faults_->Drain();
  ExpectNothingStored();
  ExpectAllHeld();
}

TEST_F(FaultHandlerTest, ADrainBringsBackPagesOnBothSidesOfAMappingsEnd) {
  StoreVaried(0, 128);
  // The kernel keeps what differs in protection as mappings of their own.
  ASSERT_EQ(mprotect(memory_.data(20), kPageBytes, PROT_READ), 0);
  ASSERT_EQ(mprotect(memory_.data(77), 20 * kPageBytes, PROT_READ), 0);
  Serve();
  faults_->Drain();
  ExpectNothingStored();
  ExpectAllHeld();
  EXPECT_EQ(Count(process_->counters.zero_faults), 0);
}

TEST_F(FaultHandlerTest, ADrainOfNothingIsDoneAtOnce) {
  process_->RemoveChunk(ChunkNumber(memory_.address(0)));
  Serve();
  faults_->Drain();
  EXPECT_TRUE(faults_->handler().drained());
}

// Runs `body` in the fault thread when it waits for the second time after a drain was asked for:
// the first wait ends with the request.
class InFaultThread : public sys::FailureInjector {
 public:
  explicit InFaultThread(std::function<void()> body) : body_(std::move(body)) {}
  int ErrnoFor(sys::Call call, uint64_t) override {
    if (call == sys::Call::kPoll && std::this_thread::get_id() != test_ && ++polls_ == 2) body_();
    return 0;
  }

 private:
  const std::thread::id test_ = std::this_thread::get_id();
  int polls_ = 0;
  const std::function<void()> body_;
};

TEST_F(FaultHandlerTest, APageThatMovesWhileADrainLooksForPagesIsNotForgotten) {
  StoreVaried(0, 64);
  Mapping elsewhere(1);
  std::thread mover;
  // The fault thread begins a pass in its first round after the request; the event comes before
  // its second.
  InFaultThread replay([&] {
    mover = std::thread([&] { Move(0, 64, 64, elsewhere.data(0)); });
    AwaitMessage(process_->uffd);
  });
  Injected injected(replay);
  Serve();
  faults_->Drain();
  faults_->Settle();
  EXPECT_EQ(Count(process_->counters.stored_pages), 0) << "drained, and pages are still out";
  mover.join();
}

TEST_F(FaultHandlerTest, ADrainGoesOnBehindADamagedPage) {
  StoreVaried(0, 64);
  store_.Damage(EntryOf(*process_, memory_.address(10)));  // CompressiblePage
  Serve();
  faults_->Drain();
  ExpectNothingStored();
  EXPECT_EQ(Count(process_->counters.poisoned_pages), 1);
  expected_.erase(10);
  ExpectAllHeld();
}

}  // namespace
}  // namespace zmem
