#include "libzmem/store/upkeep.h"

#include <array>
#include <optional>
#include <span>

namespace zmem {
namespace {

// A round reads every entry, so it must be worth it.
constexpr uint64_t kLeastReclaimableBytes = 512 * 1024;
constexpr uint64_t kLeastReclaimableDivisor = 50;  // of what the pool holds
// Victims of one round: bounds the address space that rests until its end.
constexpr size_t kVictims = 4096;

// The chunk, if `process` alone holds it: nobody changes one that forked relatives share. Under the
// gate that stays so.
std::shared_ptr<Chunk> Exclusive(Process& process, uint64_t chunk_number) {
  std::shared_ptr<Chunk> chunk = process.table.Find(chunk_number);
  if (chunk == nullptr || chunk->sharers.load(std::memory_order_acquire) != 1) return nullptr;
  return chunk;
}

}  // namespace

void Upkeep::Run(const ProcessesFn& processes, const std::atomic<bool>& stop) {
  CompactPool(processes, stop);
}

void Upkeep::CompactPool(const ProcessesFn& processes, const std::atomic<bool>& stop) {
  Zpool::Stats before = pool_.stats();
  if (before.reclaimable_bytes < kLeastReclaimableBytes ||
      before.reclaimable_bytes < before.held_bytes / kLeastReclaimableDivisor) {
    return;
  }
  pool_.ChooseVictims(kVictims);
  for (const std::shared_ptr<Process>& process : processes()) {
    for (uint64_t number : process->table.Numbers()) {
      if (stop.load(std::memory_order_acquire)) break;
      CompactChunk(*process, number);
    }
  }
  pool_.EndRound();
  uint64_t held = pool_.stats().held_bytes;
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
      bool movable = entry.state() == PageState::kInPool && !entry.Has(PageEntry::kRestoring) &&
                     !entry.Has(PageEntry::kShared) && pool_.IsVictim(entry.handle());
      if (movable) batch[count++] = {page, entry, {}};
    }
    if (count == 0) return;
    for (Moving& each : std::span(batch).first(count)) {
      each.to = pool_.Move(each.from.handle(), each.from.object_bytes());
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
      pool_.Free(moved[i] ? batch[i].from.handle() : *batch[i].to, batch[i].from.object_bytes());
      if (moved[i]) compacted_objects_.fetch_add(1, std::memory_order_relaxed);
    }
  }
}

Upkeep::Stats Upkeep::stats() const {
  return {.compaction_rounds = compaction_rounds_.load(std::memory_order_relaxed),
          .compacted_objects = compacted_objects_.load(std::memory_order_relaxed),
          .compacted_bytes = compacted_bytes_.load(std::memory_order_relaxed)};
}

}  // namespace zmem
