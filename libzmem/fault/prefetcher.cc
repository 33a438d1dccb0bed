#include "libzmem/fault/prefetcher.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "libzmem/base/sys.h"

namespace zmem {
namespace {

// Left free in the program's memory cgroup, for faults: more than is made at once.
constexpr int64_t kSpareRoomPages = 4096;

// Pages that the program may still have before it reaches `limit_bytes` of resident memory.
int64_t PagesBelow(uint64_t limit_bytes, pid_t pid) {
  if (limit_bytes == 0) return std::numeric_limits<int64_t>::max();
  std::string text;
  unsigned long long total = 0;
  unsigned long long resident = 0;
  if (!sys::ReadFile(absl::StrCat("/proc/", pid, "/statm"), text).ok()) return 0;
  if (std::sscanf(text.c_str(), "%llu %llu", &total, &resident) != 2) return 0;
  return static_cast<int64_t>(limit_bytes / kPageBytes) - static_cast<int64_t>(resident);
}

}  // namespace

Address Prefetcher::cursor() const { return (chunks_[chunk_] << kChunkShift) + page_ * kPageBytes; }

void Prefetcher::Begin() {
  std::optional<AddressRange> wanted = process_.advice.TakeWanted();
  if (!wanted) return;
  range_ = *wanted;
  chunks_ = process_.table.NumbersIn(range_);
  chunk_ = 0;
  page_ = 0;
  tries_ = 0;
  left_pages_ = PagesBelow(process_.limit_bytes.load(std::memory_order_relaxed), process_.pid);
  process_.RefreshRoom();
  under_way_.store(true, std::memory_order_release);
}

void Prefetcher::End() {
  chunks_.clear();
  under_way_.store(false, std::memory_order_release);
}

bool Prefetcher::Slice(Crew* crew) {
  if (!under_way_.load(std::memory_order_relaxed)) Begin();
  if (!under_way_.load(std::memory_order_relaxed)) return true;
  if (!FindNext()) return true;
  constexpr auto kMost = static_cast<int64_t>(PageRestorer::kSlicePages);
  int64_t room = process_.room_pages.load(std::memory_order_relaxed) - kSpareRoomPages;
  if (std::min(room, left_pages_) < kMost) {
    End();  // the rest does not fit
    return true;
  }
  bool on_disk = process_.table.Find(chunks_[chunk_])->Load(page_).state() == PageState::kOnDisk;
  return on_disk ? ReadAtCursor() : RestoreAtCursor(crew);
}

bool Prefetcher::FindNext() {
  for (size_t searched = 0; chunk_ < chunks_.size(); ++chunk_, page_ = 0) {
    if (++searched > kMostSearched) return false;
    std::shared_ptr<Chunk> chunk = process_.table.Find(chunks_[chunk_]);
    for (; chunk != nullptr && page_ < kPagesPerChunk; ++page_) {
      PageEntry entry = chunk->Load(page_);
      bool is_out = entry.state() == PageState::kStaged || entry.stored();
      if (is_out && !entry.Has(PageEntry::kRestoring) && range_.Contains(cursor())) return true;
    }
  }
  End();
  return false;
}

bool Prefetcher::Retry() {
  if (++tries_ < kPatience) return false;
  tries_ = 0;
  ++page_;
  return true;
}

size_t Prefetcher::AbsentRun(size_t most) const {
  std::array<bool, PageRestorer::kSlicePages> absent;
  if (process_.pagemap.FindAbsent(cursor(), std::span(absent).first(most)) != 0) return 0;
  auto end = absent.begin() + static_cast<ptrdiff_t>(most);
  return static_cast<size_t>(std::find(absent.begin(), end, false) - absent.begin());
}

bool Prefetcher::RestoreAtCursor(Crew* crew) {
  size_t most = std::min({PageRestorer::kSlicePages, kPagesPerChunk - page_,
                          size_t{(range_.end - cursor()) >> kPageShift}});
  // Nobody waits for these: filling one must not undo a guard (FACTS 11).
  most = AbsentRun(most);
  if (most == 0) {
    ++page_;
    return true;
  }
  size_t restored = 0;
  FillResult result = restorer_.RestoreStream(cursor(), most, crew, &restored);
  process_.uffd.Wake({cursor(), cursor() + most * kPageBytes});
  process_.TakeRoom(restored);
  left_pages_ -= static_cast<int64_t>(restored);
  process_.counters.readahead_pages.fetch_add(restored, std::memory_order_relaxed);
  if (restored > 0) {
    tries_ = 0;
    return true;  // FindNext passes over what has come, and finds what has not between it
  }
  switch (result) {
    case FillResult::kChanging:
      return Retry();
    case FillResult::kNoMemory:
      End();
      return true;
    case FillResult::kGone:
      End();
      process_.gone.store(true, std::memory_order_release);
      return true;
    case FillResult::kDone:
    case FillResult::kPresent:
    case FillResult::kAbsent:
    case FillResult::kFailed:
      ++page_;
      return true;
  }
  return true;
}

bool Prefetcher::ReadAtCursor() {
  size_t most = std::min({DiskReads::kMaxPages, kPagesPerChunk - page_,
                          size_t{(range_.end - cursor()) >> kPageShift}});
  most = AbsentRun(most);
  if (most == 0) {
    ++page_;
    return true;
  }
  auto begun = disk_.Begin(cursor(), most - 1, DiskReads::Reason::kDrain);
  if (!begun) return Retry();
  tries_ = 0;
  page_ += 1 + *begun;
  left_pages_ -= static_cast<int64_t>(1 + *begun);
  return true;
}

}  // namespace zmem
