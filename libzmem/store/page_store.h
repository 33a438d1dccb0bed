// Where the bytes of pages go and come back from: picks a form (same-filled, compressed) and a tier
// (the pool, the backing file), keeps the objects there, counts references that forked relatives
// share.
// Thread-safe; a Workspace belongs to one thread. Never drops bytes: a page it cannot take is
// refused, and stays with its owner.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "libzmem/backing/backing_file.h"
#include "libzmem/base/mutex.h"
#include "libzmem/base/page.h"
#include "libzmem/codec/compressor.h"
#include "libzmem/pool/zpool.h"
#include "libzmem/store/page_entry.h"

namespace zmem {

enum class StoreResult {
  kStored,
  kIncompressible,  // a fat page, and there is no backing file that takes it
  kPoolFull,        // no room: the pool's limit is reached, and the backing file takes nothing
  kBusy,            // the backing file has no buffer free: there is room in a moment
};

// Objects in the pool that are kept beyond need.
class SpareObjects {
 public:
  virtual ~SpareObjects() = default;
  // Releases them: the pool needs their room. Called on any thread. False if there were none.
  virtual bool GiveUp() = 0;
};

class PageStore {
 public:
  struct Options {
    // Of new objects for which no other is named; old ones keep theirs.
    const Compressor* compressor = nullptr;
    bool same_filled_pages_enabled = true;
    // A page that compresses to more is fat: it goes to the backing file. Without one it is
    // refused.
    size_t fat_bytes = kPageBytes;
    // Once the pool was full it takes nothing until it holds no more than this share of its limit.
    // May be changed later.
    unsigned accept_threshold_percent = 90;
    // Of what the pool holds, the share that objects of pages that came back may take, or 16 MiB if
    // that is more; 0: none is kept.
    unsigned clean_pages_percent = 10;
    BackingFile* backing = nullptr;
  };

  // One thread's working memory. Allocates when a codec is first used, and never again: most know
  // one codec, and zstd's takes half a MiB.
  class Workspace {
   private:
    friend class PageStore;
    Scratch& ScratchFor(const Compressor& compressor);

    std::array<std::unique_ptr<Scratch>, kCodecIds> scratch_;
    alignas(64) std::array<std::byte, kPageBytes> compressed_;
    alignas(64) std::array<std::byte, kPageBytes> object_;
  };

  // Pages, in all.
  struct Stats {
    uint64_t incompressible_rejects = 0;  // refused: fat
    uint64_t pool_full_rejects = 0;       // the pool's limit was reached: refused, or to the file
    uint64_t fat_pages = 0;               // to the file because they are fat
    uint64_t spilled_pages = 0;           // to the file because the pool was full
    uint64_t written_back_pages = 0;      // moved from the pool to the file
    // Appends that the file did not take, by its reason.
    uint64_t file_busy_rejects = 0;
    uint64_t file_full_rejects = 0;
    uint64_t file_limit_rejects = 0;
    uint64_t file_suspended_rejects = 0;
  };

  // Of pages that came back, and whose objects are kept (clean_pages.h).
  struct CleanCounters {
    std::atomic<uint64_t> pages{0};           // now
    std::atomic<uint64_t> object_bytes{0};    // of their objects in the pool, now
    std::atomic<uint64_t> metadata_bytes{0};  // memory for keeping them, now
    std::atomic<uint64_t> reused{0};          // in all: went out again as they were
    std::atomic<uint64_t> changed{0};         // in all: went out again with other bytes
  };

  PageStore(Zpool& pool, const Options& options)
      : pool_(pool),
        options_(options),
        accept_threshold_percent_(options.accept_threshold_percent) {}

  // What a page is stored as, before it has a place. Its bytes are those of the page or of the
  // buffer that Prepare was given.
  struct Form {
    CodecId codec = CodecId::kRaw;      // kRaw: compressing it is not worth it
    std::span<const std::byte> object;  // none if kSameWord
    uint64_t word = 0;                  // if kSameWord
  };

  // Finds the form of `page`, compressed into `out` by `compressor` (null: the store's): nearly all
  // the time that Put takes. Holds no lock.
  Form Prepare(std::span<const std::byte, kPageBytes> page, Workspace& workspace,
               std::span<std::byte, kPageBytes> out, const Compressor* compressor = nullptr) const;
  // Stores a page in its form; `entry` receives what a page-table entry then says. Nobody owns the
  // object until the entry is published: Release it if that fails. Never waits for the disk.
  StoreResult Put(const Form& form, PageEntry* entry);
  // Both.
  StoreResult Put(std::span<const std::byte, kPageBytes> page, Workspace& workspace,
                  PageEntry* entry, const Compressor* compressor = nullptr) {
    return Put(Prepare(page, workspace, workspace.compressed_, compressor), entry);
  }
  // Stores `page` uncompressed, past the pool's limit if need be: for bytes that have no other
  // place to stay.
  PageEntry PutRaw(std::span<const std::byte, kPageBytes> page);

