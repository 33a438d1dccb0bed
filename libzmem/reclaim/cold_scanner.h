// Which pages are cold: those that have neither come nor gone, nor been wanted back, nor touched,
// for the cold age. Where touches cannot be seen a page that stays in looks cold until it is taken
// on probation; what proves hot then is left alone for longer and longer: single pages by
// store/page_ages.h, chunks of which too much was wanted back by what is kept here.
// Of chunks that are not in the table yet, of which nothing was ever taken, only the whole has an
// age, since its population changed, or since when it is watched what of it is touched.
// Not thread-safe; makes no system call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "absl/container/flat_hash_map.h"
#include "libzmem/reclaim/epoch_clock.h"
#include "libzmem/store/page_table.h"
#include "libzmem/wire/messages.h"

namespace zmem {

class ColdScanner {
 public:
  static constexpr uint32_t kMaxBackoff = 16;

  explicit ColdScanner(const EpochClock& epochs) : epochs_(epochs) {}

  // What a look found of a chunk.
  struct Look {
    uint64_t chunk_number = 0;
    wire::PageSet present;
    // Of them, since the look before; nullopt where that cannot be seen.
    std::optional<wire::PageSet> touched;
    Chunk* chunk = nullptr;  // null if it is not in the table
  };
  void Note(const Look& look, int64_t now_ns) { Update(look, now_ns); }
  // The same. Returns those that are cold.
  wire::PageSet Observe(const Look& look, int64_t cold_age_ns, int64_t now_ns);
  // Pages that we have taken, or put back: no change of the program's.
  void OnTaken(uint64_t chunk_number, const wire::PageSet& pages);
  void OnReturned(uint64_t chunk_number, const wire::PageSet& pages);
  // What probation showed of the chunk: more than should be wanted back, or nothing.
  void OnHot(uint64_t chunk_number, int64_t now_ns);
  void OnCold(uint64_t chunk_number);
  // Forgets the chunks that were not observed since the last call.
  void ForgetUnseen();

  size_t size() const { return chunks_.size(); }

 private:
  struct Known {
    wire::PageSet present;
    // Before it was in the table: when its population changed last, or since when `touched` counts.
    int64_t changed_ns = 0;
    wire::PageSet touched;
    int64_t hot_ns = 0;
    uint32_t backoff = 1;
    bool has_ages = false;  // of single pages
    bool seen = false;
  };

  Known& Update(const Look& look, int64_t now_ns);
  // Of a chunk that is not in the table.
  wire::PageSet ColdOfWhole(Known& known, bool is_watched, int64_t cold_age_ns, int64_t now_ns);
  wire::PageSet ColdPages(const wire::PageSet& present, const Chunk& chunk, int64_t cold_age_ns,
                          int64_t now_ns) const;

  const EpochClock& epochs_;
  absl::flat_hash_map<uint64_t, Known> chunks_;
};

}  // namespace zmem
