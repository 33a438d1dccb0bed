// Pages whose bytes are in the backing file, on their way back: a fault on one begins a read, and
// when that is over the page is filled, with those of its neighbours that lie beside it in the
// file. Nothing here waits for the disk. While a page is read its entry is claimed (kRestoring), as
// for every page that is put back, so nobody else changes it; a page that was not filled in the end
// is woken and found missing again. Belongs to the fault thread, which holds the gate.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "absl/container/flat_hash_map.h"
#include "libzmem/base/clock.h"
#include "libzmem/fault/page_restorer.h"
#include "libzmem/store/process.h"

namespace zmem {

class DiskReads {
 public:
  // Pages that one read brings back at most.
  static constexpr size_t kMaxPages = 16;

  DiskReads(Process& process, PageRestorer& restorer, const Clock& clock)
      : process_(process), restorer_(restorer), clock_(clock) {}

  // Readable when there is something for Complete; -1 while nothing was ever read.
  int fd() const { return reader_ == nullptr ? -1 : reader_->fd(); }
  size_t in_flight() const { return in_flight_; }
  // Whether Begin has to wait for one of those to end.
  bool full() const { return in_flight_ == kMaxReads; }

  enum class Reason : uint8_t {
    kFault,    // a thread waits for the page, and gets it before its neighbours
    kStream,   // the same, but it will want the neighbours next: they come together
    kDrain,    // nobody waits
    kArrival,  // nobody waits for what a mapping took along; it may have been unmapped since
  };

  // Begins to bring `page` back, whose entry is kOnDisk, with up to `neighbours` pages behind it.
  // Returns how many of them come with it; none if it is on its way already. Nullopt: too many are,
  // it is not on disk any more, or there is no memory; look it up afresh later.
  std::optional<size_t> Begin(Address page, size_t neighbours, Reason reason);

  // Fills the pages of the reads that are over. kGone when the address space is.
  FillResult Complete();

  // Lets go of all claims, before entries are copied or moved (fork, mremap). The reads go on: when
  // one is over, the pages whose entries are still the same are claimed again.
  void ReleaseClaims();

 private:
  static constexpr size_t kMaxReads = DiskReader::kMostReads;
  // Times that a page is tried again which the disk fails to give, before it is given up.
  static constexpr int kMostFailures = 5;
  static constexpr int64_t kAbsencePatienceNs = 2'000'000'000;

  struct Read {
    bool used = false;
    Reason reason = Reason::kFault;
    bool holds_claims = true;
    Address first = 0;
    size_t pages = 0;
    int64_t begun_ns = 0;
    PageAges::Age gone;  // of the first
    std::array<PageEntry, kMaxPages> claimed{};
  };

  // Whether a read that is under way will fill `page`, whose entry this is.
  bool IsOnItsWay(Address page, PageEntry entry) const;
  void ClaimAgain(Read& read);
  // Claims a run of pages from `first` on that one read can cover. Returns how many.
  size_t Claim(Chunk& chunk, Address first, size_t most, Read& read);
  // Those of the claimed pages of `read`, from its `index`-th on, that are still ours go back to
  // what they were, and who waits for one looks again.
  void LetGo(Chunk* chunk, const Read& read, size_t index);
  FillResult Finish(const Read& read, const DiskReadResult& result);
  void CountFault(Chunk& chunk, const Read& read);
  // How many of the pages behind the first are absent still. Nobody waits for them: a page that is
  // there, or a guard, must not be undone (FACTS 11).
  size_t AbsentBehind(const Read& read) const;
  // Fills the run of pages at `index` for which the record is right. Returns its length.
  size_t FillRun(Chunk& chunk, const Read& read, const DiskReadResult& result, size_t index,
                 size_t most, FillResult* filled);
  // The kernel says that the first page of `read` is in no mapping of ours. That may pass, while
  // the layout changes; if it does not, its unmapping was never told, and it is given up.
  void OnNothingMapped(Chunk& chunk, const Read& read);
  // The disk did not give the first page of `read`, or not its bytes.
  void OnFailure(Chunk& chunk, const Read& read, DiskReadStatus status);

  Process& process_;
  PageRestorer& restorer_;
  const Clock& clock_;
  std::unique_ptr<DiskReader> reader_;
  std::array<Read, kMaxReads> reads_;
  size_t in_flight_ = 0;
  // By page; empty but for a disk that fails.
  absl::flat_hash_map<Address, int> failures_;
  // By page; since when nothing is mapped there.
  absl::flat_hash_map<Address, int64_t> absent_since_ns_;
};

}  // namespace zmem
