#include "libzmem/base/quantity.h"

#include <gtest/gtest.h>

#include <limits>

namespace zmem {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;

void ExpectError(const absl::Status& status, absl::string_view quoted) {
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_NE(status.message().find(quoted), absl::string_view::npos) << status;
  EXPECT_EQ(status.message().find('\n'), absl::string_view::npos) << status;
}

TEST(ParseBytes, UnderstandsEveryUnitInEitherCase) {
  EXPECT_EQ(*ParseBytes("0"), 0u);
  EXPECT_EQ(*ParseBytes("4096"), 4096u);
  EXPECT_EQ(*ParseBytes("4096B"), 4096u);
  EXPECT_EQ(*ParseBytes("512K"), 512u << 10);
  EXPECT_EQ(*ParseBytes("16M"), 16 * kMiB);
  EXPECT_EQ(*ParseBytes("16m"), 16 * kMiB);
  EXPECT_EQ(*ParseBytes("16MiB"), 16 * kMiB);
  EXPECT_EQ(*ParseBytes("16mb"), 16 * kMiB);
  EXPECT_EQ(*ParseBytes("2G"), 2048 * kMiB);
  EXPECT_EQ(*ParseBytes(" 3T "), 3 * 1024 * 1024 * kMiB);
}

TEST(ParseBytes, RefusesWhatIsNotASizeAndQuotesIt) {
  for (absl::string_view text : {"", " ", "-1", "+1", "-16M", "M", "16X", "16MM", "16 M", "1.5G",
                                 "0x10", "iB", "16iB", "16Mi", "20%", "1e3", "nan"}) {
    ExpectError(ParseBytes(text).status(), Quoted(text));
  }
  ExpectError(ParseBytes(absl::string_view("1\0M", 3)).status(), "\"1\\x00M\"");
}

TEST(ParseBytes, RefusesWhatDoesNotFit) {
  EXPECT_EQ(*ParseBytes("18446744073709551615"), std::numeric_limits<uint64_t>::max());
  EXPECT_EQ(*ParseBytes("16777215T"), uint64_t{16777215} << 40);
  for (absl::string_view text : {"18446744073709551616", "16777216T", "99999999999999999999T"}) {
    ExpectError(ParseBytes(text).status(), text);
  }
}

TEST(ParseBytesOrPercent, TakesAShareOfTheTotal) {
  EXPECT_EQ(*ParseBytesOrPercent("20%", 1000), 200u);
  EXPECT_EQ(*ParseBytesOrPercent("0%", 1000), 0u);
  EXPECT_EQ(*ParseBytesOrPercent("33%", 10), 3u);
  EXPECT_EQ(*ParseBytesOrPercent("100%", std::numeric_limits<uint64_t>::max()),
            std::numeric_limits<uint64_t>::max());
  EXPECT_EQ(*ParseBytesOrPercent("16M", 1), 16 * kMiB);
  for (absl::string_view text :
       {"101%", "-1%", "%", "5%%", "5 %", "1.5%", "18446744073709551617%"}) {
    ExpectError(ParseBytesOrPercent(text, 1000).status(), Quoted(text));
  }
}

TEST(ParseDuration, UnderstandsEveryUnit) {
  EXPECT_EQ(*ParseDurationNs("250ms"), 250'000'000);
  EXPECT_EQ(*ParseDurationNs("30s"), 30'000'000'000);
  EXPECT_EQ(*ParseDurationNs("5m"), 300'000'000'000);
  EXPECT_EQ(*ParseDurationNs("1h"), 3'600'000'000'000);
  EXPECT_EQ(*ParseDurationNs("0s"), 0);
  EXPECT_EQ(*ParseDurationNs("1H"), 3'600'000'000'000);
}

TEST(ParseDuration, RefusesWhatIsNotOne) {
  for (absl::string_view text : {"", "30", "s", "-1s", "1.5s", "30 s", "30sec", "1d", "30s30s",
                                 "2562048h", "18446744073709551615h", "9223372037s"}) {
    ExpectError(ParseDurationNs(text).status(), Quoted(text));
  }
}

TEST(ParseBool, KnowsFourWordsForEach) {
  for (absl::string_view text : {"yes", "true", "1", "on", "Yes", "TRUE"}) {
    EXPECT_TRUE(*ParseBool(text)) << text;
  }
  for (absl::string_view text : {"no", "false", "0", "off", "No", "OFF"}) {
    EXPECT_FALSE(*ParseBool(text)) << text;
  }
  for (absl::string_view text : {"", "y", "2", "yess", "enabled"}) {
    ExpectError(ParseBool(text).status(), Quoted(text));
  }
}

TEST(FormatBytes, NeverNeedsMoreThanFourDigits) {
  EXPECT_EQ(FormatBytes(0), "0 B");
  EXPECT_EQ(FormatBytes(1023), "1023 B");
  EXPECT_EQ(FormatBytes(1024), "1.00 KiB");
  EXPECT_EQ(FormatBytes(16 * kMiB), "16.00 MiB");
  EXPECT_EQ(FormatBytes(432'327'884), "412.3 MiB");
  EXPECT_EQ(FormatBytes(1023 * kMiB), "1023 MiB");
  EXPECT_EQ(FormatBytes(1024 * kMiB - 1), "1.00 GiB");
  EXPECT_EQ(FormatBytes(102'400 - 1), "100.0 KiB");
  EXPECT_EQ(FormatBytes(std::numeric_limits<uint64_t>::max()), "16.00 EiB");
  for (uint64_t bytes = 1; bytes < (uint64_t{1} << 50); bytes = bytes * 21 / 20 + 1) {
    EXPECT_LE(FormatBytes(bytes).size(), 9u) << bytes;
  }
}

TEST(FormatDuration, NeverNeedsMoreThanFourDigits) {
  EXPECT_EQ(FormatDuration(0), "0 ns");
  EXPECT_EQ(FormatDuration(310), "310 ns");
  EXPECT_EQ(FormatDuration(3310), "3.31 µs");
  EXPECT_EQ(FormatDuration(999'999), "1.00 ms");
  EXPECT_EQ(FormatDuration(12'500'000), "12.50 ms");
  EXPECT_EQ(FormatDuration(123'456'789), "123.5 ms");
  EXPECT_EQ(FormatDuration(30'000'000'000), "30.00 s");
  EXPECT_EQ(FormatDuration(3'600'000'000'000), "3600 s");
}

TEST(Quoted, StaysOnOneLineAndShort) {
  EXPECT_EQ(Quoted("a\nb\x1b\xff\""), "\"a\\nb\\x1b\\xff\\\"\"");
  EXPECT_EQ(Quoted(std::string(100, 'x')).size(), 64u + 5);
}

}  // namespace
}  // namespace zmem
