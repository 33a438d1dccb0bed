#include "libzmem/uffd/address_map.h"

#include <errno.h>
#include <fcntl.h>

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "libzmem/base/kernel_abi.h"
#include "libzmem/base/sys.h"

namespace zmem {
namespace {

// A guard below a stack is a few pages (glibc: 1 unless asked for more); larger inaccessible
// neighbours are the reserves of heaps.
constexpr uint64_t kLargestGuardBytes = uint64_t{1} << 20;
// What is left out above a guard when a larger mapping follows: more than any usual stack.
constexpr uint64_t kStackBytes = uint64_t{64} << 20;

struct Mapping {
  AddressRange range;
  absl::string_view permissions;
  absl::string_view inode;
  absl::string_view name;

  bool anonymous() const {
    return inode == "0" && (name.empty() || name == "[heap]" || absl::StartsWith(name, "[anon:"));
  }
};

bool ParseLine(absl::string_view line, Mapping* mapping) {
  std::vector<absl::string_view> fields =
      absl::StrSplit(line, absl::MaxSplits(absl::ByChar(' '), 5));
  if (fields.size() < 5) return false;
  std::pair<absl::string_view, absl::string_view> ends = absl::StrSplit(fields[0], '-');
  if (!absl::SimpleHexAtoi(ends.first, &mapping->range.start) ||
      !absl::SimpleHexAtoi(ends.second, &mapping->range.end)) {
    return false;
  }
  mapping->permissions = fields[1];
  mapping->inode = fields[4];
  mapping->name = fields.size() > 5 ? absl::StripAsciiWhitespace(fields[5]) : "";
  return true;
}

// The flags of a mapping (proc(5), VmFlags) that forbid taking its pages: locked, not copied by a
// fork, wiped by it, and what anonymous memory should not have.
bool ForbiddenFlags(absl::string_view flags) {
  for (absl::string_view flag : absl::StrSplit(flags, ' ', absl::SkipEmpty())) {
    for (absl::string_view forbidden : {"lo", "dc", "wf", "io", "pf", "mm", "ht", "ss"}) {
      if (flag == forbidden) return true;
    }
  }
  return false;
}

// The same addresses, ascending and disjoint.
std::vector<AddressRange> Disjoint(std::vector<AddressRange> ranges) {
  std::sort(ranges.begin(), ranges.end(),
            [](AddressRange a, AddressRange b) { return a.start < b.start; });
  std::vector<AddressRange> disjoint;
  for (AddressRange range : ranges) {
    if (range.empty()) continue;
    if (!disjoint.empty() && range.start <= disjoint.back().end) {
      disjoint.back().end = std::max(disjoint.back().end, range.end);
    } else {
      disjoint.push_back(range);
    }
  }
  return disjoint;
}

// Appends what is left of `range` without `holes`, which are ascending and disjoint.
void AppendWithout(AddressRange range, const std::vector<AddressRange>& holes,
                   std::vector<AddressRange>* out) {
  auto hole = std::partition_point(holes.begin(), holes.end(),
                                   [range](AddressRange each) { return each.end <= range.start; });
  for (; hole != holes.end() && hole->start < range.end; ++hole) {
    if (hole->start > range.start) out->push_back({range.start, hole->start});
    range.start = std::min(hole->end, range.end);
  }
  if (!range.empty()) out->push_back(range);
}

}  // namespace

AddressMap AddressMap::Parse(absl::string_view smaps, const std::vector<AddressRange>& excluded) {
  const std::vector<AddressRange> holes = Disjoint(excluded);
  AddressMap result;
  AddressRange guard{};
  Mapping mapping;           // the last one read
  AddressRange fresh{};      // what of it no line before told of
  AddressRange candidate{};  // what of it may be managed, until its flags are read
  auto accept = [&] {
    if (!candidate.empty()) {
      AppendWithout(candidate, holes, &result.eligible_);
      result.mappings_.push_back(mapping.range);
    }
    candidate = {};
  };
  for (absl::string_view line : absl::StrSplit(smaps, '\n', absl::SkipEmpty())) {
    constexpr absl::string_view kFlags = "VmFlags:";
    if (absl::ConsumePrefix(&line, kFlags)) {
      if (ForbiddenFlags(line)) {
        if (!candidate.empty()) result.forbidden_.push_back(candidate);
        candidate = {};
      }
      if (absl::StrContains(line, " um")) result.registered_.push_back(fresh);
      continue;
    }
    // The other lines begin with the name of a figure; they are no mapping. There are twenty to
    // one, and they are told from it by their first letter.
    if (absl::ascii_isupper(static_cast<unsigned char>(line[0]))) continue;
    Mapping next;
    if (!ParseLine(line, &next)) continue;
    accept();
    // The kernel writes the text in pieces and looks up what follows for each: after a mapping that
    // has changed meanwhile comes one that may begin before its end.
    fresh = {std::max(next.range.start, mapping.range.end), next.range.end};
    mapping = next;
    AddressRange range = mapping.range;
    bool above_guard = guard.end == range.start && !guard.empty();
    guard = {};
    if (!mapping.anonymous()) continue;
    if (mapping.permissions == "---p") {
      if (range.bytes() <= kLargestGuardBytes) guard = range;
      continue;
    }
    if (mapping.permissions != "rw-p") continue;
    if (above_guard) {
      range.start = range.bytes() > kStackBytes ? range.start + kStackBytes : range.end;
    }
    candidate = range.Intersect(fresh);
  }
  accept();
  return result;
}

absl::StatusOr<AddressMap> AddressMap::ReadFrom(const char* name, pid_t pid,
                                                const std::vector<AddressRange>& excluded) {
  std::string text;
  absl::Status status = sys::ReadFile(absl::StrCat("/proc/", pid, "/", name), text);
  if (!status.ok()) return status;
  return Parse(text, excluded);
}

absl::StatusOr<AddressMap> AddressMap::Read(pid_t pid, const std::vector<AddressRange>& excluded) {
  return ReadFrom("smaps", pid, excluded);
}

absl::StatusOr<AddressMap> AddressMap::ReadLayout(pid_t pid,
                                                  const std::vector<AddressRange>& excluded) {
  return ReadFrom("maps", pid, excluded);
}

AddressRange MappingAt(pid_t pid, Address address) {
  std::string path = absl::StrCat("/proc/", pid, "/maps");
  UniqueFd maps(sys::Open(path.c_str(), O_RDONLY));
  if (!maps.valid()) return {};
  procmap_query query{};
  query.size = sizeof query;
  query.query_addr = address;
  int result = sys::Ioctl(maps.get(), PROCMAP_QUERY, &query);
  if (result == 0) return {query.vma_start, query.vma_end};
  if (result != -ENOTTY) return {};
  // Before Linux 6.11 the text has to do.
  std::string text;
  if (!sys::ReadFile(path, text).ok()) return {};
  for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    Mapping mapping;
    if (ParseLine(line, &mapping) && mapping.range.Contains(address)) return mapping.range;
  }
  return {};
}

bool IsOneMapping(pid_t pid, AddressRange range) {
  return MappingAt(pid, range.start).Intersect(range) == range;
}

}  // namespace zmem
