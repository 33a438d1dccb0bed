// Where the bytes of pages go and come back from: picks a form (same-filled, compressed), keeps the
// objects in the pool, counts references that forked relatives share.
// Thread-safe; a Workspace belongs to one thread. Never drops bytes: a page it cannot take is
// refused, and stays with its owner.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "absl/container/flat_hash_map.h"
#include "libzmem/base/mutex.h"
#include "libzmem/base/page.h"
#include "libzmem/codec/compressor.h"
#include "libzmem/pool/zpool.h"
#include "libzmem/store/page_entry.h"

namespace zmem {

enum class StoreResult {
  kStored,
  kIncompressible,  // larger than max_object_bytes when compressed
  kPoolFull,        // the pool's limit is reached
};

class PageStore {
 public:
  struct Options {
    const Compressor* compressor = nullptr;  // of new objects; old ones keep theirs
    bool same_filled_pages_enabled = true;
    size_t max_object_bytes = kPageBytes;  // a compressed page larger than this is refused
  };

  // One thread's working memory. Allocates when made, never in use.
  class Workspace {
   public:
    Workspace();

   private:
    friend class PageStore;
    std::array<std::unique_ptr<Scratch>, kCodecIds> scratch_;
    alignas(64) std::array<std::byte, kPageBytes> compressed_;
  };

  // Refused pages, in all.
  struct Stats {
    uint64_t incompressible_rejects = 0;
    uint64_t pool_full_rejects = 0;
  };

  PageStore(Zpool& pool, const Options& options) : pool_(pool), options_(options) {}

  // Stores `page`; `entry` receives what a page-table entry then says. Nobody owns the object until
  // the entry is published: Release it if that fails.
  StoreResult Put(std::span<const std::byte, kPageBytes> page, Workspace& workspace,
                  PageEntry* entry);
  // Stores `page` uncompressed, past the pool's limit if need be: for bytes that have no other
  // place to stay.
  PageEntry PutRaw(std::span<const std::byte, kPageBytes> page);

  // Restores the page of a stored entry. False if the object is damaged; `page` is then
  // unspecified and must not reach a program.
  bool Get(PageEntry entry, std::span<std::byte, kPageBytes> page, Workspace& workspace) const;

  // A second holder of `entry`: returns the entry that both carry from now on.
  PageEntry AddReference(PageEntry entry);
  // Ends one holder's claim; frees the object with the last.
  void Release(PageEntry entry);

  const Options& options() const { return options_; }
  Stats stats() const;
  // Memory of the reference counts.
  uint64_t metadata_bytes();

 private:
  Zpool& pool_;
  const Options options_;
  std::atomic<uint64_t> incompressible_rejects_{0};
  std::atomic<uint64_t> pool_full_rejects_{0};

  Mutex mutex_;
  // Holders beyond the first of objects that forked relatives share, by granule. An object without
  // an entry here has one holder.
  absl::flat_hash_map<uint64_t, uint32_t> extra_holders_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace zmem
