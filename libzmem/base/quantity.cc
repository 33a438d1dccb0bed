#include "libzmem/base/quantity.h"

#include <charconv>
#include <limits>
#include <optional>
#include <system_error>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/types/span.h"

namespace zmem {
namespace {

constexpr size_t kQuotedBytes = 64;

struct Unit {
  absl::string_view name;
  uint64_t factor;
};

constexpr Unit kByteUnits[] = {
    {"", 1},
    {"k", uint64_t{1} << 10},
    {"m", uint64_t{1} << 20},
    {"g", uint64_t{1} << 30},
    {"t", uint64_t{1} << 40},
};

constexpr Unit kTimeUnits[] = {
    {"ms", 1'000'000},
    {"s", 1'000'000'000},
    {"m", 60'000'000'000},
    {"h", 3'600'000'000'000},
};

// A whole number and what follows it at once.
struct Amount {
  uint64_t number = 0;
  absl::string_view unit;
};

// nullopt unless `text` starts with a digit and the number fits 64 bits.
std::optional<Amount> SplitAmount(absl::string_view text) {
  text = absl::StripAsciiWhitespace(text);
  Amount amount;
  const char* end = text.data() + text.size();
  auto [rest, error] = std::from_chars(text.data(), end, amount.number);
  if (error != std::errc()) return std::nullopt;
  amount.unit = absl::string_view(rest, static_cast<size_t>(end - rest));
  return amount;
}

const Unit* FindUnit(absl::Span<const Unit> units, absl::string_view name) {
  for (const Unit& unit : units) {
    if (absl::EqualsIgnoreCase(unit.name, name)) return &unit;
  }
  return nullptr;
}

// "MiB" and "MB" to "M", "B" to "".
absl::string_view WithoutByteSuffix(absl::string_view unit) {
  if (!absl::EndsWithIgnoreCase(unit, "b")) return unit;
  unit.remove_suffix(1);
  if (unit.size() > 1 && absl::EndsWithIgnoreCase(unit, "i")) unit.remove_suffix(1);
  return unit;
}

absl::Status SizeError(absl::string_view text, absl::string_view forms) {
  return absl::InvalidArgumentError(absl::StrCat(Quoted(text), " is not a size; write ", forms));
}

constexpr absl::string_view kSizeForms =
    "a whole number with an optional K, M, G or T, such as 16M";
constexpr absl::string_view kSizeOrPercentForms =
    "a whole number with an optional K, M, G or T, such as 16M, or 0% to 100%";

absl::StatusOr<uint64_t> BytesFrom(absl::string_view text, absl::string_view forms) {
  std::optional<Amount> amount = SplitAmount(text);
  if (!amount) return SizeError(text, forms);
  const Unit* unit = FindUnit(kByteUnits, WithoutByteSuffix(amount->unit));
  if (unit == nullptr) return SizeError(text, forms);
  uint64_t bytes;
  if (__builtin_mul_overflow(amount->number, unit->factor, &bytes)) {
    return absl::InvalidArgumentError(absl::StrCat(Quoted(text), " is too large for a size"));
  }
  return bytes;
}

// Four digits at most: two decimals below 100, one below 1000, none above.
std::string FourDigits(double value) {
  int decimals = value < 99.995 ? 2 : value < 999.95 ? 1 : 0;
  return absl::StrFormat("%.*f", decimals, value);
}

}  // namespace

absl::StatusOr<uint64_t> ParseBytes(absl::string_view text) { return BytesFrom(text, kSizeForms); }

absl::StatusOr<uint64_t> ParseBytesOrPercent(absl::string_view text, uint64_t total_bytes) {
  std::optional<Amount> amount = SplitAmount(text);
  if (!amount || amount->unit != "%") return BytesFrom(text, kSizeOrPercentForms);
  if (amount->number > 100) return SizeError(text, kSizeOrPercentForms);
  return total_bytes / 100 * amount->number + total_bytes % 100 * amount->number / 100;
}

absl::StatusOr<int64_t> ParseDurationNs(absl::string_view text) {
  std::optional<Amount> amount = SplitAmount(text);
  const Unit* unit = amount ? FindUnit(kTimeUnits, amount->unit) : nullptr;
  if (unit == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(
        Quoted(text), " is not a duration; write a whole number with ms, s, m or h, such as 30s"));
  }
  uint64_t ns;
  if (__builtin_mul_overflow(amount->number, unit->factor, &ns) ||
      ns > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    return absl::InvalidArgumentError(absl::StrCat(Quoted(text), " is too long a duration"));
  }
  return static_cast<int64_t>(ns);
}

absl::StatusOr<bool> ParseBool(absl::string_view text) {
  std::string word = absl::AsciiStrToLower(absl::StripAsciiWhitespace(text));
  if (word == "yes" || word == "true" || word == "on" || word == "1") return true;
  if (word == "no" || word == "false" || word == "off" || word == "0") return false;
  return absl::InvalidArgumentError(
      absl::StrCat(Quoted(text), " is not a switch; write yes or no"));
}

std::string FormatBytes(uint64_t bytes) {
  if (bytes < 1024) return absl::StrCat(bytes, " B");
  auto value = static_cast<double>(bytes) / 1024;
  constexpr absl::string_view kNames[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  size_t i = 0;
  // 1023.5 would be printed as 1024: that is one of the next unit.
  while (value >= 1023.5 && i + 1 < std::size(kNames)) {
    value /= 1024;
    ++i;
  }
  return absl::StrCat(FourDigits(value), " ", kNames[i]);
}

std::string FormatDuration(uint64_t ns) {
  if (ns < 1000) return absl::StrCat(ns, " ns");
  auto value = static_cast<double>(ns) / 1000;
  constexpr absl::string_view kNames[] = {"µs", "ms", "s"};
  size_t i = 0;
  while (value >= 999.95 && i + 1 < std::size(kNames)) {
    value /= 1000;
    ++i;
  }
  return absl::StrCat(FourDigits(value), " ", kNames[i]);
}

std::string Quoted(absl::string_view text) {
  bool cut = text.size() > kQuotedBytes;
  return absl::StrCat("\"", absl::CHexEscape(text.substr(0, kQuotedBytes)), cut ? "...\"" : "\"");
}

}  // namespace zmem
