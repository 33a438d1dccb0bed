#include "zmemd/size_histogram.h"

#include <gtest/gtest.h>

#include <vector>

namespace zmem {
namespace {

using nlohmann::json;

std::vector<uint64_t> RowsWith(std::vector<std::pair<size_t, uint64_t>> counts) {
  std::vector<uint64_t> rows(SizeHistogram::kRows);
  for (auto [row, count] : counts) rows[row] = count;
  return rows;
}

TEST(SizeHistogram, CountsStoredPagesByTierAndSize) {
  SizeHistogram histogram;
  // 4-byte words, then objects at both ends of rows; the last is a page that was not compressed.
  histogram.Add(PageEntry::SameFilled(*PackWord(0)));
  for (size_t bytes : {1, 256, 257, 4096}) {
    histogram.Add(PageEntry::InPool(ZHandle{7}, bytes, CodecId::kLz4));
  }
  histogram.Add(PageEntry::InPool(ZHandle{7}, 300, CodecId::kLz4).With(PageEntry::kShared));
  histogram.Add(PageEntry::OnDisk({DiskHandle{9}, 3840}, CodecId::kLz4));
  histogram.Add(PageEntry::OnDisk({DiskHandle{9}, 3841}, CodecId::kRaw));
  for (PageEntry not_stored :
       {PageEntry(), PageEntry::Staged(3), PageEntry::Isolating(3), PageEntry::Lost()}) {
    histogram.Add(not_stored);
  }
  EXPECT_EQ(histogram.ToJson(), (json{{"row_bytes", 256},
                                      {"same_filled_pages", 1},
                                      {"pool_pages", RowsWith({{0, 2}, {1, 2}, {15, 1}})},
                                      {"disk_pages", RowsWith({{14, 1}, {15, 1}})}}));
}

TEST(SizeHistogram, WalksEveryChunkOfATable) {
  auto arena = ChunkArena::Create(4);
  ASSERT_TRUE(arena.ok()) << arena.status();
  PageTable table(**arena);
  for (uint64_t number : {3, 9}) {
    std::shared_ptr<Chunk> chunk = table.FindOrAdd(number);
    chunk->Initialise(0, PageEntry::SameFilled(*PackWord(0)));
    chunk->Initialise(kPagesPerChunk - 1, PageEntry::InPool(ZHandle{7}, 1000, CodecId::kLz4));
  }
  SizeHistogram histogram;
  histogram.Add(table);
  EXPECT_EQ(histogram.ToJson()["same_filled_pages"], 2);
  EXPECT_EQ(histogram.ToJson()["pool_pages"], RowsWith({{3, 2}}));
}

}  // namespace
}  // namespace zmem
