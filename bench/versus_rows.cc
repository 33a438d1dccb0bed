#include "bench/versus_rows.h"

#include <algorithm>
#include <cstdlib>

namespace zmem {
namespace {

constexpr Row kRows[] = {
    {1, "refault.p50", "random refault, one thread, p50", "µs", "zram", Relation::kAtMost, 1.0},
    {1, "refault.p99", "random refault, one thread, p99", "µs", "zram", Relation::kAtMost, 1.2},
    {2, "threads.rate", "random refault, two threads", "faults/s", "zram", Relation::kAtLeast, 0.8},
    {3, "sequential.rate", "sequential refault", "GiB/s", "zram", Relation::kAtLeast, 3},
    {4, "eviction.rate", "eviction, by CPU time", "pages/s", "zram", Relation::kAtLeast, 1.2},
    {5, "scan.rate", "read in order, half resident", "pages/s", "zram", Relation::kAtLeast, 4},
    {6, "random.rate", "random read-write, half resident", "ops/s", "zram", Relation::kAtLeast,
     1.5},
    {7, "growth.rate", "filling twice what may be resident", "MiB/s", "zram", Relation::kAtLeast,
     1.5},
    {8, "redis.rate", "redis at half its size, as fast as it goes", "requests/s", "zram",
     Relation::kAtLeast, 1.2},
    {8, "redis.p99", "redis at half its size, p99 at one rate", "µs", "zram", Relation::kAtMost,
     1.0},
    {9, "compile.time", "compiling at half the peak memory", "s", "swap file", Relation::kAtMost,
     0.47},
    {9, "compile.io", "the same, read and written", "MiB", "swap file", Relation::kAtMost, 0.24},
    {9, "compile.zram", "the same, beside zram", "s", "zram", Relation::kAtMost, 1.0},
    {10, "memory.held", "memory for a stored page", "bytes", "zram", Relation::kAtMost, 1.0},
    {11, "crowd.p99", "fault at 64 programs, p99", "µs", "one program", Relation::kAtMost, 3},
};

}  // namespace

std::span<const Row> AllRows() { return kRows; }

const Row& RowOf(absl::string_view name) {
  const Row* row = std::find_if(std::begin(kRows), std::end(kRows),
                                [name](const Row& candidate) { return candidate.name == name; });
  if (row == std::end(kRows)) std::abort();
  return *row;
}

}  // namespace zmem
