// The staging area, and what zmemd orders to be done with pages: moved there and back, dropped from
// there, or made the program's own. The messages are described in wire/messages.h.
// Belongs to the agent's thread; calls nothing of libc.
#pragma once

#include <cstddef>

#include "libzmem/wire/kept_memory.h"
#include "libzmem/wire/messages.h"
#include "preload/bell.h"

namespace zmem {

class Staging {
 public:
  // `bell` is told whether a slot holds a page; `kept` says what may not be moved.
  Staging(Bell& bell, wire::KeptMemory& kept) : bell_(bell), kept_(kept) {}

  // As large as the program's limits allow. False if they allow none.
  bool Map();
  void Unmap();
  AddressRange range() const { return range_; }

  // Carry an order out as far as the kernel does, and say in `report`, which is empty but for its
  // header, what came of it. False for an order that makes no sense, such as one of a slab that is
  // none.
  bool Move(const wire::Move& move, int uffd, wire::Report* report);
  bool Discard(const wire::Discard& discard, wire::Report* report);
  void Populate(const wire::Populate& populate, wire::Report* report);

 private:
  static constexpr size_t kMostSlabs = 64;

  void Unlock();
  // Whether `slab` is one of the area's.
  bool IsSlab(Address slab) const;
  // Moves what of `part` it can; adds that to `done` and the rest to the report's counts. False if
  // the layout is changing: what was to come after it waits for another time.
  bool MoveRuns(const wire::MovePart& part, int uffd, wire::PageSet* done, wire::Report* report);
  // madvise(advice) on each run of `pages`, counted from `start`; adds those that it worked for to
  // `done`.
  void Advise(Address start, const wire::PageSet& pages, int advice, wire::PageSet* done,
              wire::Report* report);
  // Keeps account of the slots that hold a page; tells the bell when all is noted.
  void NoteSlots(Address slab, const wire::PageSet& pages, bool hold);
  void TellStaged();

  Bell& bell_;
  wire::KeptMemory& kept_;
  AddressRange range_{};
  wire::PageSet occupied_[kMostSlabs] = {};  // slots that hold a page, by slab
};

}  // namespace zmem
