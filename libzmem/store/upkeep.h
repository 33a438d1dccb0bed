// Moves what is stored to better places while programs run: out of sparse spans of the pool, from
// a full pool to the backing file, out of sparse segments of the file; and compresses what nobody
// has wanted for long harder.
// One thread runs it. Programs' faults never wait for it but for the gate, which is held for a few
// entries at a time, and never across I/O.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
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
    // Objects of chunks that nobody has wanted a page of for so long are compressed with zstd, if
    // that takes less room; 0: never.
    int64_t recompress_age_ns = 0;
    // CPU time for that, of one CPU.
    unsigned recompress_cpu_percent = 5;
    // Objects of pages that came back are kept so long at least, and twice as long at most.
    int64_t clean_pages_age_ns = 60'000'000'000;
  };

  struct Stats {
    uint64_t compaction_rounds = 0;
    uint64_t compacted_objects = 0;
    uint64_t compacted_bytes = 0;    // given back by the pool
    uint64_t rewritten_objects = 0;  // in the file, out of sparse segments
    uint64_t recompressed_objects = 0;
    uint64_t recompressed_bytes = 0;  // room that they take less
    uint64_t recompress_cpu_ns = 0;
  };

  // `cpu_clock`: CPU time of the thread that runs it.
  Upkeep(PageStore& store, const Clock& clock, const Clock& cpu_clock, const Options& options)
      : store_(store),
        clock_(clock),
        cpu_clock_(cpu_clock),
        options_(options),
        clean_aged_ns_(clock.now_ns()),
        recompress_paid_ns_(clock.now_ns()) {}

  // Does all that there is to do. Returns early once `stop` is true. True if there will be more to
  // do very soon: the file was out of free segments, and others will want those that were freed.
  bool Run(const ProcessesFn& processes, const std::atomic<bool>& stop);

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

  // Gives up spare objects of pages that came back: the old ones, or all if the pool is to shrink.
  void AgeCleanPages(const ProcessesFn& processes);

  // Compresses idle objects harder, chunk by chunk, within the CPU time that has come to be.
  void Recompress(const ProcessesFn& processes, const std::atomic<bool>& stop);
  void RecompressChunk(Process& process, uint64_t chunk_number);
  struct Recompression;
  // Copies objects of the chunk's pages from `*page` on, which receives where to go on.
  std::span<Recompression> CopyObjects(Process& process, uint64_t chunk_number, size_t* page,
                                       std::span<Recompression> batch);
  void PublishRecompressed(Process& process, uint64_t chunk_number, std::span<Recompression> batch);

  // Moves objects from the pool to the file until a full pool accepts pages again: those of the
  // chunk least recently stored to or wanted from first, whole chunks, so that neighbours lie
  // together. Then what is older than the writeback age.
  void WriteBack(const ProcessesFn& processes, const std::atomic<bool>& stop);
  // False if the file takes no more now. Waits for a busy one, not holding the gate.
  bool WriteBackChunk(Process& process, uint64_t chunk_number);

  // Empties sparse segments of the file when it runs out of free ones. True if it did.
  bool CleanFile(const ProcessesFn& processes, const std::atomic<bool>& stop);
  void CleanChunk(Process& process, uint64_t chunk_number);

  PageStore& store_;
  const Clock& clock_;
  const Clock& cpu_clock_;
  const Options options_;
  PageStore::Workspace workspace_;
  bool shrinking_ = false;
  uint64_t last_held_bytes_ = 0;  // at the last look whether to compact
  int64_t clean_aged_ns_;
  int64_t recompress_paid_ns_;            // up to when the allowance was paid
  int64_t recompress_credit_ns_ = 0;      // CPU time that may be spent
  int64_t recompress_idle_until_ns_ = 0;  // nothing was found: when to look again
  std::atomic<uint64_t> compaction_rounds_{0};
  std::atomic<uint64_t> compacted_objects_{0};
  std::atomic<uint64_t> compacted_bytes_{0};
  std::atomic<uint64_t> rewritten_objects_{0};
  std::atomic<uint64_t> recompressed_objects_{0};
  std::atomic<uint64_t> recompressed_bytes_{0};
  std::atomic<uint64_t> recompress_cpu_ns_{0};
};

}  // namespace zmem
