#include "libzmem/estimate/page_sample.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include "libzmem/pool/size_class.h"
#include "libzmem/testing/memory.h"
#include "libzmem/testing/stored_pages.h"

namespace zmem {
namespace {

TEST(PageGrader, ThePagesOfEachKind) {
  std::unique_ptr<PageGrader> grader = OrDie(PageGrader::Create(90));
  GradedPage zeros = grader->Grade(FilledPage(0).bytes);
  EXPECT_TRUE(zeros.same_filled);
  EXPECT_TRUE(zeros.by_codec[0].goes_out);
  EXPECT_EQ(zeros.by_codec[0].held_bytes, 0);
  GradedPage word = grader->Grade(FilledPage(0x3ff1234567890abc).bytes);  // fits no entry
  EXPECT_TRUE(word.same_filled);
  EXPECT_EQ(word.by_codec[0].held_bytes, 16);
  GradedPage random = grader->Grade(IncompressiblePage(1).bytes);
  EXPECT_FALSE(random.same_filled);
  EXPECT_FALSE(random.by_codec[0].goes_out);
}

TEST(PageGrader, TheRoomIsWhatAFullSpanHoldsOfTheObjectThatTheCodecMakes) {
  std::unique_ptr<PageGrader> grader = OrDie(PageGrader::Create(90));
  PageBytes page = CompressiblePage(7);
  GradedPage graded = grader->Grade(page.bytes);
  for (size_t i = 0; i < CodecNames().size(); ++i) {
    const Compressor* codec = FindCompressor(CodecNames()[i]);
    std::unique_ptr<Scratch> scratch = codec->MakeScratch();
    std::array<std::byte, kPageBytes> out;
    size_t bytes = codec->Compress(page.bytes, out, *scratch).value();
    const SizeClass& size_class = kSizeClassTable.classes[SizeClassOf(bytes)];
    EXPECT_TRUE(graded.by_codec[i].goes_out);
    EXPECT_GE(graded.by_codec[i].held_bytes, static_cast<double>(bytes));
    EXPECT_DOUBLE_EQ(graded.by_codec[i].held_bytes * size_class.objects_per_span,
                     static_cast<double>(size_class.span_pages * kPageBytes));
  }
}

TEST(PageGrader, AFatPageStaysAsTheThresholdSays) {
  PageBytes page = CompressiblePage(7);  // to about a third
  EXPECT_FALSE(OrDie(PageGrader::Create(20))->Grade(page.bytes).by_codec[0].goes_out);
  EXPECT_TRUE(OrDie(PageGrader::Create(50))->Grade(page.bytes).by_codec[0].goes_out);
}

class SamplePagesTest : public testing::Test {
 protected:
  // This process's mapping that holds `mapping`, as a sample of `want` pages sees it.
  SampledMapping SampleOf(const Mapping& mapping, uint64_t want) {
    sample_ = OrDie(SamplePages(program_, OrDie(program_.ReadSmaps()), want, TestSeed(), *grader_));
    for (const SampledMapping& sampled : sample_.mappings) {
      if (sampled.range.Contains(mapping.range().start)) return sampled;
    }
    return {};
  }
  // A mapping that the kernel joins to no neighbour, since its flags differ.
  static std::unique_ptr<Mapping> LoneMapping(size_t chunks) {
    auto mapping = std::make_unique<Mapping>(chunks);
    void* start = reinterpret_cast<void*>(mapping->range().start);
    EXPECT_EQ(madvise(start, mapping->range().bytes(), MADV_NOHUGEPAGE), 0);
    EXPECT_EQ(madvise(start, mapping->range().bytes(), MADV_DONTDUMP), 0);
    return mapping;
  }

  ObservedProgram program_ = OrDie(ObservedProgram::Open(getpid()));
  std::unique_ptr<PageGrader> grader_ = OrDie(PageGrader::Create(90));
  PageSample sample_;
};

TEST_F(SamplePagesTest, CountsPagesThatArePresentAndGradesThemAllIfThereIsRoom) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer's own memory lies beside what is measured, in this process";
#endif
  std::unique_ptr<Mapping> mapping = LoneMapping(3);
  for (size_t page = 100; page < 1200; ++page) {
    mapping->Write(page, page % 4 == 0 ? IncompressiblePage(page) : CompressiblePage(page));
  }
  SampledMapping sampled = SampleOf(*mapping, 1 << 20);
  EXPECT_EQ(sampled.range, mapping->range());
  EXPECT_EQ(sampled.pages, 1100u);
  ASSERT_EQ(sampled.sample.size(), 1100u);
  size_t incompressible = 0;
  for (const GradedPage& page : sampled.sample) incompressible += page.by_codec[0].goes_out ? 0 : 1;
  EXPECT_EQ(incompressible, 275u);
  EXPECT_EQ(sampled.eligible_share, 1);
  EXPECT_GE(sample_.chunks, 3u);
}

TEST_F(SamplePagesTest, EachPartOfTheMemoryGetsAsManyAsItHasPages) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer's own memory lies beside what is measured, in this process";
#endif
  std::unique_ptr<Mapping> small = LoneMapping(1);
  std::unique_ptr<Mapping> large = LoneMapping(8);
  for (size_t page = 0; page < small->page_count(); ++page) small->Write(page, FilledPage(1));
  // A quarter at the end is random: where the pages lie in the mapping counts too.
  size_t random_from = large->page_count() * 3 / 4;
  for (size_t page = 0; page < large->page_count(); ++page) {
    large->Write(page, page < random_from ? FilledPage(2) : IncompressiblePage(page));
  }
  SampledMapping sampled = SampleOf(*large, 1000);
  double per_page = 1000.0 / static_cast<double>(sample_.pages);
  EXPECT_NEAR(static_cast<double>(sampled.sample.size()), 4096 * per_page, 10);
  size_t same_filled = 0;
  for (const GradedPage& page : sampled.sample) same_filled += page.same_filled ? 1 : 0;
  EXPECT_NEAR(static_cast<double>(same_filled), 3072 * per_page, 10);
}

TEST_F(SamplePagesTest, LockedMemoryIsNotLookedAt) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer's own memory lies beside what is measured, in this process";
#endif
  std::unique_ptr<Mapping> mapping = LoneMapping(1);
  mapping->Write(0, CompressiblePage(0));
  EXPECT_EQ(SampleOf(*mapping, 1 << 20).pages, 1u);
  ASSERT_EQ(mlock(mapping->data(0), kPageBytes), 0);
  EXPECT_EQ(SampleOf(*mapping, 1 << 20).pages, 0u);
}

}  // namespace
}  // namespace zmem
