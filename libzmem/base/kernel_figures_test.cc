#include "libzmem/base/kernel_figures.h"

#include <gtest/gtest.h>

namespace zmem {
namespace {

constexpr char kText[] =
    "Name:\tbash\n"
    "VmRSS:\t    1024 kB\n"
    "Pss_Anon:             12 kB\n"
    "Pss:                  34 kB\n"
    "Pss:                  56 kB\n"
    "Threads:\t3\n";

TEST(KernelFigures, AreFoundByTheirWholeName) {
  EXPECT_EQ(BytesFigure(kText, "VmRSS"), 1024u << 10);
  EXPECT_EQ(BytesFigure(kText, "Pss_Anon"), 12u << 10);
  EXPECT_EQ(PlainFigure(kText, "Threads"), 3u);
}

TEST(KernelFigures, TheFirstLineOfANameCounts) { EXPECT_EQ(BytesFigure(kText, "Pss"), 34u << 10); }

TEST(KernelFigures, AreFoundInOneLineAlone) {
  EXPECT_EQ(BytesFigure("MemAvailable:   24682172 kB", "MemAvailable"), 24682172ull << 10);
}

TEST(KernelFigures, WhatIsNotThereOrNotUnderstoodIsNoFigure) {
  for (const char* text : {"", "Rss:", "Rss: kB", "Rss: x kB", "Rss: -1 kB", "Rss: 12",
                           "XRss: 1 kB", "Rss 1 kB", "Rss: 1 kB more"}) {
    EXPECT_EQ(BytesFigure(text, "Rss"), std::nullopt) << text;
  }
  for (const char* text : {"", "Threads:", "Threads: x", "Threads: 1 kB"}) {
    EXPECT_EQ(PlainFigure(text, "Threads"), std::nullopt) << text;
  }
}

}  // namespace
}  // namespace zmem
