// Puts pages back into the program: claims their entries, decodes them into one buffer, fills them
// in with one call, and lets go of what was stored.
// Belongs to the fault thread; nothing is ever filled but by its calls, in it and in the threads
// that help it meanwhile. No allocation but once, no logging.
#pragma once

#include <array>
#include <cstddef>
#include <memory>

#include "libzmem/base/crew.h"
#include "libzmem/store/process.h"

namespace zmem {

class PageRestorer {
 public:
  explicit PageRestorer(Process& process);

  // Brings back the run of pages that begins at `first` and has bytes with us, at most `max_pages`
  // (<= kBufferPages) and none beyond its chunk, and wakes their waiters. The caller holds the
  // gate. `restored` receives how many came back. The result is kDone if that was the whole run,
  // also an empty one, or the part of it that lies in one mapping; kPresent if a page turned out to
  // be there: its entry was dropped, because what the program has wins. After any other result the
  // entries of what was not restored are as before.
  FillResult RestoreRun(Address first, size_t max_pages, size_t* restored);
  // The same for a part of a stream, but for waiters, who sleep on until the caller wakes them: one
  // that ran beside the work would hold it up. The threads of `crew` help; null: the caller alone.
  // If a part of the run could not be restored, others may have been, behind it too: the result is
  // that of the first part that could not.
  FillResult RestoreStream(Address first, size_t max_pages, Crew* crew, size_t* restored);

  // For pages whose objects come from the disk: decodes one into place `index` of the buffer, false
  // if it is damaged; and fills the first `pages` places of it in at `first`, as RestoreRun does.
  bool DecodeObject(CodecId codec, std::span<const std::byte> object, size_t index);
  FillResult FillBuffered(Address first, size_t pages, size_t* filled);
  // What is in that place of the buffer.
  std::span<std::byte, kPageBytes> buffer_page(size_t index);

  // Turns staged pages of `chunk` into stored ones, uncompressed, and the entries with them: what
  // a fork or a move of the mapping needs, which would tear a page from its slot. Pages whose slot
  // cannot be read any more, because the program has ended meanwhile, become kLost.
  void StoreStagedPages(Chunk& chunk);

  // Makes the page at `page`, whose bytes cannot be had, raise SIGBUS when touched, and drops its
  // entry: the alternative is wrong bytes. kGone if that is because its program has ended.
  FillResult Poison(Chunk& chunk, Address page);

  static constexpr size_t kBufferPages = 128;
  // What is brought at a time of what nobody waits for: a fault meanwhile waits for all of it.
  static constexpr size_t kSlicePages = 64;

  // Whether the calling thread has a buffer, as it has once it has brought a page back; and gives
  // it up until the next one comes.
  static bool has_buffer();
  static void ReleaseBuffer();

 private:
  // What one call fills in, of a run that was claimed: pages [first, first + pages) of it.
  struct Part {
    size_t first = 0;
    size_t pages = 0;
    size_t filled = 0;  // of them, from the first on
    FillResult result = FillResult::kDone;
    bool damaged = false;  // decoding stopped at a page that cannot be
  };
  // What one thread takes at a time: the fewer pages are left, the less, so that all end together.
  static constexpr size_t kLargestPart = 16;
  static constexpr size_t kSmallestPart = 2;
  static constexpr size_t kMaxParts = kBufferPages / kSmallestPart;
  using Parts = std::array<Part, kMaxParts>;
  // Divides `pages` pages among so many threads. Returns the number of parts.
  static size_t Divide(size_t pages, size_t threads, Parts& parts);

  FillResult Restore(Address first, size_t max_pages, Crew* crew, CleanPages::Return how,
                     size_t* restored);
  // Claims up to `max_pages` pages from `first`; claimed_ receives what their entries were.
  size_t ClaimRun(Chunk& chunk, Address first, size_t max_pages);
  // Decodes the part of the run at `run`, each page into its place of `buffer`, and fills it in.
  void RestorePart(Address run, std::byte* buffer, Userfaultfd::Waiters waiters, Part& part);
  // Lets go of the entries of what was filled in, and gives back the others.
  void SettlePart(Chunk& chunk, Address run, const std::byte* buffer, const Part& part,
                  CleanPages::Return how);
  FillResult Fill(Address first, const std::byte* bytes, size_t pages, size_t* filled,
                  Userfaultfd::Waiters waiters);

  struct Tools;
  // Of the calling thread, which may serve many processes that never want a page. Made when the
  // first one is wanted.
  static Tools& tools();
  static std::unique_ptr<Tools>& own_tools();

  Process& process_;
  std::array<PageEntry, kBufferPages> claimed_;
};

}  // namespace zmem
