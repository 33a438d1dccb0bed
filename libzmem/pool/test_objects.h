// Objects for tests of the pool: every one holds bytes derived from its own key, so that any
// overlap, loss or mix-up shows.
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "libzmem/pool/zpool.h"

namespace zmem {

using Random = std::mt19937_64;

inline constexpr uint64_t kSeed = 20240607;
inline constexpr uint64_t kMib = uint64_t{1} << 20;
inline constexpr uint64_t kAmpleBytes = uint64_t{4} << 30;

inline std::unique_ptr<Zpool> MakePool(uint64_t limit_bytes,
                                       uint64_t reserved_bytes = kAmpleBytes) {
  auto pool = Zpool::Create({.limit_bytes = limit_bytes, .reserved_bytes = reserved_bytes});
  EXPECT_TRUE(pool.ok()) << pool.status();
  return *std::move(pool);
}

struct Object {
  ZHandle handle;
  size_t bytes = 0;
  uint64_t key = 0;
};

inline std::byte ByteOf(uint64_t key, size_t at) {
  return static_cast<std::byte>((key * 0x9e3779b97f4a7c15 >> 32) + at * 167);
}

inline std::optional<Object> PutObject(Zpool& pool, size_t bytes, uint64_t key) {
  std::array<std::byte, kPageBytes> content;
  for (size_t at = 0; at < bytes; ++at) content[at] = ByteOf(key, at);
  auto handle = pool.Put(std::span(content).first(bytes));
  if (!handle) return std::nullopt;
  return Object{*handle, bytes, key};
}

inline bool IsIntact(const Zpool& pool, const Object& object) {
  auto content = pool.Get(object.handle, object.bytes);
  for (size_t at = 0; at < object.bytes; ++at) {
    if (content[at] != ByteOf(object.key, at)) return false;
  }
  return true;
}

inline void FreeObject(Zpool& pool, const Object& object) {
  pool.Free(object.handle, object.bytes);
}

// The slot of the object's span.
inline uint64_t SlotOf(const Object& object) {
  return object.handle.granule / (kSpanSlotBytes / kPoolGranuleBytes);
}

// How long the compressed forms of a program's pages are: a bump of nearly empty ones, two of
// structures and text, and few that hardly compress.
inline size_t RealisticBytes(Random& random) {
  double share = std::uniform_real_distribution<double>(0, 1)(random);
  double bytes;
  if (share < 0.15) {
    bytes = std::lognormal_distribution<double>(std::log(250), 0.6)(random);
  } else if (share < 0.75) {
    bytes = std::normal_distribution<double>(1250, 350)(random);
  } else if (share < 0.95) {
    bytes = std::normal_distribution<double>(2100, 400)(random);
  } else {
    bytes = std::uniform_real_distribution<double>(2600, kPageBytes)(random);
  }
  return static_cast<size_t>(std::clamp(bytes, 16.0, double{kPageBytes}));
}

inline size_t ResidentPages(const std::byte* start, size_t pages) {
  std::vector<unsigned char> resident(pages);
  EXPECT_EQ(mincore(const_cast<std::byte*>(start), pages * kPageBytes, resident.data()), 0);
  return static_cast<size_t>(
      std::count_if(resident.begin(), resident.end(), [](unsigned char bits) { return bits & 1; }));
}

// The region's first byte, by way of an object in it.
inline const std::byte* RegionStart(const Zpool& pool, const Object& object) {
  return pool.Get(object.handle, object.bytes).data() - object.handle.granule * kPoolGranuleBytes;
}

inline double Density(const Zpool& pool) {
  Zpool::Stats stats = pool.stats();
  return static_cast<double>(stats.live_bytes) / static_cast<double>(stats.held_bytes);
}

}  // namespace zmem
