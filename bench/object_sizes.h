// How long the objects of a pool are, for benchmarks: distributions from made-up to recorded, and
// pages that compress to a given size.
// The same on every machine and run. Thread-safe once made.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <vector>

#include "libzmem/base/page.h"

namespace zmem::bench {

// Lengths of 1..kPageBytes fall into bands of this many bytes.
inline constexpr size_t kSizeBandBytes = 128;
inline constexpr size_t kSizeBands = kPageBytes / kSizeBandBytes;
using SizeBands = std::array<uint64_t, kSizeBands>;  // objects of band n: n * 128 + 1 .. + 128

struct SizeDistribution {
  const char* name;
  SizeBands weights;
};

// "thin" (mostly zeros), "fat" (hardly compressible), "bimodal" (both, nothing between) and
// "recorded" (pages of real programs, see the source).
extern const std::array<SizeDistribution, 4> kSizeDistributions;

// Sizes of a distribution, even within each band.
class SizeSource {
 public:
  explicit SizeSource(const SizeDistribution& distribution)
      : bands_(distribution.weights.begin(), distribution.weights.end()) {}

  size_t Next(std::mt19937_64& random) {
    return bands_(random) * kSizeBandBytes + 1 + random() % kSizeBandBytes;
  }

 private:
  std::discrete_distribution<size_t> bands_;
};

// Adds to `bands` how long lz4 makes each page of private anonymous memory that a process has
// resident, but for pages that one word fills and those that the daemon would refuse.
// False if the process's memory cannot be read.
bool RecordSizes(pid_t pid, SizeBands& bands);

// Makes pages that lz4 compresses to a wanted size: random bytes, then zeros.
class SizedPages {
 public:
  SizedPages();
  // Different bytes for each `seed`. Sizes that lz4 cannot make (below 30 or so) become the next
  // that it can.
  void Fill(size_t compressed_bytes, uint64_t seed, std::span<std::byte, kPageBytes> page) const;

 private:
  std::vector<std::byte> noise_;
  std::array<uint16_t, kPageBytes + 1> random_bytes_for_;  // by compressed size
};

}  // namespace zmem::bench
