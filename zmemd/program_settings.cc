#include "zmemd/program_settings.h"

#include <string>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "libzmem/base/quantity.h"

namespace zmem {
namespace {

struct ModeName {
  ReclaimMode mode;
  absl::string_view name;
};

constexpr ModeName kModes[] = {
    {ReclaimMode::kProactive, "proactive"},
    {ReclaimMode::kPressure, "pressure"},
    {ReclaimMode::kLimitOnly, "limit-only"},
};

}  // namespace

absl::StatusOr<uint64_t> ParseLimit(absl::string_view text, uint64_t total_bytes) {
  if (absl::EqualsIgnoreCase(text, "none")) return 0;
  absl::StatusOr<uint64_t> bytes = ParseBytesOrPercent(text, total_bytes);
  if (bytes.ok() && *bytes > 0) return bytes;
  return absl::InvalidArgumentError(absl::StrCat(
      Quoted(text), " is not a limit; write none, a size such as 512M, or 1% to 100%"));
}

absl::StatusOr<double> ParseStallTarget(absl::string_view text) {
  double percent = 0;
  if (absl::SimpleAtod(absl::StripSuffix(text, "%"), &percent) && percent >= 0 && percent <= 100) {
    return percent;
  }
  return absl::InvalidArgumentError(
      absl::StrCat(Quoted(text), " is not a percentage of time from 0 to 100, such as 0.5"));
}

absl::StatusOr<ReclaimMode> ParseReclaimMode(absl::string_view text) {
  for (const ModeName& known : kModes) {
    if (known.name == text) return known.mode;
  }
  return absl::InvalidArgumentError(
      absl::StrCat(Quoted(text), " is not a mode; write proactive, pressure or limit-only"));
}

absl::string_view ReclaimModeName(ReclaimMode mode) {
  for (const ModeName& known : kModes) {
    if (known.mode == mode) return known.name;
  }
  return "";
}

}  // namespace zmem
