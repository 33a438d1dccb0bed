#include "libzmem/base/kernel_figures.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace zmem {
namespace {

constexpr absl::string_view kKib = " kB";

// What follows the name; nullopt if no line has it.
std::optional<absl::string_view> ValueOf(absl::string_view text, absl::string_view name) {
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    if (absl::ConsumePrefix(&line, name) && absl::ConsumePrefix(&line, ":")) return line;
  }
  return std::nullopt;
}

std::optional<uint64_t> Number(absl::string_view value) {
  uint64_t number = 0;
  if (!absl::SimpleAtoi(value, &number)) return std::nullopt;
  return number;
}

}  // namespace

std::optional<uint64_t> BytesFigure(absl::string_view text, absl::string_view name) {
  std::optional<absl::string_view> value = ValueOf(text, name);
  if (!value || !absl::ConsumeSuffix(&*value, kKib)) return std::nullopt;
  std::optional<uint64_t> kib = Number(*value);
  if (!kib) return std::nullopt;
  return *kib << 10;
}

std::optional<uint64_t> PlainFigure(absl::string_view text, absl::string_view name) {
  std::optional<absl::string_view> value = ValueOf(text, name);
  return value ? Number(*value) : std::nullopt;
}

}  // namespace zmem
