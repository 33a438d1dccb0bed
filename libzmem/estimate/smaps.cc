#include "libzmem/estimate/smaps.h"

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace zmem {
namespace {

// "7f12a000-7f12b000 rw-p ...".
bool ParseRange(absl::string_view line, AddressRange* range) {
  absl::string_view first_field = line.substr(0, line.find(' '));
  std::pair<absl::string_view, absl::string_view> ends =
      absl::StrSplit(first_field, absl::MaxSplits('-', 1));
  return absl::SimpleHexAtoi(ends.first, &range->start) &&
         absl::SimpleHexAtoi(ends.second, &range->end);
}

// "Rss:                1024 kB".
bool ParseField(absl::string_view line, absl::string_view name, uint64_t* bytes) {
  uint64_t kib = 0;
  if (!absl::ConsumePrefix(&line, name) || !absl::ConsumeSuffix(&line, " kB") ||
      !absl::SimpleAtoi(line, &kib)) {
    return false;
  }
  *bytes = kib << 10;
  return true;
}

}  // namespace

std::vector<MappingUse> ParseMappingUse(absl::string_view smaps) {
  std::vector<MappingUse> mappings;
  for (absl::string_view line : absl::StrSplit(smaps, '\n', absl::SkipEmpty())) {
    AddressRange range;
    if (ParseRange(line, &range)) {
      mappings.push_back({.range = range});
      continue;
    }
    if (mappings.empty()) continue;
    MappingUse& last = mappings.back();
    if (ParseField(line, "Rss:", &last.resident_bytes)) continue;
    if (ParseField(line, "Referenced:", &last.referenced_bytes)) continue;
    ParseField(line, "AnonHugePages:", &last.huge_bytes);
  }
  return mappings;
}

}  // namespace zmem
