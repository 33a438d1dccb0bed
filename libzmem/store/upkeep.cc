#include "libzmem/store/upkeep.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <limits>
#include <optional>
#include <span>
#include <thread>
#include <utility>

#include "libzmem/base/check.h"

namespace zmem {
namespace {

// A round reads every entry, so it must be worth it.
constexpr uint64_t kLeastReclaimableBytes = 512 * 1024;
constexpr uint64_t kLeastReclaimableDivisor = 50;  // of what the pool holds
// A pool that has shrunk by so much since the last look is about to be empty.
constexpr uint64_t kEmptyingDivisor = 16;
// Victims of one round: bounds the address space that rests until its end.
constexpr size_t kVictims = 4096;

// Of the file's segments so many are to be free.
constexpr uint64_t kLeastFreeDivisor = 8;

// Neither on its way back nor shared with a forked relative.
bool IsMovable(PageEntry entry, PageState state) {
  return entry.state() == state && !entry.Has(PageEntry::kRestoring) &&
         !entry.Has(PageEntry::kShared);
}

// The chunk, if `process` alone holds it: nobody changes one that forked relatives share. Under the
// gate that stays so.
std::shared_ptr<Chunk> Exclusive(Process& process, uint64_t chunk_number) {
  std::shared_ptr<Chunk> chunk = process.table.Find(chunk_number);
  if (chunk == nullptr || chunk->sharers.load(std::memory_order_acquire) != 1) return nullptr;
  return chunk;
}

// When a page of the chunk was last stored, or wanted back: that is its second chance.
int64_t WantedNs(const Chunk& chunk) {
  return std::max(chunk.stored_ns.load(std::memory_order_relaxed),
                  chunk.last_fault_ns.load(std::memory_order_relaxed));
}

// Visits every chunk of every process, until `stop` is true.
template <typename Visit>
void ForEachChunk(const Upkeep::ProcessesFn& processes, const std::atomic<bool>& stop,
                  Visit visit) {
  for (const std::shared_ptr<Process>& process : processes()) {
    for (uint64_t number : process->table.Numbers()) {
      if (stop.load(std::memory_order_acquire)) return;
      visit(process, number);
    }
  }
}

}  // namespace

bool Upkeep::Run(const ProcessesFn& processes, const std::atomic<bool>& stop) {
  store_.pool().GiveBackEmpty();
  // One whose limit was lowered is emptied to where a full one takes pages again, too.
  if (store_.pool().held_bytes() > store_.pool().limit_bytes()) shrinking_ = true;
  if (store_.pool().held_bytes() <= store_.accept_bytes()) shrinking_ = false;
  AgeCleanPages(processes);
  bool more = false;
  if (store_.backing() != nullptr) {
    more = CleanFile(processes, stop);
    WriteBack(processes, stop);
  }
  Recompress(processes, stop);
  CompactPool(processes, stop);
  return more;
}

void Upkeep::AgeCleanPages(const ProcessesFn& processes) {
  if (shrinking_) {
    while (store_.GiveUpSpare()) {
    }
  }
  int64_t now_ns = clock_.now_ns();
  if (now_ns - clean_aged_ns_ < options_.clean_pages_age_ns) return;
  clean_aged_ns_ = now_ns;
  for (const std::shared_ptr<Process>& process : processes()) process->clean_pages.Age();
}

void Upkeep::CompactPool(const ProcessesFn& processes, const std::atomic<bool>& stop) {
  Zpool::Stats before = store_.pool().stats();
  // One that empties by itself goes on doing so.
  uint64_t last_held = std::exchange(last_held_bytes_, before.held_bytes);
  if (before.held_bytes < last_held - last_held / kEmptyingDivisor) return;
  if (before.reclaimable_bytes < kLeastReclaimableBytes ||
      before.reclaimable_bytes < before.held_bytes / kLeastReclaimableDivisor) {
    return;
  }
  store_.pool().ChooseVictims(kVictims);
  // Copying what can be done without is not worth it.
  for (const std::shared_ptr<Process>& process : processes()) {
    process->clean_pages.DropIf([this](PageEntry entry) {
      return entry.state() == PageState::kInPool && store_.pool().IsVictim(entry.handle());
    });
  }
  ForEachChunk(processes, stop, [this](const std::shared_ptr<Process>& process, uint64_t number) {
    CompactChunk(*process, number);
  });
  store_.pool().EndRound();
  uint64_t held = store_.pool().stats().held_bytes;
  compaction_rounds_.fetch_add(1, std::memory_order_relaxed);
  if (held < before.held_bytes) {
    compacted_bytes_.fetch_add(before.held_bytes - held, std::memory_order_relaxed);
  }
}

void Upkeep::CompactChunk(Process& process, uint64_t chunk_number) {
  struct Moving {
    size_t page;
    PageEntry from;
    std::optional<ZHandle> to;
  };
  std::array<Moving, kBatch> batch;
  for (size_t page = 0; page < kPagesPerChunk;) {
    size_t count = 0;
    std::shared_ptr<Chunk> chunk = process.table.Find(chunk_number);
    if (chunk == nullptr) return;
    for (; page < kPagesPerChunk && count < kBatch; ++page) {
      PageEntry entry = chunk->Load(page);
      bool movable = IsMovable(entry, PageState::kInPool) && store_.pool().IsVictim(entry.handle());
      if (movable) batch[count++] = {page, entry, {}};
    }
    if (count == 0) return;
    for (Moving& each : std::span(batch).first(count)) {
      each.to = store_.pool().Move(each.from.handle(), each.from.object_bytes());
    }
    std::array<bool, kBatch> moved{};
    {
      GateLock lock(process.gate);
      std::shared_ptr<Chunk> own = Exclusive(process, chunk_number);
      for (size_t i = 0; own == chunk && i < count; ++i) {
        Moving& each = batch[i];
        if (!each.to) continue;
        PageEntry fresh = PageEntry::InPool(*each.to, each.from.object_bytes(), each.from.codec());
        PageEntry expected = each.from;
        moved[i] = chunk->Transition(each.page, expected, fresh);
      }
    }
    for (size_t i = 0; i < count; ++i) {
      if (!batch[i].to) continue;
      store_.pool().Free(moved[i] ? batch[i].from.handle() : *batch[i].to,
                         batch[i].from.object_bytes());
      if (moved[i]) compacted_objects_.fetch_add(1, std::memory_order_relaxed);
    }
  }
}

void Upkeep::WriteBack(const ProcessesFn& processes, const std::atomic<bool>& stop) {
  bool is_full = store_.pool_full() || shrinking_;
  if (!is_full && options_.writeback_age_ns == 0) return;
  std::vector<StoredChunk> chunks;
  ForEachChunk(processes, stop, [&](const std::shared_ptr<Process>& process, uint64_t number) {
    std::shared_ptr<Chunk> chunk = process->table.Find(number);
    if (chunk != nullptr) chunks.push_back({process, number, WantedNs(*chunk)});
  });
  std::stable_sort(chunks.begin(), chunks.end(), [](const StoredChunk& a, const StoredChunk& b) {
    return a.wanted_ns < b.wanted_ns;
  });
  int64_t old_ns = options_.writeback_age_ns == 0 ? std::numeric_limits<int64_t>::min()
                                                  : clock_.now_ns() - options_.writeback_age_ns;
  for (const StoredChunk& chunk : chunks) {
    bool wanted =
        (is_full && store_.pool().used_bytes() > store_.accept_bytes()) || chunk.wanted_ns < old_ns;
    if (!wanted || stop.load(std::memory_order_acquire)) return;
    if (!WriteBackChunk(*chunk.process, chunk.number)) return;
  }
}

bool Upkeep::WriteBackChunk(Process& process, uint64_t chunk_number) {
  // Under the gate the objects of a chunk that nobody shares stay, so they can be copied; few at a
  // time, as a fault may wait for it.
  constexpr size_t kObjects = 8;
  // A segment is written within milliseconds.
  constexpr auto kPause = std::chrono::milliseconds(1);
  constexpr int kPatience = 100;
  int pauses = 0;
  for (size_t page = 0; page < kPagesPerChunk;) {
    std::array<PageEntry, kObjects> freed;
    size_t count = 0;
    AppendResult result = AppendResult::kDone;
    {
      GateLock lock(process.gate);
      std::shared_ptr<Chunk> chunk = Exclusive(process, chunk_number);
      if (chunk == nullptr) return true;
      for (; page < kPagesPerChunk && count < kObjects; ++page) {
        PageEntry entry = chunk->Load(page);
        // What one word fills is smaller than a record in the file.
        if (!IsMovable(entry, PageState::kInPool) || entry.codec() == CodecId::kSameWord) continue;
        PageEntry written;
        result = store_.WriteBack(entry, &written);
        if (result != AppendResult::kDone) break;
        process.counters.AddStored(written);
        PageEntry expected = entry;
        bool swapped = chunk->Transition(page, expected, written);
        ZMEM_CHECK(swapped);  // a stored page of ours changes under the gate only
        freed[count++] = entry;
      }
    }
    for (PageEntry entry : std::span(freed).first(count)) process.Retire(entry);
    if (result == AppendResult::kBusy && ++pauses < kPatience) {
      std::this_thread::sleep_for(kPause);
    } else if (result != AppendResult::kDone) {
      return false;
    }
  }
  return true;
}

void Upkeep::Recompress(const ProcessesFn& processes, const std::atomic<bool>& stop) {
  if (options_.recompress_age_ns == 0) return;
  // What was not spent does not add up to a burst.
  constexpr int64_t kMostCreditNs = 100'000'000;
  int64_t now_ns = clock_.now_ns();
  int64_t earned_ns = (now_ns - recompress_paid_ns_) / 100 * options_.recompress_cpu_percent;
  recompress_credit_ns_ = std::min(recompress_credit_ns_ + earned_ns, kMostCreditNs);
  recompress_paid_ns_ = now_ns;
  if (now_ns < recompress_idle_until_ns_) return;
  int64_t start_ns = cpu_clock_.now_ns();
  auto left_ns = [&] { return recompress_credit_ns_ - (cpu_clock_.now_ns() - start_ns); };
  bool all_seen = true;
  ForEachChunk(processes, stop, [&](const std::shared_ptr<Process>& process, uint64_t number) {
    std::shared_ptr<Chunk> chunk = process->table.Find(number);
    if (chunk == nullptr || !all_seen) return;
    int64_t wanted_ns = WantedNs(*chunk);
    if (now_ns - wanted_ns < options_.recompress_age_ns ||
        chunk->recompressed_ns.load(std::memory_order_relaxed) > wanted_ns) {
      return;
    }
    all_seen = left_ns() > 0;
    if (!all_seen) return;
    chunk->recompressed_ns.store(now_ns, std::memory_order_relaxed);
    RecompressChunk(*process, number);
  });
  // Else the next look goes on.
  if (all_seen) recompress_idle_until_ns_ = now_ns + options_.recompress_age_ns / 8;
  int64_t spent_ns = recompress_credit_ns_ - left_ns();
  recompress_credit_ns_ -= spent_ns;
  recompress_cpu_ns_.fetch_add(static_cast<uint64_t>(spent_ns), std::memory_order_relaxed);
}

// One object on its way.
struct Upkeep::Recompression {
  size_t page;
  PageEntry from;
  std::optional<PageEntry> to;
  std::array<std::byte, kPageBytes> copy;

