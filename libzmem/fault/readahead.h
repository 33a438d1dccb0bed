// How far to read ahead: sequential faults grow a window, random ones shrink it to nothing. A few
// streams are told apart, so that two threads scanning side by side do not undo each other.
// Not thread-safe; no allocation.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

namespace zmem {

class Readahead {
 public:
  // Windows grow up to `max_pages`.
  explicit Readahead(size_t max_pages) : max_pages_(max_pages) {}

  // Says how many of the pages behind `page` (a page number) to bring back together with it.
  size_t OnFault(uint64_t page) {
    for (Stream& stream : streams_) {
      // A fault in the window itself is the stream too: the pages before it were there already.
      if (page < stream.next || page > stream.next + stream.window) continue;
      passed_ = {stream.first, stream.next};
      stream.first = page;
      stream.window = std::clamp(stream.window * 2, kFirstPages, max_pages_);
      stream.next = page + 1 + stream.window;
      stream.last_used = ++uses_;
      newest_ = &stream;
      return stream.window;
    }
    Start(page + 1);
    newest_->first = page;
    return 0;
  }

  // Page numbers [first, end).
  struct Pages {
    uint64_t first = 0;
    uint64_t end = 0;
  };
  // Says what to bring next of the stream that has reached `page`, which came before it was asked
  // for: so much that a whole window lies behind it. Nothing if it came with no stream.
  Pages OnReached(uint64_t page) {
    for (Stream& stream : streams_) {
      if (page <= stream.first || page >= stream.next) continue;
      passed_ = {stream.first, page};
      stream.first = page;
      stream.window = std::min(stream.window * 2, max_pages_);
      Pages more{stream.next, std::max(stream.next, page + 1 + stream.window)};
      stream.next = more.end;
      stream.last_used = ++uses_;
      newest_ = &stream;
      return more;
    }
    return {};
  }

  // What the stream of the last fault had brought with the one before it. Only if OnFault or
  // OnReached said that there is a stream.
  Pages passed() const { return passed_; }

  // Corrects what OnFault said last: so many pages come with that fault's, and the stream goes on
  // behind them.
  void Brought(uint64_t page, size_t pages) { newest_->next = page + 1 + pages; }

  // What was filled in up to `next` (a page number) without being asked for: a fault there goes on
  // with the stream.
  void Start(uint64_t next) {
    Stream& oldest = *std::min_element(
        streams_.begin(), streams_.end(),
        [](const Stream& a, const Stream& b) { return a.last_used < b.last_used; });
    oldest = {.first = next, .next = next, .window = 0, .last_used = ++uses_};
    newest_ = &oldest;
  }

 private:
  static constexpr size_t kFirstPages = 4;

  struct Stream {
    uint64_t first = 0;  // its last fault
    uint64_t next = 0;   // the page that continues it
    size_t window = 0;
    uint64_t last_used = 0;
  };
  const size_t max_pages_;
  std::array<Stream, 4> streams_{};
  Stream* newest_ = streams_.data();
  Pages passed_;
  uint64_t uses_ = 0;
};

}  // namespace zmem
