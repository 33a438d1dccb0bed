#include "libzmem/store/page_store.h"

#include <algorithm>
#include <cstring>

#include "libzmem/base/check.h"
#include "libzmem/codec/same_filled.h"

namespace zmem {
namespace {

// A compressed page larger than this is not worth its decompression.
constexpr size_t kWorthCompressing = kPageBytes * 90 / 100;

// What names an entry's object: its place.
uint64_t NameOf(PageEntry entry) {
  constexpr uint64_t kDisk = uint64_t{1} << 63;
  return entry.state() == PageState::kOnDisk ? entry.disk_object().handle.granule | kDisk
                                             : entry.handle().granule;
}

}  // namespace

Scratch& PageStore::Workspace::ScratchFor(const Compressor& compressor) {
  std::unique_ptr<Scratch>& scratch = scratch_[static_cast<size_t>(compressor.id())];
  if (scratch == nullptr) scratch = compressor.MakeScratch();
  return *scratch;
}

PageStore::Form PageStore::Prepare(std::span<const std::byte, kPageBytes> page,
                                   Workspace& workspace, std::span<std::byte, kPageBytes> out,
                                   const Compressor* compressor) const {
  if (options_.same_filled_pages_enabled) {
    if (std::optional<uint64_t> word = SameFilledWord(page)) {
      return {.codec = CodecId::kSameWord, .word = *word};
    }
  }
  if (compressor == nullptr) compressor = options_.compressor;
  std::optional<size_t> bytes = Compress(page, workspace, out, *compressor);
  if (!bytes) return {.codec = CodecId::kRaw, .object = page};
  return {.codec = compressor->id(), .object = out.first(*bytes)};
}

StoreResult PageStore::Put(const Form& form, PageEntry* entry) {
  std::optional<PageEntry> stored;
  if (form.codec == CodecId::kSameWord) {
    stored = PutWord(form.word);
    if (!stored) return StoreResult::kPoolFull;
    *entry = *stored;
    return StoreResult::kStored;
  }
  bool has_file = options_.backing != nullptr;
  bool is_compressed = form.codec != CodecId::kRaw;
  bool is_fat = form.object.size() > options_.fat_bytes;
  AppendResult file = AppendResult::kFull;
  if (is_fat && has_file) {
    stored = PutOnDisk(form.object, form.codec, BackingFile::Purpose::kStoring, &file);
    if (stored) fat_pages_.fetch_add(1, std::memory_order_relaxed);
    if (file == AppendResult::kBusy) return StoreResult::kBusy;
  }
  if (!stored && is_compressed) stored = PutInPool(form.object, form.codec);
  if (!stored && !is_fat && has_file) {
    stored = PutOnDisk(form.object, form.codec, BackingFile::Purpose::kStoring, &file);
    if (stored) spilled_pages_.fetch_add(1, std::memory_order_relaxed);
    if (file == AppendResult::kBusy) return StoreResult::kBusy;
  }
  if (stored) {
    *entry = *stored;
    return StoreResult::kStored;
  }
  if (is_compressed || has_file) return StoreResult::kPoolFull;
  incompressible_rejects_.fetch_add(1, std::memory_order_relaxed);
  return StoreResult::kIncompressible;
}

std::optional<PageEntry> PageStore::PutWord(uint64_t word) {
  if (std::optional<uint64_t> packed = PackWord(word)) return PageEntry::SameFilled(*packed);
  return PutInPool(std::as_bytes(std::span(&word, 1)), CodecId::kSameWord);
}

std::optional<size_t> PageStore::Compress(std::span<const std::byte, kPageBytes> page,
                                          Workspace& workspace,
                                          std::span<std::byte, kPageBytes> out,
                                          const Compressor& compressor) const {
  size_t most = options_.backing != nullptr ? kWorthCompressing : options_.fat_bytes;
  return compressor.Compress(page, std::span(out).first(most), workspace.ScratchFor(compressor));
}

bool PageStore::IsCompressible(std::span<const std::byte, kPageBytes> page, Workspace& workspace,
                               const Compressor* compressor) const {
  if (options_.backing != nullptr) return true;
  if (compressor == nullptr) compressor = options_.compressor;
  return Compress(page, workspace, workspace.compressed_, *compressor).has_value();
}

uint64_t PageStore::accept_bytes() const {
  return pool_.limit_bytes() / 100 * accept_threshold_percent_.load(std::memory_order_relaxed);
}

bool PageStore::PoolAccepts() {
  if (!pool_full_.load(std::memory_order_relaxed)) return true;
  if (pool_.used_bytes() > accept_bytes()) return false;
  pool_full_.store(false, std::memory_order_relaxed);
  return true;
}

std::optional<PageEntry> PageStore::PutInPool(std::span<const std::byte> object, CodecId codec) {
  do {
    std::optional<ZHandle> handle;
    if (PoolAccepts()) handle = pool_.Put(object);
    if (handle) return PageEntry::InPool(*handle, object.size(), codec);
  } while (GiveUpSpare());
  pool_full_.store(true, std::memory_order_relaxed);
  pool_full_rejects_.fetch_add(1, std::memory_order_relaxed);
  return std::nullopt;
}

void PageStore::AddSpare(SpareObjects* spare) {
  MutexLock lock(spare_mutex_);
  spare_.push_back(spare);
}

void PageStore::RemoveSpare(SpareObjects* spare) {
  MutexLock lock(spare_mutex_);
  std::erase(spare_, spare);
}

bool PageStore::GiveUpSpare() {
  if (clean.object_bytes.load(std::memory_order_relaxed) == 0) return false;
  MutexLock lock(spare_mutex_);
  for (size_t tries = 0; tries < spare_.size(); ++tries) {
    if (spare_[next_spare_++ % spare_.size()]->GiveUp()) return true;
  }
  return false;
}

bool PageStore::HasCleanRoom(uint64_t bytes) const {
  constexpr uint64_t kAlways = uint64_t{16} << 20;
  unsigned percent = options_.clean_pages_percent;
  if (percent == 0) return false;
  uint64_t most = std::max(pool_.held_bytes() / 100 * percent, kAlways);
  return clean.object_bytes.load(std::memory_order_relaxed) +
             clean.metadata_bytes.load(std::memory_order_relaxed) + bytes <=
         most;
}

std::optional<PageEntry> PageStore::PutOnDisk(std::span<const std::byte> object, CodecId codec,
                                              BackingFile::Purpose purpose, AppendResult* why) {
  DiskHandle handle;
  AppendResult result = options_.backing->Append(object, &handle, purpose);
  append_results_[static_cast<size_t>(result)].fetch_add(1, std::memory_order_relaxed);
  if (why != nullptr) *why = result;
  if (result != AppendResult::kDone) return std::nullopt;
  return PageEntry::OnDisk({handle, object.size()}, codec);
}

AppendResult PageStore::WriteBack(PageEntry entry, PageEntry* written) {
  std::span<const std::byte> object = pool_.Get(entry.handle(), entry.object_bytes());
  AppendResult result = AppendResult::kFull;
  std::optional<PageEntry> stored =
      PutOnDisk(object, entry.codec(), BackingFile::Purpose::kStoring, &result);
  if (!stored) return result;
  *written = *stored;
  written_back_pages_.fetch_add(1, std::memory_order_relaxed);
  return result;
}

std::optional<PageEntry> PageStore::Rewrite(PageEntry entry, Workspace& workspace) {
  DiskObject from = entry.disk_object();
  std::span<std::byte> object = std::span(workspace.object_).first(from.bytes);
  if (options_.backing->ReadNow(from, object) != DiskReadStatus::kOk) return std::nullopt;
  return PutOnDisk(object, entry.codec(), BackingFile::Purpose::kCleaning);
}

std::optional<PageEntry> PageStore::Recompress(CodecId codec, std::span<const std::byte> object,
                                               Workspace& workspace) {
  const Compressor* compressor = FindCompressor(CodecId::kZstd);
  // In a size class below that of `object`.
  size_t most = (object.size() - 1) / kPoolGranuleBytes * kPoolGranuleBytes;
  if (compressor == nullptr || codec == compressor->id() || most == 0 ||
      !Decode(codec, object, workspace.object_, workspace)) {
    return std::nullopt;
  }
  std::span<std::byte> out = std::span(workspace.compressed_).first(most);
  Scratch& scratch = workspace.ScratchFor(*compressor);
  std::optional<size_t> bytes = compressor->Compress(workspace.object_, out, scratch);
  if (!bytes) return std::nullopt;
  std::optional<ZHandle> handle = pool_.Put(out.first(*bytes));
  if (!handle) return std::nullopt;
  return PageEntry::InPool(*handle, *bytes, compressor->id());
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
  if (entry.state() == PageState::kOnDisk) {
    DiskObject object = entry.disk_object();
    std::span<std::byte> bytes = std::span(workspace.object_).first(object.bytes);
    return options_.backing->ReadNow(object, bytes) == DiskReadStatus::kOk &&
           Decode(entry.codec(), bytes, page, workspace);
  }
  ZMEM_CHECK(entry.state() == PageState::kInPool);
  return Decode(entry.codec(), pool_.Get(entry.handle(), entry.object_bytes()), page, workspace);
}

bool PageStore::Decode(CodecId codec, std::span<const std::byte> object,
                       std::span<std::byte, kPageBytes> page, Workspace& workspace) const {
  switch (codec) {
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
      const Compressor* compressor = FindCompressor(codec);
      return compressor != nullptr &&
             compressor->Decompress(object, page, workspace.ScratchFor(*compressor));
    }
  }
}