  std::span<const std::byte> object() const { return std::span(copy).first(from.object_bytes()); }
};

void Upkeep::RecompressChunk(Process& process, uint64_t chunk_number) {
  std::array<Recompression, 8> batch;
  for (size_t page = 0; page < kPagesPerChunk;) {
    std::span<Recompression> copied = CopyObjects(process, chunk_number, &page, batch);
    for (Recompression& each : copied) {
      each.to = store_.Recompress(each.from.codec(), each.object(), workspace_);
      if (each.to) process.counters.AddStored(*each.to);
    }
    PublishRecompressed(process, chunk_number, copied);
  }
}

std::span<Upkeep::Recompression> Upkeep::CopyObjects(Process& process, uint64_t chunk_number,
                                                     size_t* page, std::span<Recompression> batch) {
  size_t count = 0;
  GateLock lock(process.gate);
  std::shared_ptr<Chunk> chunk = Exclusive(process, chunk_number);
  if (chunk == nullptr) *page = kPagesPerChunk;
  for (; *page < kPagesPerChunk && count < batch.size(); ++*page) {
    PageEntry entry = chunk->Load(*page);
    if (!IsMovable(entry, PageState::kInPool) || entry.codec() == CodecId::kSameWord ||
        entry.codec() == CodecId::kZstd) {
      continue;
    }
    std::span<const std::byte> object = store_.pool().Get(entry.handle(), entry.object_bytes());
    batch[count].page = *page;
    batch[count].from = entry;
    std::memcpy(batch[count].copy.data(), object.data(), object.size());
    ++count;
  }
  return batch.first(count);
}

void Upkeep::PublishRecompressed(Process& process, uint64_t chunk_number,
                                 std::span<Recompression> batch) {
  {
    GateLock lock(process.gate);
    std::shared_ptr<Chunk> chunk = Exclusive(process, chunk_number);
    for (Recompression& each : batch) {
      if (!each.to) continue;
      PageEntry entry = each.from;
      bool is_same = chunk != nullptr && chunk->Load(each.page) == entry;
      if (is_same) {
        // The entry may have come to name another object in the same place.
        std::span<const std::byte> now = store_.pool().Get(entry.handle(), entry.object_bytes());
        is_same = std::memcmp(now.data(), each.copy.data(), now.size()) == 0;
      }
      // What is left in `from` is to be let go of.
      if (!is_same || !chunk->Transition(each.page, entry, *each.to)) each.from = *each.to;
    }
  }
  for (const Recompression& each : batch) {
    if (!each.to) continue;
    if (each.from != *each.to) {
      recompressed_objects_.fetch_add(1, std::memory_order_relaxed);
      recompressed_bytes_.fetch_add(each.from.object_bytes() - each.to->object_bytes(),
                                    std::memory_order_relaxed);
    }
    process.Retire(each.from);
  }
}

bool Upkeep::CleanFile(const ProcessesFn& processes, const std::atomic<bool>& stop) {
  BackingFile& file = *store_.backing();
  auto is_short = [](const BackingFile::Stats& stats) {
    return stats.free_segments <= stats.segments / kLeastFreeDivisor;
  };
  BackingFile::Stats stats = file.stats();
  if (!is_short(stats)) return false;
  for (const std::shared_ptr<Process>& process : processes()) {
    process->clean_pages.DropIf(
        [](PageEntry entry) { return entry.state() == PageState::kOnDisk; });
  }
  // What a round can rewrite is bounded by the free segments, so the first one frees few.
  constexpr size_t kSegments = 64;
  uint64_t cleaned_before = stats.cleaned_bytes;
  uint64_t cleaned = 0;
  do {
    cleaned = stats.cleaned_bytes;
    if (file.ChooseVictims(kSegments) > 0) {
      ForEachChunk(processes, stop,
                   [this](const std::shared_ptr<Process>& process, uint64_t number) {
                     CleanChunk(*process, number);
                   });
    }
    file.EndRound();
    stats = file.stats();
  } while (is_short(stats) && stats.cleaned_bytes > cleaned &&
           !stop.load(std::memory_order_acquire));
  return stats.cleaned_bytes > cleaned_before;
}

void Upkeep::CleanChunk(Process& process, uint64_t chunk_number) {
  for (size_t page = 0; page < kPagesPerChunk; ++page) {
    std::shared_ptr<Chunk> chunk = process.table.Find(chunk_number);
    if (chunk == nullptr) return;
    PageEntry entry = chunk->Load(page);
    if (!IsMovable(entry, PageState::kOnDisk) ||
        !store_.backing()->IsVictim(entry.disk_object().handle)) {
      continue;
    }
    std::optional<PageEntry> rewritten = store_.Rewrite(entry, workspace_);
    if (!rewritten) continue;
    bool swapped = false;
    {
      GateLock lock(process.gate);
      PageEntry expected = entry;
      swapped = Exclusive(process, chunk_number) == chunk &&
                chunk->Transition(page, expected, *rewritten);
    }
    store_.Release(swapped ? entry : *rewritten);
    if (swapped) rewritten_objects_.fetch_add(1, std::memory_order_relaxed);
  }
}

Upkeep::Stats Upkeep::stats() const {
  return {.compaction_rounds = compaction_rounds_.load(std::memory_order_relaxed),
          .compacted_objects = compacted_objects_.load(std::memory_order_relaxed),
          .compacted_bytes = compacted_bytes_.load(std::memory_order_relaxed),
          .rewritten_objects = rewritten_objects_.load(std::memory_order_relaxed),
          .recompressed_objects = recompressed_objects_.load(std::memory_order_relaxed),
          .recompressed_bytes = recompressed_bytes_.load(std::memory_order_relaxed),
          .recompress_cpu_ns = recompress_cpu_ns_.load(std::memory_order_relaxed)};
}

}  // namespace zmem
