// How dense the pool is beside the kernel's: the same objects put and freed in a Zpool and in a
// zram device whose pages compress to the same sizes.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>

namespace zmem::bench {

// For each size distribution, with `live_bytes` of objects to begin with: live over held bytes
//   replaced   filled, then each object replaced once, in random order, by one of another size
//   steady     after one round of compaction
//   churned    then three quarters of them freed at random
//   compacted  after one more round
// Prints a table and returns the same as JSON. Where there can be no zram, says why and leaves its
// figures out.
nlohmann::json MeasureDensity(uint64_t live_bytes);

}  // namespace zmem::bench
