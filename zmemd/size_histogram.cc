#include "zmemd/size_histogram.h"

#include <memory>

namespace zmem {

void SizeHistogram::Add(PageTable& table) {
  for (uint64_t number : table.Numbers()) {
    std::shared_ptr<Chunk> chunk = table.Find(number);
    if (chunk == nullptr) continue;
    for (size_t page = 0; page < kPagesPerChunk; ++page) Add(chunk->Load(page));
  }
}

void SizeHistogram::Add(PageEntry entry) {
  switch (entry.state()) {
    case PageState::kSameFilled:
      ++same_filled_pages_;
      return;
    case PageState::kInPool:
      ++pool_pages_[(entry.object_bytes() - 1) / kRowBytes];
      return;
    case PageState::kOnDisk:
      ++disk_pages_[(entry.disk_object().bytes - 1) / kRowBytes];
      return;
    default:
      return;  // not stored
  }
}

nlohmann::json SizeHistogram::ToJson() const {
  return {{"row_bytes", kRowBytes},
          {"same_filled_pages", same_filled_pages_},
          {"pool_pages", pool_pages_},
          {"disk_pages", disk_pages_}};
}

}  // namespace zmem
