// How large the objects are that pages were compressed to: counted from the page tables, since the
// pool and the file know objects, not pages.
// Thread-safe if each histogram belongs to one thread. Programs wait for it no longer than for one
// look at a map: no gate is taken, and what changes meanwhile is counted before or after.
#pragma once

#include <array>
#include <cstdint>
#include <nlohmann/json.hpp>

#include "libzmem/base/page.h"
#include "libzmem/store/page_entry.h"
#include "libzmem/store/page_table.h"

namespace zmem {

// Pages by the size of their object. A page that forked relatives share counts for each of them.
class SizeHistogram {
 public:
  static constexpr size_t kRowBytes = 256;
  static constexpr size_t kRows = kPageBytes / kRowBytes;

  // Counts every page that `table` has stored.
  void Add(PageTable& table);
  void Add(PageEntry entry);

  // {"row_bytes", "same_filled_pages", "pool_pages": [kRows], "disk_pages": [kRows]}; row i has the
  // objects of i * row_bytes + 1 to (i + 1) * row_bytes bytes.
  nlohmann::json ToJson() const;

 private:
  using Rows = std::array<uint64_t, kRows>;
  uint64_t same_filled_pages_ = 0;
  Rows pool_pages_{};
  Rows disk_pages_{};
};

}  // namespace zmem
