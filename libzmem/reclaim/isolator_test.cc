// Taking pages out and putting them back, with this process as the program and the test as its
// agent. A fault thread serves the memory where the test does not replay its steps itself.
#include "libzmem/reclaim/isolator.h"

#include <errno.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <optional>
#include <thread>

#include "libzmem/fault/layout_events.h"
#include "libzmem/testing/managed.h"
#include "libzmem/uffd/address_map.h"

namespace zmem {
namespace {

constexpr size_t kPages = 64;
constexpr size_t kSlab = 1;

wire::PageSet Pages(size_t first, size_t count) {
  wire::PageSet set;
  for (size_t page = first; page < first + count; ++page) set.Add(page);
  return set;
}

class IsolatorTest : public testing::Test {
 protected:
  IsolatorTest()
      : memory_(2),
        process_(ProcessOfThisOne(store_)),
        agent_(*process_),
        isolator_(*process_, agent_, clock_) {
    staging_ = BindStaging(*process_, 2);
    for (size_t page = 0; page < kPages; ++page) memory_.Write(page, CompressiblePage(page));
  }

  uint64_t chunk() const { return ChunkNumber(memory_.address(0)); }
  absl::StatusOr<wire::PageSet> TryIsolate(wire::PageSet pages) {
    Isolator::Order order{chunk(), pages, kSlab, {}};
    absl::Status status = isolator_.Isolate(std::span(&order, 1), 0);
    if (!status.ok()) return status;
    return order.moved;
  }
  wire::PageSet Isolate(wire::PageSet pages) { return OrDie(TryIsolate(pages)); }
  PageState state(size_t page) { return EntryOf(*process_, memory_.address(page)).state(); }
  bool Absent(const Mapping& memory, size_t page) {
    std::array<bool, 1> absent;
    EXPECT_EQ(process_->pagemap.FindAbsent(memory.address(page), absent), 0);
    return absent[0];
  }
  size_t SlotPage(size_t page) const { return kSlab * kPagesPerChunk + page; }
  void ExpectPagesHeld(size_t first, size_t count) {
    for (size_t page = first; page < first + count; ++page) {
      EXPECT_TRUE(memory_.Holds(page, CompressiblePage(page))) << page;
    }
  }
  // Where its entry says that a page is, there it must be.
  void ExpectEntriesMatchPlaces() {
    for (size_t page = 0; page < kPages; ++page) {
      bool staged = state(page) == PageState::kStaged;
      EXPECT_TRUE(staged || state(page) == PageState::kResident) << page;
      EXPECT_EQ(Absent(memory_, page), staged) << page;
      EXPECT_EQ(Absent(*staging_, SlotPage(page)), !staged) << page;
    }
  }
  void ReadEvents(size_t count) {
    for (size_t read = 0; read < count;) {
      ASSERT_TRUE(AwaitMessage(process_->uffd));
      std::array<uffd_msg, 4> messages;
      int got = process_->uffd.Read(messages);
      ASSERT_GE(got, 0);
      read += static_cast<size_t>(got);
    }
  }

