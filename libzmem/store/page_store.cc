#include "libzmem/store/page_store.h"

#include <cstring>

#include "libzmem/base/check.h"
#include "libzmem/codec/same_filled.h"

namespace zmem {

PageStore::Workspace::Workspace() {
  for (size_t id = 0; id < kCodecIds; ++id) {
    const Compressor* compressor = FindCompressor(static_cast<CodecId>(id));
    if (compressor != nullptr) scratch_[id] = compressor->MakeScratch();
  }
}

StoreResult PageStore::Put(std::span<const std::byte, kPageBytes> page, Workspace& workspace,
                           PageEntry* entry) {
  if (options_.same_filled_pages_enabled) {
    if (std::optional<uint64_t> word = SameFilledWord(page)) {
      if (std::optional<uint64_t> packed = PackWord(*word)) {
        *entry = PageEntry::SameFilled(*packed);
        return StoreResult::kStored;
      }
      std::optional<ZHandle> handle = pool_.Put(std::as_bytes(std::span(&*word, 1)));
      if (!handle) {
        pool_full_rejects_.fetch_add(1, std::memory_order_relaxed);
        return StoreResult::kPoolFull;
      }
      *entry = PageEntry::InPool(*handle, sizeof *word, CodecId::kSameWord);
      return StoreResult::kStored;
    }
  }
  const Compressor& compressor = *options_.compressor;
  std::span<std::byte> out = std::span(workspace.compressed_).first(options_.max_object_bytes);
  std::optional<size_t> bytes =
      compressor.Compress(page, out, *workspace.scratch_[static_cast<size_t>(compressor.id())]);
  if (!bytes) {
    incompressible_rejects_.fetch_add(1, std::memory_order_relaxed);
    return StoreResult::kIncompressible;
  }
  std::optional<ZHandle> handle = pool_.Put(out.first(*bytes));
  if (!handle) {
    pool_full_rejects_.fetch_add(1, std::memory_order_relaxed);
    return StoreResult::kPoolFull;
  }
  *entry = PageEntry::InPool(*handle, *bytes, compressor.id());
  return StoreResult::kStored;
}

PageEntry PageStore::PutRaw(std::span<const std::byte, kPageBytes> page) {
  std::optional<ZHandle> handle = pool_.Put(page, Zpool::Limit::kExceed);
  ZMEM_CHECK(handle.has_value());
  return PageEntry::InPool(*handle, kPageBytes, CodecId::kRaw);
}

bool PageStore::Get(PageEntry entry, std::span<std::byte, kPageBytes> page,
                    Workspace& workspace) const {
  if (entry.state() == PageState::kSameFilled) {
    FillWithWord(entry.word(), page);
    return true;
  }
  ZMEM_CHECK(entry.state() == PageState::kInPool);
  std::span<const std::byte> object = pool_.Get(entry.handle(), entry.object_bytes());
  switch (entry.codec()) {
    case CodecId::kRaw:
      if (object.size() != kPageBytes) return false;
      std::memcpy(page.data(), object.data(), kPageBytes);
      return true;
    case CodecId::kSameWord: {
      uint64_t word;
      if (object.size() != sizeof word) return false;
      std::memcpy(&word, object.data(), sizeof word);
      FillWithWord(word, page);
      return true;
    }
    default: {
      const Compressor* compressor = FindCompressor(entry.codec());
      return compressor != nullptr &&
             compressor->Decompress(object, page,
                                    *workspace.scratch_[static_cast<size_t>(entry.codec())]);
    }
  }
}

PageEntry PageStore::AddReference(PageEntry entry) {
  if (entry.state() != PageState::kInPool) return entry;
  MutexLock lock(mutex_);
  ++extra_holders_[entry.handle().granule];
  return entry.With(PageEntry::kShared);
}

void PageStore::Release(PageEntry entry) {
  if (entry.state() != PageState::kInPool) return;
  if (entry.Has(PageEntry::kShared)) {
    MutexLock lock(mutex_);
    auto found = extra_holders_.find(entry.handle().granule);
    if (found != extra_holders_.end()) {
      if (--found->second == 0) extra_holders_.erase(found);
      if (extra_holders_.empty()) extra_holders_ = {};  // gives its memory back
      return;
    }
  }
  pool_.Free(entry.handle(), entry.object_bytes());
}

PageStore::Stats PageStore::stats() const {
  return {.incompressible_rejects = incompressible_rejects_.load(std::memory_order_relaxed),
          .pool_full_rejects = pool_full_rejects_.load(std::memory_order_relaxed)};
}

uint64_t PageStore::metadata_bytes() {
  MutexLock lock(mutex_);
  return extra_holders_.capacity() * (sizeof(uint64_t) + sizeof(uint32_t) + 1);
}

}  // namespace zmem
