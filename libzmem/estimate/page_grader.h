// What would become of a page if it went out: whether it would be taken, and how much room it would
// need, by codec. The rules are PageStore's own, which grades by storing.
// Not thread-safe. Keeps nothing of a page.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "libzmem/base/page.h"
#include "libzmem/codec/compressor.h"
#include "libzmem/pool/zpool.h"
#include "libzmem/store/page_store.h"

namespace zmem {

struct PageGrade {
  bool goes_out = false;  // false: does not compress
  // Its object's share of a full span in the pool; 0 for what takes no room, or does not go out.
  double held_bytes = 0;
};

struct GradedPage {
  bool same_filled = false;
  std::array<PageGrade, kCodecIds> by_codec;  // in the order of CodecNames()
};

class PageGrader {
 public:
  // fat_percent: a page that compresses to more of its size stays (fat_threshold_percent).
  // Errors: as Zpool::Create.
  static absl::StatusOr<std::unique_ptr<PageGrader>> Create(unsigned fat_percent);

  GradedPage Grade(std::span<const std::byte, kPageBytes> page);

 private:
  explicit PageGrader(std::unique_ptr<Zpool> pool) : pool_(std::move(pool)) {}
  PageGrade GradeWith(PageStore& store, std::span<const std::byte, kPageBytes> page);

  const std::unique_ptr<Zpool> pool_;  // of one object at a time
  std::vector<std::unique_ptr<PageStore>> stores_;
  PageStore::Workspace workspace_;
};

}  // namespace zmem
