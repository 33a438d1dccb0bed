#include "libzmem/estimate/page_sample.h"

#include <algorithm>
#include <random>
#include <span>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "libzmem/estimate/smaps.h"
#include "libzmem/uffd/address_map.h"

namespace zmem {
namespace {

// Chunks looked at in one go: bounds the memory for what is absent of a large reservation.
constexpr uint64_t kWindowChunks = 512;

// The present pages of one chunk that lie in one mapping.
struct PresentPages {
  size_t mapping = 0;
  uint64_t chunk_number = 0;
  wire::PageSet pages;
};

// Adds what of `range` is present.
absl::Status AddPresent(const ObservedProgram& program, AddressRange range, size_t mapping,
                        std::vector<PresentPages>* found) {
  std::vector<wire::PageSet> window;
  for (Address at = range.start; at < range.end;) {
    uint64_t first_chunk = ChunkNumber(at);
    Address window_end = (first_chunk + kWindowChunks) << kChunkShift;
    AddressRange part{at, std::min(range.end, window_end)};
    window.assign(ChunkNumber(part.end - 1) - first_chunk + 1, {});
    int error = program.pagemap().ScanPresent(part, first_chunk, window);
    if (error != 0) {
      return sys::ErrnoStatus(-error, absl::StrCat("cannot read the page map of ", program.pid()));
    }
    for (size_t i = 0; i < window.size(); ++i) {
      if (!window[i].empty()) found->push_back({mapping, first_chunk + i, window[i]});
    }
    at = part.end;
  }
  return absl::OkStatus();
}

size_t NthPage(const wire::PageSet& pages, uint64_t n) {
  size_t page = pages.Next(0, true);
  for (; n > 0; --n) page = pages.Next(page + 1, true);
  return page;
}

// The numbers of `want` pages out of `pages`, ascending.
std::vector<uint64_t> Choose(uint64_t pages, uint64_t want, uint64_t seed) {
  std::mt19937_64 random(seed);
  want = std::min(want, pages);
  std::vector<uint64_t> chosen;
  chosen.reserve(want);
  for (uint64_t i = 0; i < want; ++i) {
    auto part_start = [&](uint64_t part) {
      return static_cast<uint64_t>(static_cast<__uint128_t>(pages) * part / want);
    };
    std::uniform_int_distribution<uint64_t> within(part_start(i), part_start(i + 1) - 1);
    chosen.push_back(within(random));
  }
  return chosen;
}

void GradeChosen(const ObservedProgram& program, const std::vector<PresentPages>& present,
                 const std::vector<uint64_t>& chosen, PageGrader& grader, PageSample* sample) {
  alignas(64) std::array<std::byte, kPageBytes> page;
  uint64_t passed = 0;  // pages of the chunks before this one
  auto next = chosen.begin();
  for (const PresentPages& chunk : present) {
    uint64_t count = chunk.pages.count();
    for (; next != chosen.end() && *next < passed + count; ++next) {
      Address address =
          (chunk.chunk_number << kChunkShift) + NthPage(chunk.pages, *next - passed) * kPageBytes;
      if (!program.memory().Read(address, page.data(), page.size())) continue;
      sample->mappings[chunk.mapping].sample.push_back(grader.Grade(page));
    }
    passed += count;
  }
}

double EligibleShare(const SampledMapping& mapping, uint64_t eligible_bytes,
                     const std::vector<MappingUse>& uses) {
  if (eligible_bytes == mapping.range.bytes()) return 1;
  for (const MappingUse& use : uses) {
    if (use.range == mapping.range && use.resident_bytes > 0) {
      return std::min(1.0, static_cast<double>(mapping.pages * kPageBytes) /
                               static_cast<double>(use.resident_bytes));
    }
  }
  return 1;
}

}  // namespace

absl::StatusOr<PageSample> SamplePages(const ObservedProgram& program, absl::string_view smaps,
                                       uint64_t want, uint64_t seed, PageGrader& grader) {
  AddressMap map = AddressMap::Parse(smaps, {});
  PageSample sample;
  sample.any_registered = !map.registered().empty();
  std::vector<PresentPages> present;
  std::vector<uint64_t> eligible_bytes;
  auto mapping = map.mappings().begin();
  for (AddressRange eligible : map.eligible()) {
    while (mapping != map.mappings().end() && mapping->end <= eligible.start) ++mapping;
    if (mapping == map.mappings().end()) break;
    if (sample.mappings.empty() || sample.mappings.back().range != *mapping) {
      sample.mappings.push_back({.range = *mapping});
      eligible_bytes.push_back(0);
    }
    eligible_bytes.back() += eligible.bytes();
    absl::Status status = AddPresent(program, eligible, sample.mappings.size() - 1, &present);
    if (!status.ok()) return status;
  }
  absl::flat_hash_set<uint64_t> chunks;
  for (const PresentPages& chunk : present) {
    chunks.insert(chunk.chunk_number);
    sample.mappings[chunk.mapping].pages += chunk.pages.count();
    sample.pages += chunk.pages.count();
  }
  sample.chunks = chunks.size();
  std::vector<MappingUse> uses = ParseMappingUse(smaps);
  for (size_t i = 0; i < sample.mappings.size(); ++i) {
    sample.mappings[i].eligible_share = EligibleShare(sample.mappings[i], eligible_bytes[i], uses);
  }
  GradeChosen(program, present, Choose(sample.pages, want, seed), grader, &sample);
  return sample;
}

}  // namespace zmem