  // Restores the page of a stored entry. False if its object is damaged; `page` is then unspecified
  // and must not reach a program. Waits for the disk if it is there.
  bool Get(PageEntry entry, std::span<std::byte, kPageBytes> page, Workspace& workspace) const;
  // The same from the object itself, which was read from the file.
  bool Decode(CodecId codec, std::span<const std::byte> object,
              std::span<std::byte, kPageBytes> page, Workspace& workspace) const;

  // Whether Put would not find `page` incompressible.
  bool IsCompressible(std::span<const std::byte, kPageBytes> page, Workspace& workspace,
                      const Compressor* compressor = nullptr) const;

  // A second holder of `entry`: returns the entry that both carry from now on.
  PageEntry AddReference(PageEntry entry);
  // Ends one holder's claim; frees the object with the last.
  void Release(PageEntry entry);

  // For upkeep: the same object in another place, which nobody owns yet either. `entry` is one that
  // nobody releases meanwhile; it keeps its object.
  // From the pool to the file. `*written` is set if the result is kDone.
  AppendResult WriteBack(PageEntry entry, PageEntry* written);
  // From one place in the file to another. Waits for the disk.
  std::optional<PageEntry> Rewrite(PageEntry entry, Workspace& workspace);
  // The page that `object` of `codec` holds, compressed harder and in the pool. nullopt unless that
  // takes less room there.
  std::optional<PageEntry> Recompress(CodecId codec, std::span<const std::byte> object,
                                      Workspace& workspace);

  // Who keeps spare objects. They are given up before the pool refuses anything.
  void AddSpare(SpareObjects* spare);
  // GiveUp is not called any more once this has returned.
  void RemoveSpare(SpareObjects* spare);
  // Has spare objects of one keeper released, another each time. False if there are none.
  bool GiveUpSpare();
  // Whether spare objects may take so many more bytes.
  bool HasCleanRoom(uint64_t bytes) const;
  CleanCounters clean;

  // Whether the pool refuses what is not freed first.
  bool pool_full() const { return pool_full_.load(std::memory_order_relaxed); }
  // What it may hold to take pages again.
  uint64_t accept_bytes() const;
  // 1..100. Takes effect at the next Put.
  void set_accept_threshold_percent(unsigned percent) {
    accept_threshold_percent_.store(percent, std::memory_order_relaxed);
  }

  Zpool& pool() { return pool_; }
  BackingFile* backing() const { return options_.backing; }
  const Options& options() const { return options_; }
  Stats stats() const;
  // Memory of the reference counts, and for keeping spare objects.
  uint64_t metadata_bytes();

 private:
  // nullopt if that takes too much room.
  std::optional<size_t> Compress(std::span<const std::byte, kPageBytes> page, Workspace& workspace,
                                 std::span<std::byte, kPageBytes> out,
                                 const Compressor& compressor) const;
  std::optional<PageEntry> PutWord(uint64_t word);
  std::optional<PageEntry> PutInPool(std::span<const std::byte> object, CodecId codec);
  std::optional<PageEntry> PutOnDisk(std::span<const std::byte> object, CodecId codec,
                                     BackingFile::Purpose purpose = BackingFile::Purpose::kStoring,
                                     AppendResult* why = nullptr);
  bool PoolAccepts();

  Zpool& pool_;
  const Options options_;
  std::atomic<unsigned> accept_threshold_percent_;
  std::atomic<bool> pool_full_{false};
  std::atomic<uint64_t> incompressible_rejects_{0};
  std::atomic<uint64_t> pool_full_rejects_{0};
  std::atomic<uint64_t> fat_pages_{0};
  std::atomic<uint64_t> spilled_pages_{0};
  std::atomic<uint64_t> written_back_pages_{0};
  std::array<std::atomic<uint64_t>, 5> append_results_{};  // by AppendResult

  Mutex spare_mutex_;  // taken before the keepers' own
  std::vector<SpareObjects*> spare_ ABSL_GUARDED_BY(spare_mutex_);
  size_t next_spare_ ABSL_GUARDED_BY(spare_mutex_) = 0;

  Mutex mutex_;
  // Holders beyond the first of objects that forked relatives share, by the bits of the entry that
  // name the object. An object without an entry here has one holder.
  absl::flat_hash_map<uint64_t, uint32_t> extra_holders_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace zmem
