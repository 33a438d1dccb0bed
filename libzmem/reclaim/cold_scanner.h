// Which chunks are cold: those whose population of present pages has not changed, and to which no
// page had to be brought back, for the cold age. The kernel tells no reads here, so a chunk that is
// only read looks cold until its pages are taken on probation; one that proves hot then is left
// alone for twice as long, up to kMaxBackoff times the cold age.
// Not thread-safe; makes no system call.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/container/flat_hash_map.h"

namespace zmem {

class ColdScanner {
 public:
  static constexpr uint32_t kMaxBackoff = 16;

  explicit ColdScanner(int64_t cold_age_ns) : cold_age_ns_(cold_age_ns) {}

  // Notes what a scan saw of a chunk; `last_fault_ns` 0: none ever. Returns whether it is cold.
  bool Observe(uint64_t chunk_number, size_t present_pages, int64_t last_fault_ns, int64_t now_ns);
  // The population after pages of the chunk were taken: no change of the program's.
  void OnTaken(uint64_t chunk_number, size_t present_pages);
  // What probation showed of the chunk.
  void OnHot(uint64_t chunk_number, int64_t now_ns);
  void OnCold(uint64_t chunk_number);
  // Forgets the chunks that were not observed since the last call.
  void ForgetUnseen();

  size_t size() const { return ages_.size(); }

 private:
  struct Age {
    size_t present_pages = 0;
    int64_t changed_ns = 0;
    uint32_t backoff = 1;
    bool seen = false;
  };

  const int64_t cold_age_ns_;
  absl::flat_hash_map<uint64_t, Age> ages_;
};

}  // namespace zmem
