#include "libzmem/estimate/smaps.h"

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "libzmem/base/kernel_figures.h"

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
    last.resident_bytes = BytesFigure(line, "Rss").value_or(last.resident_bytes);
    last.referenced_bytes = BytesFigure(line, "Referenced").value_or(last.referenced_bytes);
    last.huge_bytes = BytesFigure(line, "AnonHugePages").value_or(last.huge_bytes);
  }
  return mappings;
}

}  // namespace zmem
