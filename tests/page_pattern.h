// The oracle of the whole-system tests and benches: pages that know who they are. A page carries
// its number, its version and a checksum over all of it, so that a lost, stale, swapped, zeroed or
// damaged page is told from the right one at the price of reading it.
// Pure functions; no allocation. The content of a page follows from its number and version alone.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "libzmem/base/page.h"

namespace zmem {

enum class PageContent {
  kCompressible,  // about 2.4 to 1 with lz4: records of random words, counters and zeros
  kRandom,        // cannot be compressed
  kThin,          // some 70 to 1: one word again and again, behind the header
};

namespace page_pattern_internal {

struct Header {
  uint64_t number;
  uint64_t version;
  uint64_t checksum;  // of the whole page, taking this field as 0
};

inline constexpr size_t kWords = kPageBytes / sizeof(uint64_t);
inline constexpr size_t kHeaderWords = sizeof(Header) / sizeof(uint64_t);
static_assert(kWords % 4 == 0);

// SplitMix64 (Steele, Lea, Flood 2014): one output per input, all of them well mixed.
inline uint64_t Mix(uint64_t value) {
  value += 0x9e3779b97f4a7c15;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
  value = (value ^ (value >> 27)) * 0x94d049bb133111eb;
  return value ^ (value >> 31);
}

// Four independent lanes, or the multiplications' latency would make it three times as slow.
inline uint64_t Checksum(const uint64_t* words) {
  uint64_t lanes[4] = {1, 2, 3, 4};
  for (size_t at = 0; at < kWords; at += 4) {
    for (size_t lane = 0; lane < 4; ++lane) {
      uint64_t word =
          at + lane == offsetof(Header, checksum) / sizeof(uint64_t) ? 0 : words[at + lane];
      lanes[lane] = std::rotl((lanes[lane] ^ word) * 0x9e3779b97f4a7c15, 29);
    }
  }
  return Mix(lanes[0] ^ Mix(lanes[1] ^ Mix(lanes[2] ^ Mix(lanes[3]))));
}

}  // namespace page_pattern_internal

// Makes `page` (kPageBytes, 8-byte aligned) the page of this number and version. No version is
// ever the content of another.
inline void FillPage(std::byte* page, uint64_t number, uint64_t version,
                     PageContent content = PageContent::kCompressible) {
  namespace internal = page_pattern_internal;
  auto* words = reinterpret_cast<uint64_t*>(page);
  uint64_t seed = internal::Mix(number) ^ internal::Mix(~version);
  for (size_t at = 0; at < internal::kWords; ++at) {
    uint64_t random = internal::Mix(seed + at);
    if (content == PageContent::kRandom) {
      words[at] = random;
    } else if (content == PageContent::kThin) {
      words[at] = seed;
    } else if (at % 4 == 0) {
      words[at] = random & 0xffffffff;
    } else {
      words[at] = at % 4 == 2 ? at : 0;
    }
  }
  internal::Header header{.number = number, .version = version, .checksum = 0};
  std::memcpy(page, &header, sizeof header);
  header.checksum = internal::Checksum(words);
  std::memcpy(page, &header, sizeof header);
}

// Whether `page` is what FillPage made for this number and version, to the last bit.
inline bool VerifyPage(const std::byte* page, uint64_t number, uint64_t version) {
  page_pattern_internal::Header header;
  std::memcpy(&header, page, sizeof header);
  return header.number == number && header.version == version &&
         header.checksum ==
             page_pattern_internal::Checksum(reinterpret_cast<const uint64_t*>(page));
}

// What is in a page that failed to verify, for the message about it.
struct PageFinding {
  uint64_t number;
  uint64_t version;
  bool intact;    // the checksum fits: a whole page, but not the one that belongs there
  bool all_zero;  // nothing was put back
};

inline PageFinding InspectPage(const std::byte* page) {
  page_pattern_internal::Header header;
  std::memcpy(&header, page, sizeof header);
  const auto* words = reinterpret_cast<const uint64_t*>(page);
  bool all_zero = true;
  for (size_t at = 0; at < page_pattern_internal::kWords; ++at) all_zero &= words[at] == 0;
  return {.number = header.number,
          .version = header.version,
          .intact = header.checksum == page_pattern_internal::Checksum(words),
          .all_zero = all_zero};
}

}  // namespace zmem
