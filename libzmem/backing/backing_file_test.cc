#include "libzmem/backing/backing_file.h"

#include "libzmem/backing/test_backing.h"
#include "libzmem/base/page.h"

namespace zmem {
namespace {

class BackingFileTest : public testing::Test {
 protected:
  std::unique_ptr<BackingFile> Open(uint64_t size_bytes) {
    return MustOpen({.path = directory_ / "backing", .size_bytes = size_bytes});
  }

  TestDirectory directory_;
};

TEST_F(BackingFileTest, WhatIsAppendedIsReadableBeforeAndAfterItIsOnDisk) {
  auto file = Open(4 * kMib);
  auto reader = MustHaveReader(*file);
  std::vector<Stored> all;
  for (size_t bytes : {1, 8, 9, 1000, 4095, 4096}) all.push_back(MustStore(*file, bytes, bytes));
  for (const Stored& stored : all) {
    EXPECT_TRUE(IsIntact(*file, stored));
    EXPECT_TRUE(IsIntactThrough(*reader, stored));
  }
  EXPECT_EQ(file->stats().bytes_read, 0u);

  ASSERT_TRUE(file->Flush());
  for (const Stored& stored : all) {
    EXPECT_TRUE(IsIntact(*file, stored));
    EXPECT_TRUE(IsIntactThrough(*reader, stored));
  }
  EXPECT_GT(file->stats().bytes_read, 0u);
}

TEST_F(BackingFileTest, OneReadBringsNeighboursAlong) {
  auto file = Open(4 * kMib);
  auto reader = MustHaveReader(*file);
  std::vector<Stored> all;
  for (uint64_t key = 0; key < 16; ++key) all.push_back(MustStore(*file, key, kPageBytes - 100));
  ASSERT_TRUE(file->Flush());
  ASSERT_TRUE(file->CanReadTogether(all.front().object, all.back().object));
  ASSERT_EQ(reader->Begin({.wanted = all[5].object,
                           .first = all.front().object,
                           .last = all.back().object,
                           .cookie = 77}),
            DiskReader::BeginResult::kStarted);
  EXPECT_EQ(reader->in_flight(), 1u);
  size_t intact = 0;
  auto take = [&](const DiskReadResult& result) {
    EXPECT_EQ(result.cookie, 77u);
    for (const Stored& stored : all) {
      auto bytes = result.Record(stored.object);
      if (bytes &&
          Bytes(bytes->begin(), bytes->end()) == BytesOfKey(stored.key, stored.object.bytes)) {
        ++intact;
      }
    }
    EXPECT_FALSE(result.Record({{all[3].object.handle.granule + 1}, 100}));
  };
  while (reader->in_flight() > 0 && AwaitReadable(*reader)) reader->Complete(take);
  EXPECT_EQ(intact, all.size());
}

}  // namespace
}  // namespace zmem