PageEntry PageStore::AddReference(PageEntry entry) {
  if (!entry.has_object()) return entry;
  MutexLock lock(mutex_);
  ++extra_holders_[NameOf(entry)];
  return entry.With(PageEntry::kShared);
}

void PageStore::Release(PageEntry entry) {
  if (!entry.has_object()) return;
  if (entry.Has(PageEntry::kShared)) {
    MutexLock lock(mutex_);
    auto found = extra_holders_.find(NameOf(entry));
    if (found != extra_holders_.end()) {
      if (--found->second == 0) extra_holders_.erase(found);
      if (extra_holders_.empty()) extra_holders_ = {};  // gives its memory back
      return;
    }
  }
  if (entry.state() == PageState::kOnDisk) return options_.backing->Free(entry.disk_object());
  pool_.Free(entry.handle(), entry.object_bytes());
}

PageStore::Stats PageStore::stats() const {
  auto appends = [this](AppendResult result) {
    return append_results_[static_cast<size_t>(result)].load(std::memory_order_relaxed);
  };
  return {.incompressible_rejects = incompressible_rejects_.load(std::memory_order_relaxed),
          .pool_full_rejects = pool_full_rejects_.load(std::memory_order_relaxed),
          .fat_pages = fat_pages_.load(std::memory_order_relaxed),
          .spilled_pages = spilled_pages_.load(std::memory_order_relaxed),
          .written_back_pages = written_back_pages_.load(std::memory_order_relaxed),
          .file_busy_rejects = appends(AppendResult::kBusy),
          .file_full_rejects = appends(AppendResult::kFull),
          .file_limit_rejects = appends(AppendResult::kLimited),
          .file_suspended_rejects = appends(AppendResult::kSuspended)};
}

uint64_t PageStore::metadata_bytes() {
  MutexLock lock(mutex_);
  return extra_holders_.capacity() * (sizeof(uint64_t) + sizeof(uint32_t) + 1) +
         clean.metadata_bytes.load(std::memory_order_relaxed);
}

}  // namespace zmem
