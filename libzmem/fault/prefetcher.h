// Brings back what the program will need (ZMEM_WILLNEED, ZMEM_KEEP; store/advice.h) in slices
// between faults, from the pool and from the disk. Nobody waits for it: what does not fit into the
// program's memory cgroup or its limit, and what cannot be filled, is passed over.
// Belongs to the fault thread, which holds the gate.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "libzmem/fault/disk_reads.h"
#include "libzmem/fault/page_restorer.h"
#include "libzmem/store/process.h"

namespace zmem {

class Prefetcher {
 public:
  Prefetcher(Process& process, PageRestorer& restorer, DiskReads& disk)
      : process_(process), restorer_(restorer), disk_(disk) {}

  // Whether there is something for Slice. Thread-safe.
  bool pending() const {
    return under_way_.load(std::memory_order_acquire) || process_.advice.has_wanted();
  }
  // Brings back the next run of pages, at most kSlicePages. False if nothing can be filled just
  // now (the layout is changing, or the disk has enough to do): try again later. `crew` may help;
  // null: nobody does.
  bool Slice(Crew* crew);

 private:
  // Tries of the same page without success: a changing layout settles within microseconds as a
  // rule, a disk is busy for milliseconds, and the caller pauses for one between later tries.
  static constexpr int kPatience = 1000;
  // Chunks passed over in one slice that have nothing out: a lock and 512 loads each.
  static constexpr size_t kMostSearched = 64;

  // Takes up the next range that is wanted.
  void Begin();
  void End();
  // Moves on to a page of the range that is out and that nobody brings back already. False if none
  // was found in this slice.
  bool FindNext();
  bool RestoreAtCursor(Crew* crew);
  bool ReadAtCursor();
  // How many pages from the cursor on, up to `most`, are absent: neither there nor a guard.
  size_t AbsentRun(size_t most) const;
  // False while patience lasts; then passes over the page.
  bool Retry();
  Address cursor() const;

  Process& process_;
  PageRestorer& restorer_;
  DiskReads& disk_;
  std::atomic<bool> under_way_{false};
  AddressRange range_;
  int64_t left_pages_ = 0;        // that the program's limit still takes
  std::vector<uint64_t> chunks_;  // of the range
  size_t chunk_ = 0;              // index into chunks_
  size_t page_ = 0;               // in that chunk
  int tries_ = 0;
};

}  // namespace zmem
