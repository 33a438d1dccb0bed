#include "libzmem/reclaim/survey.h"

#include <algorithm>
#include <utility>

#include "libzmem/store/chunk_pages.h"

namespace zmem {
namespace {

// Chunks surveyed in one go: bounds the memory of a survey's bit sets.
constexpr uint64_t kSurveyChunks = 512;

// The first of `ranges`, which ascend, that ends behind `address`.
auto FirstEndingAfter(const std::vector<AddressRange>& ranges, Address address) {
  return std::partition_point(ranges.begin(), ranges.end(),
                              [address](AddressRange range) { return range.end <= address; });
}

// What of `range` lies in none of `mappings`, which ascend.
std::vector<AddressRange> Outside(AddressRange range, const std::vector<AddressRange>& mappings) {
  std::vector<AddressRange> outside;
  for (auto at = FirstEndingAfter(mappings, range.start);
       at != mappings.end() && at->start < range.end; ++at) {
    if (at->start > range.start) outside.push_back({range.start, at->start});
    range.start = at->end;
  }
  if (!range.empty()) outside.push_back(range);
  return outside;
}

}  // namespace

bool Surveyor::IsBelow(AddressRange a, AddressRange b) {
  return a.start != b.start ? a.start < b.start : a.end < b.end;
}

uint64_t CountPages(std::span<const Candidate> candidates) {
  uint64_t pages = 0;
  for (const Candidate& candidate : candidates) pages += candidate.pages.count();
  return pages;
}

std::vector<AddressRange> Surveyor::OwnRanges() const {
  return {
      process_.agent, process_.staging, {process_.token_page, process_.token_page + kPageBytes}};
}

std::vector<AddressRange> Surveyor::Excluded() const {
  std::vector<AddressRange> excluded = OwnRanges();
  std::vector<AddressRange> kept = process_.advice.kept();
  excluded.insert(excluded.end(), kept.begin(), kept.end());
  return excluded;
}

absl::StatusOr<AddressMap> Surveyor::ReadMap() {
  absl::StatusOr<AddressMap> map = AddressMap::Read(process_.pid, Excluded());
  if (!map.ok()) return map;
  forbidden_ = map->forbidden();
  layout_looks_left_ = kLayoutLooks;
  return map;
}

absl::StatusOr<Survey> Surveyor::Look() { return LookAt(ReadMap()); }

absl::StatusOr<Survey> Surveyor::LookByLayout() {
  if (layout_looks_left_ == 0) return Look();
  --layout_looks_left_;
  std::vector<AddressRange> excluded = Excluded();
  excluded.insert(excluded.end(), forbidden_.begin(), forbidden_.end());
  return LookAt(AddressMap::ReadLayout(process_.pid, excluded));
}

absl::StatusOr<AddressMap> Surveyor::Judge(std::span<Candidate> candidates) {
  absl::StatusOr<AddressMap> map = ReadMap();
  if (!map.ok()) return absl::UnavailableError("the program is gone");
  for (Candidate& candidate : candidates) {
    Address start = candidate.chunk_number << kChunkShift;
    wire::PageSet eligible;
    for (auto at = FirstEndingAfter(map->eligible(), start);
         at != map->eligible().end() && at->start < start + kChunkBytes; ++at) {
      eligible = eligible.Or(PagesIn(candidate.chunk_number, *at));
    }
    candidate.pages = candidate.pages.And(eligible);
  }
  return map;
}

absl::StatusOr<Survey> Surveyor::LookAt(absl::StatusOr<AddressMap> map) {
  if (!map.ok()) return absl::UnavailableError("the program is gone");

  Survey survey;
  survey.map = *std::move(map);
  std::vector<wire::PageSet> sets;
  for (AddressRange range : survey.map.eligible()) {
    for (Address at = range.start; at < range.end;) {
      uint64_t first = ChunkNumber(at);
      AddressRange part{at, std::min(range.end, (first + kSurveyChunks) << kChunkShift)};
      uint64_t chunks = ChunkNumber(part.end - 1) - first + 1;
      sets.assign(chunks, wire::PageSet{});
      if (process_.pagemap.ScanPresent(part, first, sets) != 0) {
        return absl::UnavailableError("the program is gone");
      }
      for (uint64_t i = 0; i < chunks; ++i) {
        if (sets[i].empty()) continue;
        if (!survey.chunks.empty() && survey.chunks.back().chunk_number == first + i) {
          // Another mapping in the same chunk.
          wire::PageSet& present = survey.chunks.back().pages;
          present = present.Or(sets[i]);
        } else {
          survey.chunks.push_back({first + i, sets[i]});
        }
      }
      at = part.end;
    }
  }
  return survey;
}

absl::StatusOr<Survey> Surveyor::LookRegistered(Reach reach) {
  absl::StatusOr<Survey> survey = Look();
  if (!survey.ok()) return survey;
  std::vector<uint64_t> unregistered = Unregistered(survey->chunks);
  if (unregistered.empty()) return survey;
  for (uint64_t chunk_number : unregistered) Register(chunk_number, survey->map);
  uint64_t pages = CountPages(survey->chunks);
  std::erase_if(survey->chunks, [&unregistered](const Candidate& candidate) {
    return std::binary_search(unregistered.begin(), unregistered.end(), candidate.chunk_number);
  });
  bool suffices = reach == Reach::kMost && CountPages(survey->chunks) >= pages / 2;
  return suffices ? survey : Look();
}

std::vector<uint64_t> Surveyor::Unregistered(std::span<const Candidate> candidates) {
  std::vector<uint64_t> unregistered;
  GateLock lock(process_.gate);
  for (const Candidate& candidate : candidates) {
    wire::PageSet registered = process_.table.Registered(candidate.chunk_number);
    if (!candidate.pages.Without(registered).empty()) {
      unregistered.push_back(candidate.chunk_number);
    }
  }
  return unregistered;
}

void Surveyor::Register(uint64_t chunk_number, const AddressMap& map) {
  if (map.registered().size() >= kMaxRegisteredMappings) return;
  Address start = chunk_number << kChunkShift;
  AddressRange whole{start, start + kChunkBytes};
  for (auto at = FirstEndingAfter(map.eligible(), start);
       at != map.eligible().end() && at->start < whole.end; ++at) {
    AddressRange part = at->Intersect(whole);
    isolator_.Register(part, *FirstEndingAfter(map.mappings(), part.start));
  }
}

void Surveyor::RegisterNew() {
  absl::StatusOr<AddressMap> map = AddressMap::ReadLayout(process_.pid, OwnRanges());
  if (!map.ok()) return;  // the program is gone
  // How many are registered the layout does not tell; not more than there are.
  if (map->mappings().size() >= kMaxRegisteredMappings) return;
  std::vector<AddressRange> found;
  for (AddressRange range : map->eligible()) {
    AddressRange mapping = *FirstEndingAfter(map->mappings(), range.start);
    if (!found.empty() && found.back() == mapping) continue;
    found.push_back(mapping);
    if (std::binary_search(unjudged_.begin(), unjudged_.end(), mapping, IsBelow)) continue;
    isolator_.RegisterUnjudged(mapping);
  }
  unjudged_ = std::move(found);
}

void Surveyor::UnregisterHot(const AddressMap& map, const std::vector<Candidate>& cold) {
  for (AddressRange mapping : map.mappings()) {
    auto at = std::partition_point(cold.begin(), cold.end(), [mapping](const Candidate& candidate) {
      return candidate.chunk_number < ChunkNumber(mapping.start);
    });
    bool is_wanted = at != cold.end() && at->chunk_number <= ChunkNumber(mapping.end - 1);
    if (!is_wanted) isolator_.Unregister(mapping);
  }
  isolator_.ForgetUnused();
}

absl::Status Surveyor::Watch(const std::vector<AddressRange>& kept) {
  absl::StatusOr<AddressMap> map = AddressMap::Read(process_.pid, OwnRanges());
  if (!map.ok()) return absl::UnavailableError("the program is gone");
  // Where nothing may be taken there is nothing to keep, and what comes there is something else.
  for (AddressRange range : kept) {
    for (AddressRange part : Outside(range, map->eligible())) process_.advice.Forget(part);
  }
  size_t registered = map->registered().size();
  // One part stands for its mapping, which is registered as a whole.
  AddressRange watched{};
  for (AddressRange eligible : map->eligible()) {
    auto next = FirstEndingAfter(kept, eligible.start);
    AddressRange part = next == kept.end() ? AddressRange{} : next->Intersect(eligible);
    if (part.empty() || watched.Contains(part.start)) continue;
    auto mapping = FirstEndingAfter(map->mappings(), part.start);
    if (mapping == map->mappings().end()) continue;
    part.end = std::min(part.end, ChunkStart(part.start) + kChunkBytes);
    if (registered >= kMaxRegisteredMappings) break;
    if (!isolator_.Register(part, *mapping)) continue;
    watched = *mapping;
    ++registered;
  }
  return absl::OkStatus();
}

}  // namespace zmem
