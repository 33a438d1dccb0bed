// Applies what a program does to its address space to the page table: fork, mremap, discard, unmap.
// One function per event. Belongs to the fault thread, which holds the gate; events are applied in
// the order in which the kernel sent them, before the faults read with them.
#pragma once

#include <linux/userfaultfd.h>

#include <memory>
#include <vector>

#include "libzmem/fault/disk_reads.h"
#include "libzmem/fault/page_restorer.h"
#include "libzmem/store/process.h"

namespace zmem {

class LayoutEvents {
 public:
  LayoutEvents(Process& process, PageRestorer& restorer, DiskReads& disk)
      : process_(process), restorer_(restorer), disk_(disk) {}

  // The child's process, served by nobody yet: its pages are the parent's, shared.
  std::shared_ptr<Process> OnFork(UniqueFd child_uffd);
  // Pages keep their bytes under new addresses, and come back there at once: see SettleArrivals.
  void OnRemap(Address from, Address to, uint64_t bytes);
  // madvise: what is stored is dropped; what is present will be, but may not be yet, so that it
  // must not be taken before it was seen to be gone (FACTS 8).
  void OnRemove(AddressRange range, int64_t now_ns);
  // The range is gone; its addresses may be in use again already, for something unregistered.
  void OnUnmap(AddressRange range);

  // Fills up to `max_pages` pages of the ranges that OnRemap brought. The kernel sends the events
  // of two threads' calls in no fixed order, so an unmapping of the range may be older than its
  // arrival or newer; a page that is back in the program needs no answer to that, and one that
  // cannot be filled because nothing is mapped there was unmapped. False if it has to be tried
  // again later.
  bool SettleArrivals(size_t max_pages);

 private:
  // Calls visit(chunk, chunk_number, first page, end page) for each chunk of the table in `range`,
  // made the process's own.
  template <typename Visit>
  void ForEachChunk(AddressRange range, Visit visit);
  void Drop(Chunk& chunk, size_t page, PageEntry replacement);
  // The pages' registration ended with their mapping.
  void Forget(uint64_t chunk_number, size_t first, size_t end);
  // Lets go of what is stored of the range, but for the pages in `spared`.
  void DropRange(AddressRange range, const std::vector<AddressRange>& spared);
  // The parts of `unmapped` to which a mapping was moved after the unmapping that is being told.
  std::vector<AddressRange> NewerThan(AddressRange unmapped) const;

  Process& process_;
  PageRestorer& restorer_;
  DiskReads& disk_;
};

}  // namespace zmem
