#include "libzmem/fault/page_restorer.h"

#include <algorithm>

#include "libzmem/base/check.h"

namespace zmem {
namespace {

// Whether its page can be had without waiting for the disk.
bool HasBytes(PageEntry entry) {
  return entry.state() == PageState::kStaged ||
         (entry.stored() && entry.state() != PageState::kOnDisk);
}

// For the owner of kRestoring, whom nobody can forestall.
void Set(Chunk& chunk, size_t page, PageEntry from, PageEntry to) {
  bool swapped = chunk.Transition(page, from, to);
  ZMEM_CHECK(swapped);
}

}  // namespace

PageRestorer::PageRestorer(Process& process) : process_(process) {}

struct alignas(kPageBytes) PageRestorer::Tools {
  std::array<std::byte, kBufferPages * kPageBytes> bytes;
  PageStore::Workspace workspace;
};

std::unique_ptr<PageRestorer::Tools>& PageRestorer::own_tools() {
  static thread_local std::unique_ptr<Tools> tools;
  return tools;
}

PageRestorer::Tools& PageRestorer::tools() {
  std::unique_ptr<Tools>& own = own_tools();
  if (own == nullptr) own = std::make_unique_for_overwrite<Tools>();
  return *own;
}

bool PageRestorer::has_buffer() { return own_tools() != nullptr; }

void PageRestorer::ReleaseBuffer() { own_tools().reset(); }

std::span<std::byte, kPageBytes> PageRestorer::buffer_page(size_t index) {
  return std::span<std::byte, kPageBytes>(tools().bytes.data() + index * kPageBytes, kPageBytes);
}

size_t PageRestorer::ClaimRun(Chunk& chunk, Address first, size_t max_pages) {
  size_t start = PageInChunk(first);
  size_t limit = std::min({max_pages, kBufferPages, kPagesPerChunk - start});
  size_t claimed = 0;
  while (claimed < limit) {
    PageEntry entry = chunk.Load(start + claimed);
    // The reclaimer may publish a staged page's stored form meanwhile: then that is claimed.
    bool swapped = false;
    while (HasBytes(entry) && !swapped) {
      swapped = chunk.Transition(start + claimed, entry, entry.With(PageEntry::kRestoring));
    }
    if (!swapped) break;
    claimed_[claimed++] = entry;
  }
  return claimed;
}

FillResult PageRestorer::RestoreRun(Address first, size_t max_pages, size_t* restored) {
  return Restore(first, max_pages, nullptr, CleanPages::Return::kAlone, restored);
}

FillResult PageRestorer::RestoreStream(Address first, size_t max_pages, Crew* crew,
                                       size_t* restored) {
  return Restore(first, max_pages, crew, CleanPages::Return::kInStream, restored);
}

FillResult PageRestorer::Restore(Address first, size_t max_pages, Crew* crew,
                                 CleanPages::Return how, size_t* restored) {
  *restored = 0;
  std::shared_ptr<Chunk> chunk = process_.OwnChunk(first);
  if (chunk == nullptr) {
    bool exists = process_.table.Find(ChunkNumber(first)) != nullptr;
    return exists ? FillResult::kNoMemory : FillResult::kDone;
  }
  size_t claimed = ClaimRun(*chunk, first, max_pages);
  if (claimed == 0) return FillResult::kDone;

  using Waiters = Userfaultfd::Waiters;
  Waiters waiters = how == CleanPages::Return::kInStream ? Waiters::kLeave : Waiters::kWake;
  Parts parts;
  size_t count = Divide(claimed, crew == nullptr ? 1 : crew->threads(), parts);
  std::byte* bytes = tools().bytes.data();
  auto restore = [&](size_t i) {
    RestorePart(first, bytes, waiters, parts[i]);
    SettlePart(*chunk, first, bytes, parts[i], how);
  };
  if (count == 1) {
    restore(0);
  } else {
    crew->Run(count, restore);
  }

  FillResult result = FillResult::kDone;
  for (size_t i = 0; i < count; ++i) {
    *restored += parts[i].filled;
    if (result == FillResult::kDone) result = parts[i].result;
  }
  if (parts[0].damaged && parts[0].filled == 0) return Poison(*chunk, first);
  return result;
}

size_t PageRestorer::Divide(size_t pages, size_t threads, Parts& parts) {
  size_t count = 0;
  for (size_t first = 0; first < pages; ++count) {
    size_t left = pages - first;
    size_t share = std::clamp(left / (2 * threads), kSmallestPart, kLargestPart);
    parts[count] = {.first = first, .pages = threads == 1 ? left : std::min(share, left)};
    first += parts[count].pages;
  }
  return count;
}

void PageRestorer::RestorePart(Address run, std::byte* buffer, Userfaultfd::Waiters waiters,
                               Part& part) {
  std::byte* bytes = buffer + part.first * kPageBytes;
  size_t decoded = 0;
  while (decoded < part.pages && !part.damaged) {
    std::span<std::byte, kPageBytes> page(bytes + decoded * kPageBytes, kPageBytes);
    part.damaged = !process_.Decode(claimed_[part.first + decoded], page, tools().workspace);
    if (!part.damaged) ++decoded;
  }
  if (decoded == 0) return;
  part.result = Fill(run + part.first * kPageBytes, bytes, decoded, &part.filled, waiters);
}

void PageRestorer::SettlePart(Chunk& chunk, Address run, const std::byte* buffer, const Part& part,
                              CleanPages::Return how) {
  size_t start = PageInChunk(run);
  for (size_t i = part.first; i < part.first + part.pages; ++i) {
    PageEntry busy = claimed_[i].With(PageEntry::kRestoring);
    size_t filled_end = part.first + part.filled;
    if (i < filled_end) {
      Set(chunk, start + i, busy, PageEntry());
      chunk.ages.SetEpoch(start + i, process_.epoch.load(std::memory_order_relaxed));
      std::span<const std::byte, kPageBytes> bytes(buffer + i * kPageBytes, kPageBytes);
      process_.RetireClean(run + i * kPageBytes, claimed_[i], bytes, how);
    } else if (i == filled_end && part.result == FillResult::kPresent) {
      Set(chunk, start + i, busy, PageEntry());
      process_.Retire(claimed_[i]);
    } else {
      Set(chunk, start + i, busy, claimed_[i]);
    }
  }
}

bool PageRestorer::DecodeObject(CodecId codec, std::span<const std::byte> object, size_t index) {
  return process_.store.Decode(codec, object, buffer_page(index), tools().workspace);
}

FillResult PageRestorer::FillBuffered(Address first, size_t pages, size_t* filled) {
  return Fill(first, tools().bytes.data(), pages, filled, Userfaultfd::Waiters::kWake);
}

FillResult PageRestorer::Fill(Address first, const std::byte* bytes, size_t pages, size_t* filled,
                              Userfaultfd::Waiters waiters) {
  *filled = 0;
  FillResult result = process_.uffd.Copy(first, bytes, pages, filled, waiters);
  // The kernel fills nothing of a range that reaches into another mapping.
  for (size_t part = pages / 2; result == FillResult::kAbsent && part > 0; part /= 2) {
    result = process_.uffd.Copy(first, bytes, part, filled, waiters);
  }
  if (result == FillResult::kPresent) {
    Address present = first + *filled * kPageBytes;
    process_.uffd.Wake({present, present + kPageBytes});
  }
  return result;
}

FillResult PageRestorer::Poison(Chunk& chunk, Address page) {
  size_t index = PageInChunk(page);
  PageEntry entry = chunk.Load(index);
  if (entry.state() == PageState::kStaged) {
    // Its slot cannot be read: because the program has ended, or for want of memory, which passes.
    bool gone = process_.FillTokenPage() == FillResult::kGone;
    return gone ? FillResult::kGone : FillResult::kFailed;
  }
  FillResult result = process_.uffd.Poison(page);
  if (result != FillResult::kDone) return result;
  if (chunk.Transition(index, entry, PageEntry())) process_.Retire(entry);
  process_.counters.poisoned_pages.fetch_add(1, std::memory_order_relaxed);
  return FillResult::kDone;
}

void PageRestorer::StoreStagedPages(Chunk& chunk) {
  for (size_t page = 0; page < kPagesPerChunk; ++page) {
    PageEntry entry = chunk.Load(page);
    while (entry.state() == PageState::kStaged) {
      PageEntry busy = entry.With(PageEntry::kRestoring);
      if (!chunk.Transition(page, entry, busy)) continue;
      PageEntry stored = PageEntry::Lost();
      if (process_.Decode(entry, buffer_page(0), tools().workspace)) {
        stored = process_.store.PutRaw(buffer_page(0));
        process_.counters.AddStored(stored);
      }
      Set(chunk, page, busy, stored);
      process_.Retire(entry);
      break;
    }
  }
}

}  // namespace zmem
