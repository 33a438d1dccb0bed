#include "libzmem/estimate/saving.h"

#include <gtest/gtest.h>

#include <cmath>

namespace zmem {
namespace {

GradedPage Compressed(double held_bytes) {
  GradedPage page;
  page.by_codec[0] = {.goes_out = true, .held_bytes = held_bytes};
  return page;
}
GradedPage SameFilled() {
  GradedPage page = Compressed(0);
  page.same_filled = true;
  return page;
}
GradedPage Incompressible() { return {}; }

// A mapping of `pages` with `copies` of each of `kinds` in the sample.
SampledMapping MappingOf(uint64_t pages, size_t copies, const std::vector<GradedPage>& kinds) {
  SampledMapping mapping{.pages = pages};
  for (size_t i = 0; i < copies; ++i) {
    mapping.sample.insert(mapping.sample.end(), kinds.begin(), kinds.end());
  }
  return mapping;
}
PageSample SampleOf(std::vector<SampledMapping> mappings) {
  PageSample sample;
  sample.mappings = std::move(mappings);
  for (const SampledMapping& mapping : sample.mappings) sample.pages += mapping.pages;
  return sample;
}

TEST(Saving, AMappingsColdPagesCompressAsItsOwnSampleDoes) {
  PageSample sample = SampleOf(
      {MappingOf(10'000, 100, {Compressed(1024)}), MappingOf(10'000, 100, {Incompressible()})});
  // All that is cold is incompressible: half of the sample compresses, and nothing is gained.
  Saving saving = SavingOfPages(sample, {0, 10'000, 0}, 0);
  EXPECT_EQ(saving.out_bytes, 0);
  EXPECT_EQ(saving.freed_bytes.value, 0);
  saving = SavingOfPages(sample, {1000, 10'000, 0}, 0);
  EXPECT_EQ(saving.out_bytes, 1000 * 4096);
  EXPECT_EQ(saving.pool_bytes, 1000 * 1024);
  EXPECT_EQ(saving.freed_bytes.value, 1000 * 3072);
}

TEST(Saving, SmallMappingsAndNewOnesCompressAsTheOthersDo) {
  // One sampled page of the second says nothing of its 300.
  PageSample sample = SampleOf({MappingOf(10'000, 100, {Compressed(1024), Incompressible()}),
                                MappingOf(300, 1, {Incompressible()})});
  double like_all = 100.0 / 201;
  EXPECT_NEAR(SavingOfPages(sample, {0, 300, 0}, 0).out_bytes, 300 * 4096 * like_all, 1);
  EXPECT_NEAR(SavingOfPages(sample, {0, 0, 50}, 0).out_bytes, 50 * 4096 * like_all, 1);
  // Unless there are enough of them to speak for themselves.
  std::vector<SampledMapping> small(40, MappingOf(300, 1, {Incompressible()}));
  small.push_back(MappingOf(10'000, 100, {Compressed(1024)}));
  std::vector<double> cold(42, 0);
  cold[0] = 300;
  EXPECT_EQ(SavingOfPages(SampleOf(small), cold, 0).out_bytes, 0);
}

TEST(Saving, TheErrorShrinksWithTheSampleAndIsNoneIfEveryPageWasLookedAt) {
  std::vector<GradedPage> kinds = {Compressed(1024), Incompressible()};
  auto error = [&](uint64_t pages, size_t copies) {
    return SavingOfPages(SampleOf({MappingOf(pages, copies, kinds)}), {1000, 0}, 0)
        .freed_bytes.error;
  };
  // 1000 pages, each 1536 bytes off the mean, of 200 sampled out of very many.
  EXPECT_NEAR(error(1 << 30, 100), 1000 * 1.96 * 1536 / std::sqrt(199), 1);
  EXPECT_NEAR(error(1 << 30, 100) / error(1 << 30, 400), 2, 0.01);
  EXPECT_EQ(error(200, 100), 0);
}

TEST(Saving, ACodecsRatioIsOfThePagesThatItCompresses) {
  PageSample sample = SampleOf({MappingOf(
      1 << 20, 100, {Compressed(1024), Compressed(2048), SameFilled(), Incompressible()})});
  CodecResult result = ResultOfCodec(sample, 0);
  EXPECT_DOUBLE_EQ(result.ratio.value, 8192.0 / 3072);
  // Each is off the ratio by a third of a page, as is the sum of their squares over 200 pages.
  EXPECT_NEAR(result.ratio.error, 1.96 * std::sqrt(200) * (4096.0 / 3) / (100 * 3072), 0.001);
  EXPECT_DOUBLE_EQ(result.incompressible_share.value, 0.25);
  EXPECT_NEAR(result.incompressible_share.error, 1.96 * std::sqrt(0.25 * 0.75 / 400), 1e-4);
  EXPECT_DOUBLE_EQ(SameFilledShare(sample).value, 0.25);
}

TEST(Saving, NothingSampledIsNothingSaved) {
  PageSample sample = SampleOf({MappingOf(0, 0, {})});
  EXPECT_EQ(SavingOfPages(sample, {5, 5}, 0).out_bytes, 0);
  EXPECT_EQ(ResultOfCodec(sample, 0).ratio.value, 0);
  EXPECT_EQ(ResultOfCodec(SampleOf({MappingOf(9, 1, {SameFilled()})}), 0).ratio.value, 0);
}

}  // namespace
}  // namespace zmem
