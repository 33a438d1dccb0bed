#include "libzmem/fault/disk_reads.h"

#include <algorithm>
#include <utility>

namespace zmem {
namespace {

bool IsFree(PageEntry entry) {
  return entry.state() == PageState::kOnDisk && !entry.Has(PageEntry::kRestoring);
}

// Flags aside: a fork may have marked one of them as shared.
bool IsSameObject(PageEntry a, PageEntry b) {
  return a.state() == b.state() && a.disk_object() == b.disk_object();
}

}  // namespace

std::optional<size_t> DiskReads::Begin(Address page, size_t neighbours, Reason reason) {
  std::shared_ptr<Chunk> chunk = process_.OwnChunk(page);
  if (chunk == nullptr) return std::nullopt;
  PageEntry entry = chunk->Load(PageInChunk(page));
  if (IsOnItsWay(page, entry)) return 0;
  if (reader_ == nullptr) {
    auto reader = process_.store.backing()->NewReader();
    if (!reader.ok()) return std::nullopt;
    reader_ = *std::move(reader);
  }
  auto free = std::find_if(reads_.begin(), reads_.end(), [](const Read& r) { return !r.used; });
  if (free == reads_.end()) return std::nullopt;
  Read& read = *free;
  read = {.reason = reason, .first = page, .begun_ns = clock_.now_ns()};
  read.gone = chunk->ages.Get(PageInChunk(page));
  read.pages = Claim(*chunk, page, neighbours + 1, read);
  if (read.pages == 0) return std::nullopt;  // it has changed
  DiskReadRequest request{.wanted = read.claimed[0].disk_object(),
                          .first = read.claimed[0].disk_object(),
                          .last = read.claimed[read.pages - 1].disk_object(),
                          .cookie = static_cast<uint64_t>(free - reads_.begin())};
  if (reader_->Begin(request) == DiskReader::BeginResult::kBusy) {
    LetGo(chunk.get(), read, 0);
    return std::nullopt;
  }
  read.used = true;
  ++in_flight_;
  return read.pages - 1;
}

bool DiskReads::IsOnItsWay(Address page, PageEntry entry) const {
  if (entry.state() != PageState::kOnDisk) return false;
  if (entry.Has(PageEntry::kRestoring)) return true;
  return std::any_of(reads_.begin(), reads_.end(), [&](const Read& read) {
    AddressRange range{read.first, read.first + read.pages * kPageBytes};
    return read.used && range.Contains(page) &&
           IsSameObject(read.claimed[(page - read.first) >> kPageShift], entry);
  });
}

size_t DiskReads::Claim(Chunk& chunk, Address first, size_t most, Read& read) {
  size_t start = PageInChunk(first);
  size_t limit = std::min({most, kMaxPages, kPagesPerChunk - start});
  size_t claimed = 0;
  for (; claimed < limit; ++claimed) {
    PageEntry entry = chunk.Load(start + claimed);
    if (!IsFree(entry)) break;
    if (claimed > 0 && !process_.store.backing()->CanReadTogether(read.claimed[0].disk_object(),
                                                                  entry.disk_object())) {
      break;
    }
    if (!chunk.Transition(start + claimed, entry, entry.With(PageEntry::kRestoring))) break;
    read.claimed[claimed] = entry;
  }
  return claimed;
}

void DiskReads::LetGo(Chunk* chunk, const Read& read, size_t index) {
  for (size_t i = index; i < read.pages; ++i) {
    PageEntry busy = read.claimed[i].With(PageEntry::kRestoring);
    Address page = read.first + i * kPageBytes;
    if (chunk != nullptr) chunk->Transition(PageInChunk(page), busy, read.claimed[i]);
    process_.uffd.Wake({page, page + kPageBytes});
  }
}

FillResult DiskReads::Complete() {
  FillResult last = FillResult::kDone;
  if (reader_ == nullptr || in_flight_ == 0) return last;
  reader_->Complete([&](const DiskReadResult& result) {
    Read& read = reads_[result.cookie];
    if (!read.holds_claims) ClaimAgain(read);
    FillResult filled = Finish(read, result);
    if (filled == FillResult::kGone) last = filled;
    read.used = false;
    --in_flight_;
  });
  return last;
}

FillResult DiskReads::Finish(const Read& read, const DiskReadResult& result) {
  // The chunk may have been dropped, or copied for a child and shared: only a claim that is still
  // there counts.
  std::shared_ptr<Chunk> chunk = process_.table.Find(ChunkNumber(read.first));
  if (chunk == nullptr || result.status == DiskReadStatus::kStale) {
    LetGo(chunk.get(), read, 0);
    return FillResult::kDone;
  }
  if (result.status != DiskReadStatus::kOk) {
    LetGo(chunk.get(), read, 1);
    OnFailure(*chunk, read, result.status);
    return FillResult::kDone;
  }
  FillResult filled = FillResult::kDone;
  bool is_apart = read.reason == Reason::kFault;
  size_t done = FillRun(*chunk, read, result, 0, is_apart ? 1 : 1 + AbsentBehind(read), &filled);
  if (done > 0) {
    failures_.erase(read.first);
    absent_since_ns_.erase(read.first);
    bool is_fault = read.reason == Reason::kFault || read.reason == Reason::kStream;
    if (is_fault) CountFault(*chunk, read);
    if (is_apart) done += FillRun(*chunk, read, result, 1, AbsentBehind(read), &filled);
    process_.counters.readahead_pages.fetch_add(done - 1, std::memory_order_relaxed);
  } else if (filled == FillResult::kDone) {
    // Nothing was tried: the page was dropped meanwhile, or its object does not decode.
    OnFailure(*chunk, read, DiskReadStatus::kDamaged);
    done = 1;
  }
  if (done == 0 && filled == FillResult::kAbsent) OnNothingMapped(*chunk, read);
  LetGo(chunk.get(), read, done);
  return filled;
}

void DiskReads::OnNothingMapped(Chunk& chunk, const Read& read) {
  int64_t now_ns = clock_.now_ns();
  int64_t since_ns = absent_since_ns_.try_emplace(read.first, now_ns).first->second;
  if (read.reason != Reason::kArrival && now_ns - since_ns < kAbsencePatienceNs) return;
  absent_since_ns_.erase(read.first);
  PageEntry busy = read.claimed[0].With(PageEntry::kRestoring);
  if (chunk.Transition(PageInChunk(read.first), busy, PageEntry())) {
    process_.Retire(read.claimed[0]);
  }
}

void DiskReads::CountFault(Chunk& chunk, const Read& read) {
  int64_t now_ns = clock_.now_ns();
  process_.counters.disk_faults.fetch_add(1, std::memory_order_relaxed);
  process_.CountFault(chunk, PageInChunk(read.first), read.claimed[0], read.gone, now_ns,
                      now_ns - read.begun_ns);
}

size_t DiskReads::AbsentBehind(const Read& read) const {
  size_t behind = read.pages - 1;
  if (behind == 0 || !process_.bound.load(std::memory_order_acquire)) return behind;
  std::array<bool, kMaxPages> absent;
  auto pages = std::span(absent).first(behind);
  if (process_.pagemap.FindAbsent(read.first + kPageBytes, pages) != 0) return 0;
  return static_cast<size_t>(std::find(pages.begin(), pages.end(), false) - pages.begin());
}

size_t DiskReads::FillRun(Chunk& chunk, const Read& read, const DiskReadResult& result,
                          size_t index, size_t most, FillResult* filled) {
  size_t start = PageInChunk(read.first);
  size_t ready = 0;
  for (; ready < most; ++ready) {
    size_t at = index + ready;
    PageEntry busy = read.claimed[at].With(PageEntry::kRestoring);
    if (chunk.Load(start + at) != busy) break;  // dropped meanwhile
    auto object = result.Record(read.claimed[at].disk_object());
    if (!object || !restorer_.DecodeObject(read.claimed[at].codec(), *object, ready)) break;
  }
  if (ready == 0) return 0;
  Address first = read.first + index * kPageBytes;
  size_t pages = 0;
  *filled = restorer_.FillBuffered(first, ready, &pages);
  for (size_t i = 0; i < ready; ++i) {
    bool dropped = i == pages && *filled == FillResult::kPresent;
    if (i >= pages && !dropped) break;
    PageEntry entry = read.claimed[index + i];
    PageEntry busy = entry.With(PageEntry::kRestoring);
    if (!chunk.Transition(start + index + i, busy, PageEntry())) continue;
    chunk.ages.SetEpoch(start + index + i, process_.epoch.load(std::memory_order_relaxed));
    if (dropped) {
      process_.Retire(entry);
    } else {
      process_.RetireClean(first + i * kPageBytes, entry, restorer_.buffer_page(i),
                           CleanPages::Return::kAlone);
    }
  }
  process_.TakeRoom(pages);
  return pages;
}

void DiskReads::OnFailure(Chunk& chunk, const Read& read, DiskReadStatus status) {
  size_t index = PageInChunk(read.first);
  PageEntry busy = read.claimed[0].With(PageEntry::kRestoring);
  bool is_ours = chunk.Transition(index, busy, read.claimed[0]);
  if (is_ours && (status == DiskReadStatus::kDamaged || ++failures_[read.first] >= kMostFailures)) {
    failures_.erase(read.first);
    // Lost for good: the program is told, and never given other bytes.
    if (restorer_.Poison(chunk, read.first) == FillResult::kDone) return;
  }
  process_.uffd.Wake({read.first, read.first + kPageBytes});
}

void DiskReads::ReleaseClaims() {
  for (Read& read : reads_) {
    if (!read.used || !read.holds_claims) continue;
    read.holds_claims = false;
    std::shared_ptr<Chunk> chunk = process_.table.Find(ChunkNumber(read.first));
    for (size_t i = 0; chunk != nullptr && i < read.pages; ++i) {
      PageEntry busy = read.claimed[i].With(PageEntry::kRestoring);
      chunk->Transition(PageInChunk(read.first) + i, busy, read.claimed[i]);
    }
  }
}

void DiskReads::ClaimAgain(Read& read) {
  // The chunk may have come to be shared with a child.
  std::shared_ptr<Chunk> chunk = process_.OwnChunk(read.first);
  for (size_t i = 0; chunk != nullptr && i < read.pages; ++i) {
    size_t page = PageInChunk(read.first) + i;
    PageEntry entry = chunk->Load(page);
    // What is another by now stays as it is; who waits there looks again.
    if (!IsFree(entry) || !IsSameObject(entry, read.claimed[i])) continue;
    if (chunk->Transition(page, entry, entry.With(PageEntry::kRestoring))) read.claimed[i] = entry;
  }
}

}  // namespace zmem
