#include "libzmem/uffd/pagemap.h"

#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <memory>
#include <random>
#include <vector>

#include "libzmem/testing/memory.h"

namespace zmem {
namespace {

class PagemapTest : public testing::Test {
 protected:
  PagemapTest() {
    absl::StatusOr<Pagemap> opened = Pagemap::Open(getpid());
    EXPECT_TRUE(opened.ok()) << opened.status();
    pagemap_ = *std::move(opened);
  }
  // The pages of `range` found present, by page of memory_.
  std::vector<size_t> Present(AddressRange range) {
    std::vector<wire::PageSet> sets(kChunks);
    EXPECT_EQ(pagemap_.ScanPresent(range, ChunkNumber(memory_.range().start), sets), 0);
    std::vector<size_t> pages;
    for (size_t page = 0; page < memory_.page_count(); ++page) {
      if (sets[page / kPagesPerChunk].Has(page % kPagesPerChunk)) pages.push_back(page);
    }
    return pages;
  }
  void Touch(size_t page) { *memory_.data(page) = std::byte{1}; }

  static constexpr size_t kChunks = 3;
  Mapping memory_{kChunks};
  Pagemap pagemap_;
};

TEST_F(PagemapTest, FindsWhatWasWrittenAndNothingElse) {
  for (size_t page : {0u, 1u, 510u, 511u, 512u, 700u, 1023u, 1024u, 1535u}) Touch(page);
  EXPECT_EQ(Present(memory_.range()),
            (std::vector<size_t>{0, 1, 510, 511, 512, 700, 1023, 1024, 1535}));
}

TEST_F(PagemapTest, KeepsToTheRangeAcrossChunkBorders) {
  for (size_t page = 500; page < 530; ++page) Touch(page);
  EXPECT_EQ(Present(memory_.pages(510, 4)), (std::vector<size_t>{510, 511, 512, 513}));
  EXPECT_TRUE(Present(memory_.pages(530, 100)).empty());
}

TEST_F(PagemapTest, FindsMoreRegionsThanOneCallReturns) {
  std::vector<size_t> touched;
  for (size_t page = 0; page < memory_.page_count(); page += 2) {
    Touch(page);
    touched.push_back(page);
  }
  EXPECT_EQ(Present(memory_.range()), touched);
}

TEST_F(PagemapTest, TheZeroPageIsNotThere) {
  volatile std::byte read = *memory_.data(3);
  (void)read;
  Touch(4);
  EXPECT_EQ(Present(memory_.range()), std::vector<size_t>{4});
}

TEST_F(PagemapTest, SetsAreAddedTo) {
  Touch(7);
  std::vector<wire::PageSet> sets(1);
  sets[0].Add(100);
  ASSERT_EQ(pagemap_.ScanPresent(memory_.pages(0, 512), ChunkNumber(memory_.address(0)), sets), 0);
  EXPECT_TRUE(sets[0].Has(7));
  EXPECT_TRUE(sets[0].Has(100));
}

TEST_F(PagemapTest, PagesOfAFileAreNotCountedUntilTheyAreThePrograms) {
  int fd = memfd_create("zmem-test", MFD_CLOEXEC);
  ASSERT_GE(fd, 0);
  UniqueFd file(fd);
  ASSERT_EQ(ftruncate(fd, 4 * kPageBytes), 0);
  ASSERT_EQ(
      mmap(memory_.data(8), 4 * kPageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fd, 0),
      memory_.data(8));
  volatile std::byte read = *memory_.data(8);
  (void)read;
  Touch(9);
  EXPECT_EQ(Present(memory_.range()), std::vector<size_t>{9});
}

TEST_F(PagemapTest, FindsAbsentPages) {
  Touch(1);
  volatile std::byte read = *memory_.data(2);  // the zero page: something is there
  (void)read;
  std::unique_ptr<bool[]> absent(new bool[4]);
  ASSERT_EQ(pagemap_.FindAbsent(memory_.address(0), std::span(absent.get(), 4)), 0);
  EXPECT_TRUE(absent[0]);
  EXPECT_FALSE(absent[1]);
  EXPECT_FALSE(absent[2]);
  EXPECT_TRUE(absent[3]);
}

TEST_F(PagemapTest, AGuardIsNotAbsent) {
  constexpr int kGuardInstall = 102;  // MADV_GUARD_INSTALL, Linux 6.13
  if (madvise(memory_.data(1), kPageBytes, kGuardInstall) != 0) {
    GTEST_SKIP() << "this kernel has no MADV_GUARD_INSTALL";
  }
  std::array<bool, 3> absent;
  ASSERT_EQ(pagemap_.FindAbsent(memory_.address(0), absent), 0);
  EXPECT_EQ(absent, (std::array<bool, 3>{true, false, true}));
}

TEST_F(PagemapTest, AWholeChunkCanBeAskedFor) {
  Touch(511);
  std::array<bool, kPagesPerChunk> absent;
  ASSERT_EQ(pagemap_.FindAbsent(memory_.address(0), absent), 0);
  EXPECT_TRUE(absent[510]);
  EXPECT_FALSE(absent[511]);
}

TEST_F(PagemapTest, APageIsExclusiveAsLongAsNoRelativeHasItToo) {
  Touch(0);
  Touch(1);
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  UniqueFd theirs(ends[0]);
  UniqueFd ours(ends[1]);
  pid_t child = ForkChild([&] {
    ours.reset();
    char byte;
    return static_cast<int>(read(theirs.get(), &byte, 1));
  });
  Touch(1);  // its own again
  std::array<bool, 3> exclusive;
  ASSERT_EQ(pagemap_.FindExclusive(memory_.address(0), exclusive), 0);
  EXPECT_EQ(exclusive, (std::array<bool, 3>{false, true, false}));
  ours.reset();
  EXPECT_EQ(Await(child), 0);
  ASSERT_EQ(pagemap_.FindExclusive(memory_.address(0), exclusive), 0);
  EXPECT_EQ(exclusive, (std::array<bool, 3>{true, true, false}));
}

TEST_F(PagemapTest, AnAddressSpaceThatIsGoneHasNoPages) {
  Touch(0);
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  UniqueFd theirs(ends[0]);
  UniqueFd ours(ends[1]);
  pid_t child = ForkChild([&] {
    ours.reset();
    char byte;
    return static_cast<int>(read(theirs.get(), &byte, 1));
  });
  absl::StatusOr<Pagemap> pagemap = Pagemap::Open(child);
  ASSERT_TRUE(pagemap.ok()) << pagemap.status();
  ours.reset();
  EXPECT_EQ(Await(child), 0);
  std::vector<wire::PageSet> sets(kChunks);
  EXPECT_EQ(pagemap->ScanPresent(memory_.range(), ChunkNumber(memory_.range().start), sets), 0);
  EXPECT_TRUE(sets[0].empty());
  std::array<bool, 1> absent;
  EXPECT_EQ(pagemap->FindAbsent(memory_.address(0), absent), -ESRCH);
}

TEST(Pagemap, OfNoProcessCannotBeOpened) { EXPECT_FALSE(Pagemap::Open(1 << 30).ok()); }

class NoScan : public sys::FailureInjector {
 public:
  int ErrnoFor(sys::Call call, uint64_t) override { return call == sys::Call::kIoctl ? ENOTTY : 0; }
};

TEST(Pagemap, SaysWhichKernelCanScan) {
  NoScan fail;
  sys::SetFailureInjector(&fail);
  absl::Status status = Pagemap::Open(getpid()).status();
  sys::SetFailureInjector(nullptr);
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
}

}  // namespace
}  // namespace zmem
