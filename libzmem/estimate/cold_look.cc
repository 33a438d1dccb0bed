#include "libzmem/estimate/cold_look.h"

#include <algorithm>
#include <numeric>

#include "libzmem/estimate/smaps.h"
#include "libzmem/uffd/address_map.h"

namespace zmem {
namespace {

// The sample's mapping in which `address` lies, or their number if it lies in none.
size_t SampledAt(const PageSample& sample, Address address) {
  const std::vector<SampledMapping>& mappings = sample.mappings;
  auto after = std::upper_bound(
      mappings.begin(), mappings.end(), address,
      [](Address at, const SampledMapping& mapping) { return at < mapping.range.start; });
  if (after == mappings.begin() || !std::prev(after)->range.Contains(address)) {
    return mappings.size();
  }
  return static_cast<size_t>(std::prev(after) - mappings.begin());
}

}  // namespace

double ColdLook::all_cold_pages() const {
  return std::accumulate(cold_pages.begin(), cold_pages.end(), 0.0);
}

ColdLook LookForCold(absl::string_view smaps, const PageSample& sample) {
  AddressMap map = AddressMap::Parse(smaps, {});
  ColdLook look;
  look.cold_pages.assign(sample.mappings.size() + 1, 0);
  auto eligible = map.mappings().begin();
  for (const MappingUse& use : ParseMappingUse(smaps)) {
    look.resident_bytes += use.resident_bytes;
    while (eligible != map.mappings().end() && eligible->end <= use.range.start) ++eligible;
    if (eligible == map.mappings().end() || *eligible != use.range) continue;
    size_t number = SampledAt(sample, use.range.start);
    double share = number < sample.mappings.size() ? sample.mappings[number].eligible_share : 1;
    auto eligible_of = [share](uint64_t bytes) { return share * static_cast<double>(bytes); };
    look.eligible_bytes += static_cast<uint64_t>(eligible_of(use.resident_bytes));
    look.huge_bytes += static_cast<uint64_t>(eligible_of(use.huge_bytes));
    uint64_t touched = std::min(use.referenced_bytes, use.resident_bytes);
    look.cold_pages[number] += eligible_of(use.resident_bytes - touched) / kPageBytes;
  }
  return look;
}

}  // namespace zmem
