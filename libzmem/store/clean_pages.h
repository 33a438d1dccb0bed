// The stored forms of pages that came back, of one process: a page that goes out again unchanged is
// neither compressed nor written again, as with the kernel's swap cache. A form is only ever used
// for a page with the bytes that it holds, so one that is out of date is of no use, but of no harm
// either. Whether it has them says a hash of 128 bits with a seed of its own: to decode the form
// and compare takes twenty times as long (docs/performance.md). Thread-safe. Its lock is taken
// after the table's and before the pool's.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "libzmem/base/mutex.h"
#include "libzmem/base/page.h"
#include "libzmem/store/page_entry.h"
#include "libzmem/store/page_store.h"

namespace zmem {

class CleanPages final : public SpareObjects {
 public:
  // Gives up what it keeps when `store`, which outlives it, needs the room.
  explicit CleanPages(PageStore& store);
  ~CleanPages() override;
  CleanPages(const CleanPages&) = delete;
  CleanPages& operator=(const CleanPages&) = delete;

  // How a page came back. One of a stream that passes goes out again soon if room is scarce
  // (store/passed_pages.h); for its form the oldest ones are given up.
  enum class Return { kAlone, kInStream };
  // Takes over `entry`, which is no longer published: what it holds, `bytes`, is back in the
  // program at `page`. False if it is not worth its room, or has no object: it is still the
  // caller's then.
  bool Keep(Address page, PageEntry entry, std::span<const std::byte, kPageBytes> bytes,
            Return how = Return::kAlone);

  // What was kept for `page`, if it holds `bytes`: to be published again, and the caller's until
  // then. What holds other bytes is given up.
  std::optional<PageEntry> Reuse(Address page, std::span<const std::byte, kPageBytes> bytes);

  // Gives up what is kept of pages in `range`.
  void Drop(AddressRange range);
  // Gives up the entries that `unwanted` is true of; it must not call back. False if there are
  // none.
  bool DropIf(absl::FunctionRef<bool(PageEntry)> unwanted);
  // Gives up what was kept before the last call.
  void Age();
  // Gives up what is in the pool.
  bool GiveUp() override;
  // Whether anything is kept from now on; what is kept already is given up if not.
  void set_enabled(bool enabled);

 private:
  struct Hash {
    uint64_t low = 0;
    uint64_t high = 0;

    friend bool operator==(const Hash&, const Hash&) = default;
  };
  struct Form {
    PageEntry entry;
    Hash hash;  // of the page
  };
  struct ChunkForms {
    uint64_t period = 0;  // of Age, when the last was kept
    uint64_t kept = 0;    // the number of that Keep
    uint64_t queued = 0;  // the same, when it was put into queue_ last
    size_t count = 0;
    std::array<Form, kPagesPerChunk> forms{};
  };
  using Forms = absl::flat_hash_map<uint64_t, std::unique_ptr<ChunkForms>>;

  // Gives up a few of the forms that were kept longest ago. False if there are none.
  bool GiveUpOldest();
  // Those of the chunk in front of queue_; the end if there are none.
  Forms::iterator OldestLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether forms of this process were of use lately. If not, few are kept, to see.
  bool Promising();
  void Learn(bool reused);
  // What is kept for `page`; its entry is kResident if there is nothing. Not kept any more then.
  Form Take(Address page);
  Hash HashOf(std::span<const std::byte, kPageBytes> bytes) const;
  void Release(PageEntry entry);
  void ReleaseAll(const ChunkForms& forms);
  void DropAll();
  // Takes the form out of its place, if there is one.
  static PageEntry TakeOut(ChunkForms& forms, Form& form);
  // The chunk's, if none is left in them.
  std::unique_ptr<ChunkForms> TakeEmptyLocked(Forms::iterator chunk)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void QueueLocked(uint64_t chunk_number, ChunkForms& forms) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Of whole chunks.
  template <typename Unwanted>
  void DropForms(Unwanted unwanted);

  PageStore& store_;
  const uint64_t seed_;  // nobody can make up pages that have the same hash
  std::atomic<bool> enabled_{true};
  std::atomic<uint32_t> promise_;  // 0..kCertain
  std::atomic<uint32_t> passed_over_{0};
  std::atomic<size_t> chunks_{0};  // forms_.size(), to pass by without the lock
  Mutex mutex_;
  uint64_t period_ ABSL_GUARDED_BY(mutex_) = 0;
  Forms forms_ ABSL_GUARDED_BY(mutex_);
  uint64_t keeps_ ABSL_GUARDED_BY(mutex_) = 0;
  // The chunks of forms_, those to be given up first in front; a chunk whose `kept` has changed
  // since it was put here goes to the end. One that is not there any more, or was put here again,
  // is passed over.
  struct Queued {
    uint64_t chunk_number;
    uint64_t kept;
  };
  std::deque<Queued> queue_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace zmem
