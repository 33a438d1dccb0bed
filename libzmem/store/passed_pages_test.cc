#include "libzmem/store/passed_pages.h"

#include <gtest/gtest.h>

namespace zmem {
namespace {

constexpr Address kFirst = uint64_t{1} << 40;

AddressRange Range(uint64_t number) {
  Address start = kFirst + number * 64 * kPageBytes;
  return {start, start + 64 * kPageBytes};
}

TEST(PassedPages, TheLastIsGivenOutFirstAndOnlyOnce) {
  PassedPages passed;
  EXPECT_FALSE(passed.Take(1));
  passed.Add(Range(0), 1);
  passed.Add(Range(1), 2);
  EXPECT_EQ(passed.Take(3), Range(1));
  EXPECT_EQ(passed.Take(3), Range(0));
  EXPECT_FALSE(passed.Take(3));
}

TEST(PassedPages, WhatWasPassedLongAgoIsNotGivenOut) {
  PassedPages passed;
  passed.Add(Range(0), 1);
  EXPECT_EQ(passed.Take(1 + PassedPages::kHorizonNs), Range(0));
  passed.Add(Range(1), 1);
  EXPECT_FALSE(passed.Take(2 + PassedPages::kHorizonNs));
}

TEST(PassedPages, OfTooManyTheOldestAreForgotten) {
  PassedPages passed;
  constexpr uint64_t kMany = 1000;
  for (uint64_t number = 0; number < kMany; ++number) passed.Add(Range(number), 1);
  uint64_t given = 0;
  while (auto range = passed.Take(1)) EXPECT_EQ(*range, Range(kMany - ++given));
  EXPECT_GE(given, 64u);
  EXPECT_LT(given, kMany);
}

}  // namespace
}  // namespace zmem