  SharedFakeClock clock_;
  Mapping memory_;
  std::unique_ptr<Mapping> staging_;
  TestStore store_;
  std::shared_ptr<Process> process_;
  SelfAgent agent_;
  Isolator isolator_;
  std::optional<FaultThread> faults_;
};

TEST_F(IsolatorTest, MovesTheRegisteredPagesAndNoOthers) {
  ASSERT_TRUE(isolator_.Register(memory_.pages(0, 32), memory_.pages(0, 32)));
  wire::PageSet moved = Isolate(Pages(16, 32));
  EXPECT_EQ(moved.count(), 16u);
  EXPECT_EQ(moved.Without(Pages(16, 16)).count(), 0u);
  ExpectEntriesMatchPlaces();
  for (size_t page = 16; page < 32; ++page) {
    EXPECT_TRUE(staging_->Holds(SlotPage(page), CompressiblePage(page))) << page;
  }
  EXPECT_EQ(process_->counters.staged_pages, 16u);
  EXPECT_EQ(process_->counters.isolated_pages, 16u);
}

TEST_F(IsolatorTest, TakesNothingThatLiesBeyondTheMappingRegistered) {
  EXPECT_FALSE(isolator_.Register(memory_.pages(0, 32), memory_.pages(0, 16)));
  EXPECT_TRUE(Isolate(Pages(0, kPages)).empty());
  ExpectEntriesMatchPlaces();
}

TEST_F(IsolatorTest, TakesNothingOfAChunkThatItDoesNotKnow) {
  EXPECT_TRUE(Isolate(Pages(0, kPages)).empty());
  EXPECT_EQ(agent_.move_commands, 0u);
  ExpectEntriesMatchPlaces();
}

TEST_F(IsolatorTest, DoesNotRegisterWhatAnotherUserfaultfdHas) {
  Userfaultfd other = ReadyUserfaultfd();
  ASSERT_EQ(other.Register(memory_.range()), 0);
  EXPECT_FALSE(
      isolator_.Register(memory_.pages(0, kPagesPerChunk), memory_.pages(0, kPagesPerChunk)));
}

TEST_F(IsolatorTest, DoesNotRegisterWhatIsNotMapped) {
  memory_.Unmap(0, 16);
  EXPECT_FALSE(isolator_.Register(memory_.pages(0, 16), memory_.pages(0, 16)));
}

// As when the program has given two mappings the same protection again since the map was read.
TEST_F(IsolatorTest, DoesNotUnregisterAPartOfAMapping) {
  AddressRange mapping = MappingAt(getpid(), memory_.address(0));
  ASSERT_TRUE(isolator_.Register(memory_.pages(0, kPages), mapping));
  EXPECT_FALSE(isolator_.Unregister({mapping.start, memory_.address(kPages)}));
  EXPECT_EQ(MappingAt(getpid(), memory_.address(0)), mapping);
  EXPECT_TRUE(isolator_.Unregister(mapping));
}

TEST_F(IsolatorTest, AStagedPageComesBackFromItsSlotWhenTouched) {
  ASSERT_TRUE(isolator_.Register(memory_.pages(0, kPages), memory_.pages(0, kPages)));
  ASSERT_EQ(Isolate(Pages(0, kPages)).count(), kPages);
  faults_.emplace(process_, clock_);
  ExpectPagesHeld(0, kPages);
  faults_->Settle();
  EXPECT_EQ(process_->counters.staged_pages, 0u);
}

TEST_F(IsolatorTest, ReturnMovesTheStagedPagesBackWithTheirFlags) {
  ASSERT_TRUE(isolator_.Register(memory_.pages(0, kPages), memory_.pages(0, kPages)));
  ASSERT_EQ(Isolate(Pages(0, kPages)).count(), kPages);
  wire::PageSet returned =
      OrDie(isolator_.Return(chunk(), Pages(0, 32), kSlab, PageEntry::kIncompressible));
  EXPECT_EQ(returned.count(), 32u);
  ExpectEntriesMatchPlaces();
  ExpectPagesHeld(0, 32);
  for (size_t page = 0; page < 32; ++page) {
    EXPECT_EQ(EntryOf(*process_, memory_.address(page)),
              PageEntry().With(PageEntry::kIncompressible));
  }
  EXPECT_EQ(process_->counters.staged_pages, 32u);
  EXPECT_EQ(process_->counters.returned_pages, 32u);
}

TEST_F(IsolatorTest, ReturnLeavesPagesAloneThatCameBackMeanwhile) {
  ASSERT_TRUE(isolator_.Register(memory_.pages(0, kPages), memory_.pages(0, kPages)));
  ASSERT_EQ(Isolate(Pages(0, kPages)).count(), kPages);
  faults_.emplace(process_, clock_);
  memory_.Write(5, CompressiblePage(1005));
  faults_->Settle();
  wire::PageSet returned = OrDie(isolator_.Return(chunk(), Pages(0, kPages), kSlab, 0));
  EXPECT_FALSE(returned.Has(5));
  EXPECT_TRUE(memory_.Holds(5, CompressiblePage(1005)));
  ExpectPagesHeld(6, kPages - 6);
}

TEST_F(IsolatorTest, DiscardEmptiesTheSlots) {
  ASSERT_TRUE(isolator_.Register(memory_.pages(0, kPages), memory_.pages(0, kPages)));
  ASSERT_EQ(Isolate(Pages(0, kPages)).count(), kPages);
  faults_.emplace(process_, clock_);
  ExpectPagesHeld(0, kPages);
  ASSERT_TRUE(isolator_.Discard({{{kSlab, Pages(0, kPages)}}}).ok());
  for (size_t page = 0; page < kPages; ++page) EXPECT_TRUE(Absent(*staging_, SlotPage(page)));
  // The slab can be used again.
  EXPECT_EQ(Isolate(Pages(0, kPages)).count(), kPages);
}

TEST_F(IsolatorTest, PagesSharedAfterAForkAreLeftAlone) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  UniqueFd theirs(ends[0]);
  UniqueFd ours(ends[1]);
  faults_.emplace(process_, clock_);
  pid_t child = ForkChild([&] {
    ours.reset();
    char byte;
    return static_cast<int>(read(theirs.get(), &byte, 1));  // until the parent is done
  });
  ASSERT_TRUE(isolator_.Register(memory_.pages(0, kPages), memory_.pages(0, kPages)));
  memory_.Write(3, CompressiblePage(1003));  // its own again
  wire::PageSet moved = Isolate(Pages(0, kPages));
  EXPECT_EQ(moved.count(), 1u);
  EXPECT_TRUE(moved.Has(3));
  EXPECT_EQ(agent_.last_report.busy, kPages - 1);
  EXPECT_EQ(process_->counters.refused_pages, kPages - 1);
  ExpectEntriesMatchPlaces();
  ours.reset();
  EXPECT_EQ(Await(child), 0);
  EXPECT_TRUE(memory_.Holds(3, CompressiblePage(1003)));
}

TEST_F(IsolatorTest, LockedPagesAreLeftAlone) {
  ASSERT_TRUE(isolator_.Register(memory_.pages(0, kPages), memory_.pages(0, kPages)));
  // The sanitizers' mlock does nothing.
  ASSERT_EQ(syscall(SYS_mlock, memory_.data(0), 8 * kPageBytes), 0);
  wire::PageSet moved = Isolate(Pages(0, kPages));
  EXPECT_EQ(moved.And(Pages(0, 8)).count(), 0u);
  EXPECT_EQ(moved.count(), kPages - 8);
  ExpectEntriesMatchPlaces();
}

// The agent ends after `pages` of a command, without a report.
class AgentGone : public IsolatorTest, public testing::WithParamInterface<size_t> {};

TEST_P(AgentGone, WhileIsolatingLeavesEntriesThatMatch) {
  ASSERT_TRUE(isolator_.Register(memory_.pages(0, kPages), memory_.pages(0, kPages)));
  agent_.moves_left = GetParam();
  EXPECT_TRUE(absl::IsUnavailable(TryIsolate(Pages(0, kPages)).status()));
  ExpectEntriesMatchPlaces();
  EXPECT_EQ(process_->counters.staged_pages, GetParam());
  faults_.emplace(process_, clock_);
  ExpectPagesHeld(0, kPages);
}

TEST_P(AgentGone, WhileReturningLeavesEntriesThatMatch) {
  ASSERT_TRUE(isolator_.Register(memory_.pages(0, kPages), memory_.pages(0, kPages)));
  ASSERT_EQ(Isolate(Pages(0, kPages)).count(), kPages);
  agent_.moves_left = GetParam();
  EXPECT_TRUE(absl::IsUnavailable(isolator_.Return(chunk(), Pages(0, kPages), kSlab, 0).status()));
  ExpectEntriesMatchPlaces();
  EXPECT_EQ(process_->counters.staged_pages, kPages - GetParam());
  faults_.emplace(process_, clock_);
  faults_->Drain();
  EXPECT_EQ(process_->counters.staged_pages, 0u);
  ExpectPagesHeld(0, kPages);
}

INSTANTIATE_TEST_SUITE_P(After, AgentGone, testing::Values(0, 1, kPages / 2, kPages - 1));

TEST_F(IsolatorTest, AnUnreadEventLetsNothingMove) {
  ASSERT_TRUE(isolator_.Register(memory_.pages(0, 2 * kPages), memory_.pages(0, 2 * kPages)));
  std::thread program([&] { madvise(memory_.data(kPages), kPageBytes, MADV_DONTNEED); });
  ASSERT_TRUE(AwaitMessage(process_->uffd));
  EXPECT_TRUE(Isolate(Pages(0, kPages)).empty());
  EXPECT_EQ(agent_.last_report.last_errno, EAGAIN);
  ReadEvents(1);
  program.join();
  ExpectEntriesMatchPlaces();
  EXPECT_EQ(Isolate(Pages(0, kPages)).count(), kPages);
}

// Why there is a gate (libzmem/DESIGN.md): between the order and the move the program unmaps the
// pages and maps something else there, which nobody registered and nobody would bring back. The
// fault thread cannot read the event while the order is carried out, so the kernel refuses.
TEST_F(IsolatorTest, PagesMappedAnewBetweenOrderAndMoveAreNotTaken) {
  constexpr size_t kAgain = 16;
  ASSERT_TRUE(isolator_.Register(memory_.pages(0, kPages), memory_.pages(0, kPages)));
  faults_.emplace(process_, clock_);
  std::thread unmapper;
  agent_.before_move = [&] {
    unmapper = std::thread([&] { munmap(memory_.data(0), kAgain * kPageBytes); });
    ASSERT_TRUE(AwaitMessage(process_->uffd));
    void* fresh = mmap(memory_.data(0), kAgain * kPageBytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    ASSERT_EQ(fresh, memory_.data(0));
    for (size_t page = 0; page < kAgain; ++page) memory_.Write(page, CompressiblePage(2000 + page));
  };
  EXPECT_TRUE(Isolate(Pages(0, kPages)).empty());
  unmapper.join();
  faults_->Settle();
  for (size_t page = 0; page < kAgain; ++page) {
    EXPECT_TRUE(memory_.Holds(page, CompressiblePage(2000 + page))) << page;
  }
  // From then on the fresh mapping is not registered, and the rest is as it was.
  agent_.before_move = nullptr;
  wire::PageSet moved = Isolate(Pages(0, kPages));
  EXPECT_EQ(moved.And(Pages(0, kAgain)).count(), 0u);
  EXPECT_EQ(moved.count(), kPages - kAgain);
  ExpectPagesHeld(kAgain, kPages - kAgain);
}

// FACTS 8: the event of a discard is sent before the pages go. Replayed: the event is applied while
// the pages are still there.
TEST_F(IsolatorTest, PagesAboutToBeDroppedAreNotTakenUntilTheyAreSeenAbsent) {
  ASSERT_TRUE(isolator_.Register(memory_.pages(0, kPages), memory_.pages(0, kPages)));
  PageRestorer restorer(*process_);
  DiskReads disk(*process_, restorer, clock_);
  LayoutEvents events(*process_, restorer, disk);
  AddressRange dropped = memory_.pages(8, 8);
  events.OnRemove(dropped, clock_.now_ns());
  wire::PageSet moved = Isolate(Pages(0, kPages));
  EXPECT_EQ(moved.And(Pages(8, 8)).count(), 0u) << "they hold what the program has given up";
  EXPECT_EQ(moved.count(), kPages - 8);
  ASSERT_EQ(OrDie(isolator_.Return(chunk(), moved, kSlab, 0)).count(), moved.count());

  // Now they go.
  std::thread program([&] { madvise(memory_.data(8), 8 * kPageBytes, MADV_DONTNEED); });
  ReadEvents(1);
  program.join();
  EXPECT_EQ(Isolate(Pages(0, 32)).count(), 24u);
  for (size_t page = 8; page < 16; ++page) {
    EXPECT_EQ(EntryOf(*process_, memory_.address(page)), PageEntry()) << "seen absent";
  }
  // And what the program puts there afterwards may be taken like any other.
  size_t filled = 0;
  PageBytes fresh = CompressiblePage(3008);
  ASSERT_EQ(process_->uffd.Copy(memory_.address(8), fresh.bytes.data(), 1, &filled),
            FillResult::kDone);
  EXPECT_EQ(Isolate(Pages(8, 8)).count(), 1u);
  faults_.emplace(process_, clock_);
  EXPECT_TRUE(memory_.Holds(8, fresh));
}

// The same of a chunk that becomes known between the event and the drop.
TEST_F(IsolatorTest, PagesAboutToBeDroppedInAChunkNotYetKnownAreNotTaken) {
  AddressRange both = memory_.pages(0, 2 * kPagesPerChunk);
  ASSERT_TRUE(isolator_.Register(memory_.pages(kPagesPerChunk, kPagesPerChunk), both));
  ASSERT_EQ(process_->table.Find(chunk()), nullptr);
  PageRestorer restorer(*process_);
  DiskReads disk(*process_, restorer, clock_);
  LayoutEvents events(*process_, restorer, disk);
  events.OnRemove(memory_.pages(8, 8), clock_.now_ns());
  ASSERT_TRUE(isolator_.Register(memory_.pages(0, kPagesPerChunk), both));
  wire::PageSet moved = Isolate(Pages(0, kPages));
  EXPECT_EQ(moved.And(Pages(8, 8)).count(), 0u) << "they hold what the program has given up";
  EXPECT_EQ(moved.count(), kPages - 8);
  faults_.emplace(process_, clock_);
  ExpectPagesHeld(0, kPages);
}

// MADV_FREE drops nothing while there is memory enough, and what is written again stays.
TEST_F(IsolatorTest, PagesThatDidNotGoAreTakenLater) {
  ASSERT_TRUE(isolator_.Register(memory_.pages(0, kPages), memory_.pages(0, kPages)));
  PageRestorer restorer(*process_);
  DiskReads disk(*process_, restorer, clock_);
  LayoutEvents events(*process_, restorer, disk);
  events.OnRemove(memory_.pages(0, kPages), clock_.now_ns());
  EXPECT_TRUE(Isolate(Pages(0, kPages)).empty());
  clock_.Advance(RecentRemovals::kHorizonNs + 1);
  EXPECT_EQ(Isolate(Pages(0, kPages)).count(), kPages);
  faults_.emplace(process_, clock_);
  ExpectPagesHeld(0, kPages);
}

TEST_F(IsolatorTest, AForkKeepsStagedPagesForBoth) {
  ASSERT_TRUE(isolator_.Register(memory_.pages(0, kPages), memory_.pages(0, kPages)));
  ASSERT_EQ(Isolate(Pages(0, kPages)).count(), kPages);
  faults_.emplace(process_, clock_);
  pid_t child = ForkChild([&] {
    for (size_t page = 0; page < kPages; ++page) {
      if (!memory_.Holds(page, CompressiblePage(page))) return 1;
    }
    return 0;
  });
  EXPECT_EQ(Await(child), 0);
  ExpectPagesHeld(0, kPages);
  faults_->children();
  faults_->Settle();
  faults_->children()[0]->Settle();
  EXPECT_EQ(store_.objects(), 0u);
  EXPECT_EQ(process_->counters.staged_pages, 0u);
}

TEST_F(IsolatorTest, AMovedMappingTakesItsStagedPagesAlong) {
  ASSERT_TRUE(isolator_.Register(memory_.pages(0, kPages), memory_.pages(0, kPages)));
  ASSERT_EQ(Isolate(Pages(0, kPages)).count(), kPages);
  Mapping elsewhere(1);
  faults_.emplace(process_, clock_);
  memory_.Forget(0, kPages);
  ASSERT_EQ(mremap(memory_.data(0), kPages * kPageBytes, kPages * kPageBytes,
                   MREMAP_MAYMOVE | MREMAP_FIXED, elsewhere.data(7)),
            elsewhere.data(7));
  for (size_t page = 0; page < kPages; ++page) {
    EXPECT_TRUE(elsewhere.Holds(7 + page, CompressiblePage(page))) << page;
  }
  faults_->Settle();
  EXPECT_EQ(process_->counters.staged_pages, 0u);
  EXPECT_EQ(store_.objects(), 0u);
}

TEST_F(IsolatorTest, NothingIsTakenOutOfAProgramThatIsGone) {
  ASSERT_TRUE(isolator_.Register(memory_.pages(0, kPages), memory_.pages(0, kPages)));
  process_->gone = true;
  EXPECT_TRUE(absl::IsUnavailable(TryIsolate(Pages(0, 1)).status()));
  EXPECT_FALSE(isolator_.Register(memory_.pages(64, 64), memory_.pages(64, 64)));
  EXPECT_EQ(agent_.move_commands, 0u);
}

}  // namespace
}  // namespace zmem
