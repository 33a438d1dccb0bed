// Moves what is stored to better places while programs run: out of sparse spans of the pool, from
// a full pool to the backing file, out of sparse segments of the file.
// One thread runs it. Programs' faults never wait for it but for the gate, which is held for a few
// entries at a time, and never across I/O.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "libzmem/base/clock.h"
#include "libzmem/store/process.h"

namespace zmem {

class Upkeep {
 public:
  // Gives the processes whose memory is stored.
  using ProcessesFn = std::function<std::vector<std::shared_ptr<Process>>()>;

  struct Options {
    // Objects of chunks that nobody has wanted a page of for so long go to the file; 0: never.
    int64_t writeback_age_ns = 0;
  };

  struct Stats {
    uint64_t compaction_rounds = 0;
    uint64_t compacted_objects = 0;
    uint64_t compacted_bytes = 0;    // given back by the pool
    uint64_t rewritten_objects = 0;  // in the file, out of sparse segments
  };

  Upkeep(PageStore& store, const Clock& clock, const Options& options)
      : store_(store), clock_(clock), options_(options) {}

  // Does all that there is to do. Returns early once `stop` is true.
  void Run(const ProcessesFn& processes, const std::atomic<bool>& stop);

  // Thread-safe.
  Stats stats() const;

 private:
  // Objects moved between two looks at the table.
  static constexpr size_t kBatch = 64;

  struct StoredChunk {
    std::shared_ptr<Process> process;
    uint64_t number;
    int64_t wanted_ns;  // when a page of it was last stored or wanted back
  };

  // Empties sparse spans if that gives back enough. What forked relatives share stays where it is.
  void CompactPool(const ProcessesFn& processes, const std::atomic<bool>& stop);
  void CompactChunk(Process& process, uint64_t chunk_number);

  // Moves objects from the pool to the file until a full pool accepts pages again: those of the
  // chunk least recently stored to or wanted from first, whole chunks, so that neighbours lie
  // together. Then what is older than the writeback age.
  void WriteBack(const ProcessesFn& processes, const std::atomic<bool>& stop);
  // False if the file takes no more now.
  bool WriteBackChunk(Process& process, uint64_t chunk_number);

  // Empties sparse segments of the file when it runs out of free ones.
  void CleanFile(const ProcessesFn& processes, const std::atomic<bool>& stop);
  void CleanChunk(Process& process, uint64_t chunk_number);

  PageStore& store_;
  const Clock& clock_;
  const Options options_;
  PageStore::Workspace workspace_;
  bool shrinking_ = false;
  std::atomic<uint64_t> compaction_rounds_{0};
  std::atomic<uint64_t> compacted_objects_{0};
  std::atomic<uint64_t> compacted_bytes_{0};
  std::atomic<uint64_t> rewritten_objects_{0};
};

}  // namespace zmem
