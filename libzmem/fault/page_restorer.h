// Puts pages back into the program: claims their entries, decodes them into one buffer, fills them
// in with one call, and lets go of what was stored.
// Belongs to the fault thread, the only one that ever fills a page. No allocation but once, no
// logging.
#pragma once

#include <array>
#include <cstddef>
#include <memory>

#include "libzmem/fault/readahead.h"
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

  static constexpr size_t kBufferPages = Readahead::kMaxPages;

 private:
  // Claims and decodes up to `max_pages` pages from `first`; claimed_ receives what their entries
  // were. `damaged` becomes true if the page behind them cannot be decoded.
  size_t ClaimRun(Chunk& chunk, Address first, size_t max_pages, bool* damaged);

  struct Tools;
  // Of the calling thread, which may serve many processes that never want a page. Made when the
  // first one is wanted.
  static Tools& tools();

  Process& process_;
  std::array<PageEntry, kBufferPages> claimed_;
};

}  // namespace zmem
