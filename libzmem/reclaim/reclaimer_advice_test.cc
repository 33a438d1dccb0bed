// What a program advises of its memory, as far as the reclaimer follows it.
#include <sys/mman.h>

#include <chrono>

#include "libzmem/reclaim/reclaimer_fixture.h"

namespace zmem {
namespace {

using wire::QueryKind;

class ReclaimerAdviceTest : public ReclaimerTest {
 protected:
  void Advise(QueryKind kind, size_t first, size_t count) {
    ASSERT_EQ(process_->advice.Take(kind, memory_->pages(first, count)), 0);
    faults_->handler().Wake();
    Tick();
  }
  size_t Stored(size_t first, size_t count) {
    size_t stored = 0;
    for (size_t page = first; page < first + count; ++page) stored += entry(page).stored();
    return stored;
  }
};

TEST_F(ReclaimerAdviceTest, ColdMemoryGoesOutAtOnceAndNothingElse) {
  WriteVaried(0, memory_->page_count());
  Advise(QueryKind::kCold, 100, kPagesPerChunk);
  EXPECT_EQ(Stored(100, kPagesPerChunk), kPagesPerChunk);
  EXPECT_EQ(process_->counters.stored_pages, kPagesPerChunk);
  ExpectAllHeld();
  ExpectNothingOut();
}

TEST_F(ReclaimerAdviceTest, KeptMemoryIsNeverTaken) {
  WriteVaried(0, memory_->page_count());
  Advise(QueryKind::kKeep, 10, kPagesPerChunk);
  Advise(QueryKind::kCold, 200, 10);
  EXPECT_EQ(process_->counters.stored_pages, 0u);
  EXPECT_EQ(EvictAll().evicted_pages, memory_->page_count() - kPagesPerChunk);
  EXPECT_EQ(Stored(10, kPagesPerChunk), 0u);
  Advise(QueryKind::kNormal, 10, 100);
  EXPECT_EQ(EvictAll().evicted_pages, 100u);
  ExpectAllHeld();
}

// The isolator looks for itself: a survey may be older than the advice.
TEST_F(ReclaimerAdviceTest, WhatIsKeptWhileMemoryIsTakenComesBackAndTheRestStays) {
  WriteVaried(0, 2 * kPagesPerChunk);
  agent_.before_move = [this] {
    EXPECT_EQ(process_->advice.Take(QueryKind::kKeep, memory_->pages(0, 2 * kPagesPerChunk)), 0);
    faults_->handler().Wake();
  };
  EvictAll();
  agent_.before_move = nullptr;
  EXPECT_EQ(process_->counters.isolated_pages, kPagesPerChunk) << "of the first chunk";
  auto until = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (process_->advice.has_wanted() || Stored(0, kPagesPerChunk) > 0) {
    ASSERT_LT(std::chrono::steady_clock::now(), until);
    faults_->Settle();
  }
  EXPECT_EQ(EvictAll().evicted_pages, 0u);
  EXPECT_EQ(process_->counters.faults_total, 0u);
  ExpectAllHeld();
}

// Nothing of it was ever out, so that without the advice no event would tell of its end.
TEST_F(ReclaimerAdviceTest, ANewMappingInThePlaceOfAKeptOneIsNotKept) {
  WriteVaried(0, memory_->page_count());
  Advise(QueryKind::kKeep, 0, memory_->page_count());
  Pass(3 * kPolicy.scan_interval_ns);  // it stays registered
  void* place = memory_->data(0);
  ASSERT_EQ(mmap(place, memory_->range().bytes(), PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
            place);
  faults_->Settle();
  EXPECT_EQ(process_->advice.kept_bytes(), 0u);
  WriteVaried(0, memory_->page_count());
  EXPECT_EQ(EvictAll().evicted_pages, memory_->page_count());
  ExpectAllHeld();
}

TEST_F(ReclaimerAdviceTest, WhereNothingIsMappedNothingIsKept) {
  memory_->Unmap(8, 8);
  Advise(QueryKind::kKeep, 0, memory_->page_count() + 100);
  EXPECT_EQ(process_->advice.kept(),
            (std::vector<AddressRange>{memory_->pages(0, 8),
                                       memory_->pages(16, memory_->page_count() - 16)}));
}

TEST_F(ReclaimerAdviceTest, MemoryThatIsNotKeptAnyMoreIsTheKernelsAgain) {
  WriteVaried(0, kPagesPerChunk);
  Advise(QueryKind::kKeep, 0, kPagesPerChunk);
  Advise(QueryKind::kNormal, 0, kPagesPerChunk);
  EXPECT_GT(process_->table.size(), 0u);
  Pass(2 * kPolicy.scan_interval_ns);
  EXPECT_EQ(process_->table.size(), 0u);
}

}  // namespace
}  // namespace zmem
