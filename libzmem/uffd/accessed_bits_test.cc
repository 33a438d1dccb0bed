#include "libzmem/uffd/accessed_bits.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <vector>

#include "libzmem/testing/memory.h"

namespace zmem {
namespace {

// Pages that the kernel has not put onto its lists yet keep their bits: PAGEVEC_SIZE for each CPU
// that the test has been on.
constexpr size_t kMostKept = 4 * 31;

class AccessedBitsTest : public testing::Test {
 protected:
  AccessedBitsTest() {
    absl::StatusOr<std::unique_ptr<AccessedBits>> opened = OpenAccessedBits();
    EXPECT_TRUE(opened.ok()) << opened.status();
    bits_ = *std::move(opened);
  }

  static UniqueFd PidfdOf(pid_t pid) {
    return UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  }
  std::vector<uint64_t> Numbers() const {
    std::vector<uint64_t> numbers;
    for (size_t chunk = 0; chunk < kChunks; ++chunk) {
      numbers.push_back(ChunkNumber(memory_.range().start) + chunk);
    }
    return numbers;
  }
  // The pages of `memory_` that were accessed.
  std::vector<size_t> Accessed(pid_t pid = getpid()) {
    std::vector<uint64_t> numbers = Numbers();
    std::vector<wire::PageSet> sets(numbers.size());
    EXPECT_TRUE(bits_->Read(pid, numbers, sets));
    std::vector<size_t> pages;
    for (size_t page = 0; page < memory_.page_count(); ++page) {
      if (sets[page / kPagesPerChunk].Has(page % kPagesPerChunk)) pages.push_back(page);
    }
    return pages;
  }
  void Clear(AddressRange range) { bits_->Clear(PidfdOf(getpid()).get(), std::span(&range, 1)); }
  void Touch(size_t page) { *memory_.data(page) = std::byte{1}; }
  void Read(size_t page) { (void)*static_cast<volatile std::byte*>(memory_.data(page)); }

  static constexpr size_t kChunks = 70;  // more than one walk takes
  Mapping memory_{kChunks};
  std::unique_ptr<AccessedBits> bits_;
};

TEST_F(AccessedBitsTest, FindsWhatWasTouchedInManyChunks) {
  std::vector<size_t> touched;
  for (size_t page = 3; page < memory_.page_count(); page += 97) {
    Touch(page);
    touched.push_back(page);
  }
  EXPECT_EQ(Accessed(), touched);
}

TEST_F(AccessedBitsTest, SeesReadsAfterClearing) {
  for (size_t page = 0; page < 2 * kPagesPerChunk; ++page) Touch(page);
  Clear(memory_.pages(0, 2 * kPagesPerChunk));
  std::vector<size_t> kept = Accessed();
  EXPECT_LE(kept.size(), kMostKept);
  size_t page = 100;
  while (std::binary_search(kept.begin(), kept.end(), page)) ++page;
  Read(page);
  kept.insert(std::upper_bound(kept.begin(), kept.end(), page), page);
  EXPECT_EQ(Accessed(), kept);
}

TEST_F(AccessedBitsTest, ClearsTheRangeAlone) {
  for (size_t page = 0; page < kPagesPerChunk; ++page) Touch(page);
  Clear(memory_.pages(0, 64));
  std::vector<size_t> accessed = Accessed();
  EXPECT_LT(accessed.size(), kPagesPerChunk);
  for (size_t page = 64; page < kPagesPerChunk; ++page) {
    EXPECT_TRUE(std::binary_search(accessed.begin(), accessed.end(), page)) << page;
  }
}

TEST_F(AccessedBitsTest, ClearsWhatLiesBehindLockedMemory) {
  constexpr size_t kLocked = 100;
  constexpr size_t kPages = 4 * kPagesPerChunk;
  for (size_t page = 0; page < kPages; ++page) Touch(page);
  // Not by mlock, which the sanitizers leave out.
  ASSERT_EQ(syscall(SYS_mlock, memory_.data(0), kLocked * kPageBytes), 0);
  Clear(memory_.pages(0, kPages));
  std::vector<size_t> accessed = Accessed();
  auto behind = std::lower_bound(accessed.begin(), accessed.end(), 2 * kLocked);
  EXPECT_LE(static_cast<size_t>(accessed.end() - behind), kMostKept);
}

TEST_F(AccessedBitsTest, HugePagesAreAccessedAsAWhole) {
  ASSERT_EQ(madvise(memory_.data(0), kChunkBytes, MADV_HUGEPAGE), 0);
  Touch(7);
  std::vector<size_t> accessed = Accessed();
  if (accessed.size() == 1) GTEST_SKIP() << "no huge page to be had";
  EXPECT_EQ(accessed.size(), kPagesPerChunk);
  for (int tries = 0; tries < 100 && !Accessed().empty(); ++tries) {
    Clear(memory_.pages(0, kPagesPerChunk));
    Mapping{1}.Write(0, {});  // gathered pages get onto their lists as others come
  }
  EXPECT_TRUE(Accessed().empty());
  Read(8);
  EXPECT_EQ(Accessed().size(), kPagesPerChunk);
}

TEST_F(AccessedBitsTest, ReadsOtherProcesses) {
  for (size_t page = 0; page < kPagesPerChunk; ++page) Touch(page);
  Clear(memory_.pages(0, kPagesPerChunk));
  pid_t child = ForkChild([this] {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    Touch(5);
    Touch(900);
    pause();
    return 0;
  });
  auto has_touched = [this, child] {
    std::vector<size_t> accessed = Accessed(child);
    return std::binary_search(accessed.begin(), accessed.end(), 900);
  };
  while (!has_touched()) usleep(1000);
  std::vector<size_t> ours = Accessed();
  EXPECT_FALSE(std::binary_search(ours.begin(), ours.end(), 900));
  kill(child, SIGKILL);
  Await(child);
}

TEST_F(AccessedBitsTest, AProcessThatIsGoneCannotBeRead) {
  pid_t child = ForkChild([] { return 0; });
  Await(child);
  std::vector<uint64_t> numbers = Numbers();
  std::vector<wire::PageSet> sets(numbers.size());
  EXPECT_FALSE(bits_->Read(child, numbers, sets));
}

}  // namespace
}  // namespace zmem
