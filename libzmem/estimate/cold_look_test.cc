#include "libzmem/estimate/cold_look.h"

#include <gtest/gtest.h>

#include "libzmem/estimate/smaps.h"

namespace zmem {
namespace {

constexpr uint64_t kMib = uint64_t{1} << 20;

// As the kernel writes it: the program's code, two mappings that may be managed, a locked one.
constexpr char kSmaps[] =
    "55d0c8000000-55d0c8100000 r-xp 00000000 fe:01 12 /usr/bin/program\n"
    "Size:               1024 kB\n"
    "Rss:                1024 kB\n"
    "Referenced:          512 kB\n"
    "AnonHugePages:         0 kB\n"
    "VmFlags: rd ex mr mw me\n"
    "7f0000000000-7f0000800000 rw-p 00000000 00:00 0 \n"
    "Size:               8192 kB\n"
    "Rss:                8192 kB\n"
    "Pss:                8192 kB\n"
    "Referenced:         1024 kB\n"
    "Anonymous:          8192 kB\n"
    "AnonHugePages:      4096 kB\n"
    "VmFlags: rd wr mr mw me ac\n"
    "7f0001000000-7f0001400000 rw-p 00000000 00:00 0 \n"
    "Rss:                2048 kB\n"
    "Referenced:         2048 kB\n"
    "AnonHugePages:         0 kB\n"
    "VmFlags: rd wr mr mw me ac\n"
    "7f0002000000-7f0002400000 rw-p 00000000 00:00 0 \n"
    "Rss:                4096 kB\n"
    "Referenced:            0 kB\n"
    "AnonHugePages:         0 kB\n"
    "VmFlags: rd wr mr mw me lo ac\n";

PageSample SampleOf(std::vector<AddressRange> mappings) {
  PageSample sample;
  for (AddressRange range : mappings) sample.mappings.push_back({.range = range});
  return sample;
}

TEST(Smaps, EachMappingHasItsFigures) {
  std::vector<MappingUse> uses = ParseMappingUse(kSmaps);
  ASSERT_EQ(uses.size(), 4u);
  EXPECT_EQ(uses[1].range, (AddressRange{0x7f0000000000, 0x7f0000800000}));
  EXPECT_EQ(uses[1].resident_bytes, 8 * kMib);
  EXPECT_EQ(uses[1].referenced_bytes, kMib);
  EXPECT_EQ(uses[1].huge_bytes, 4 * kMib);
  EXPECT_EQ(uses[3].referenced_bytes, 0u);
  EXPECT_TRUE(ParseMappingUse("").empty());
  EXPECT_TRUE(ParseMappingUse("Rss: 12 kB\nnonsense\nabc-xyz rw-p\n").empty());
}

TEST(ColdLook, OnlyWhatMayBeManagedIsEligibleAndWhatWasNotTouchedIsCold) {
  PageSample sample =
      SampleOf({{0x7f0000000000, 0x7f0000800000}, {0x7f0001000000, 0x7f0001400000}});
  ColdLook look = LookForCold(kSmaps, sample);
  EXPECT_EQ(look.resident_bytes, 15 * kMib);
  EXPECT_EQ(look.eligible_bytes, 10 * kMib);
  EXPECT_EQ(look.huge_bytes, 4 * kMib);
  EXPECT_EQ(look.cold_pages, (std::vector<double>{7 * 256, 0, 0}));
  EXPECT_EQ(look.all_cold_pages(), 7 * 256);
}

TEST(ColdLook, AMappingThatGrewIsItsOldOneAndANewOneIsNobodys) {
  // The first was half as large when the sample was taken; the second was not there.
  ColdLook look = LookForCold(kSmaps, SampleOf({{0x7f0000000000, 0x7f0000400000}}));
  EXPECT_EQ(look.cold_pages, (std::vector<double>{7 * 256, 0}));
  look = LookForCold(kSmaps, SampleOf({{0x7f0001000000, 0x7f0001400000}}));
  EXPECT_EQ(look.cold_pages, (std::vector<double>{0, 7 * 256}));
}

TEST(ColdLook, AMappingOfWhichAPartIsEligibleCountsByThatPart) {
  PageSample sample =
      SampleOf({{0x7f0000000000, 0x7f0000800000}, {0x7f0001000000, 0x7f0001400000}});
  sample.mappings[0].eligible_share = 0.25;
  ColdLook look = LookForCold(kSmaps, sample);
  EXPECT_EQ(look.eligible_bytes, 4 * kMib);
  EXPECT_EQ(look.cold_pages[0], 7 * 64);
}

}  // namespace
}  // namespace zmem
