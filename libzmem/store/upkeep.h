// Moves what is stored to better places while programs run: out of sparse spans of the pool.
// One thread runs it. Programs' faults never wait for it but for the gate, which is held for a few
// entries at a time.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "libzmem/store/process.h"

namespace zmem {

class Upkeep {
 public:
  // Gives the processes whose memory is stored.
  using ProcessesFn = std::function<std::vector<std::shared_ptr<Process>>()>;

  struct Stats {
    uint64_t compaction_rounds = 0;
    uint64_t compacted_objects = 0;
    uint64_t compacted_bytes = 0;  // given back by the pool
  };

  explicit Upkeep(Zpool& pool) : pool_(pool) {}

  // Does all that there is to do. Returns early once `stop` is true.
  void Run(const ProcessesFn& processes, const std::atomic<bool>& stop);

  // Thread-safe.
  Stats stats() const;

 private:
  // Objects moved between two looks at the table.
  static constexpr size_t kBatch = 64;

  // Empties sparse spans if that gives back enough. What forked relatives share stays where it is.
  void CompactPool(const ProcessesFn& processes, const std::atomic<bool>& stop);
  void CompactChunk(Process& process, uint64_t chunk_number);

  Zpool& pool_;
  std::atomic<uint64_t> compaction_rounds_{0};
  std::atomic<uint64_t> compacted_objects_{0};
  std::atomic<uint64_t> compacted_bytes_{0};
};

}  // namespace zmem
