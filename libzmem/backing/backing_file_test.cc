#include "libzmem/backing/backing_file.h"

#include <sys/stat.h>

#include <condition_variable>
#include <mutex>
#include <set>

#include "libzmem/backing/test_backing.h"
#include "libzmem/base/page.h"

namespace zmem {
namespace {

constexpr size_t kSegmentBytes = size_t{512} << 10;

uint64_t SegmentOf(DiskHandle handle) { return handle.granule * kDiskGranuleBytes / kSegmentBytes; }

// Holds the writing thread up before its first write until opened.
class WriteGate : public sys::FailureInjector {
 public:
  WriteGate() { sys::SetFailureInjector(this); }
  ~WriteGate() override { sys::SetFailureInjector(nullptr); }
  void Open() {
    std::lock_guard lock(mutex_);
    is_open_ = true;
    opened_.notify_all();
  }
  int ErrnoFor(sys::Call call, uint64_t) override {
    if (call != sys::Call::kRingWrite) return 0;
    std::unique_lock lock(mutex_);
    opened_.wait(lock, [this] { return is_open_; });
    return 0;
  }

 private:
  std::mutex mutex_;
  std::condition_variable opened_;
  bool is_open_ = false;
};

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

TEST_F(BackingFileTest, AppendIsBusyWhileTheDiskIsBehindAndReadingGoesOn) {
  WriteGate gate;
  auto file = Open(8 * kMib);
  auto reader = MustHaveReader(*file);
  std::vector<Stored> all;
  while (auto stored = Store(*file, all.size(), kPageBytes)) all.push_back(*stored);
  DiskHandle handle;
  EXPECT_EQ(file->Append(BytesOfKey(0, 16), &handle), AppendResult::kBusy);
  EXPECT_GT(SegmentOf(all.back().object.handle), 0u);
  for (const Stored& stored : all) ASSERT_TRUE(IsIntactThrough(*reader, stored));
  gate.Open();
  EXPECT_TRUE(file->Flush());
  EXPECT_TRUE(Store(*file, 0, kPageBytes));
  for (const Stored& stored : all) ASSERT_TRUE(IsIntactThrough(*reader, stored));
}

TEST_F(BackingFileTest, SegmentsOfWhichNothingLivesAreNotWritten) {
  WriteGate gate;
  auto file = Open(4 * kMib);
  std::vector<Stored> all;
  while (auto stored = Store(*file, all.size(), kPageBytes)) all.push_back(*stored);
  for (const Stored& stored : all) file->Free(stored.object);
  gate.Open();
  EXPECT_TRUE(file->Flush());
  // The gate may have held one write that had begun.
  EXPECT_LE(file->stats().bytes_written, kSegmentBytes);
  EXPECT_EQ(file->stats().held_bytes, 0u);
}

TEST_F(BackingFileTest, AFullFileSaysSoAndKeepsRoomForCleaning) {
  auto file = Open(4 * kMib);
  auto all = StoreMany(*file, 0, SIZE_MAX);
  EXPECT_EQ(file->stats().free_segments, 1u);
  for (const Stored& stored : all) ASSERT_TRUE(IsIntact(*file, stored));
  DiskHandle handle;
  Bytes object = BytesOfKey(1, kPageBytes);
  EXPECT_EQ(file->Append(object, &handle), AppendResult::kFull);
  ASSERT_TRUE(file->Flush());
  EXPECT_EQ(file->Append(object, &handle, BackingFile::Purpose::kCleaning), AppendResult::kDone);
  EXPECT_EQ(file->Append(object, &handle), AppendResult::kFull);
}

TEST_F(BackingFileTest, CleaningEmptiesSparseSegmentsAndReusesThemAfterTheRoundOnly) {
  auto file = Open(4 * kMib);
  std::vector<Stored> kept;
  for (const Stored& stored : StoreMany(*file, 0, SIZE_MAX)) {
    if (stored.key % 8 == 0) {
      kept.push_back(stored);
    } else {
      file->Free(stored.object);
    }
  }
  ASSERT_TRUE(file->Flush());
  uint64_t held_before = file->stats().held_bytes;
  EXPECT_FALSE(file->IsVictim(kept[0].object.handle));
  ASSERT_EQ(file->ChooseVictims(3), 3u);
  EXPECT_EQ(file->stats().victim_segments, 3u);
  std::set<uint64_t> victims;
  for (Stored& stored : kept) {
    if (!file->IsVictim(stored.object.handle)) continue;
    victims.insert(SegmentOf(stored.object.handle));
    Bytes bytes(kPageBytes);
    ASSERT_EQ(file->ReadNow(stored.object, bytes), DiskReadStatus::kOk);
    DiskHandle handle;
    ASSERT_EQ(file->Append(bytes, &handle, BackingFile::Purpose::kCleaning), AppendResult::kDone);
    file->Free(stored.object);
    stored.object.handle = handle;
  }
  EXPECT_EQ(victims.size(), 3u);
  EXPECT_EQ(file->stats().cleaned_bytes, 3 * kSegmentBytes);
  for (const Stored& stored : StoreMany(*file, 1000, SIZE_MAX)) {
    EXPECT_FALSE(victims.contains(SegmentOf(stored.object.handle)));
    file->Free(stored.object);
  }
  file->EndRound();
  ASSERT_TRUE(file->Flush());
  EXPECT_EQ(file->stats().victim_segments, 0u);
  EXPECT_LT(file->stats().held_bytes, held_before);
  for (const Stored& stored : kept) EXPECT_TRUE(IsIntact(*file, stored));
}

TEST_F(BackingFileTest, SegmentsMoreThanHalfLiveAreNoVictims) {
  auto file = Open(4 * kMib);
  auto all = StoreMany(*file, 0, 254);
  for (const Stored& stored : all) {
    if (stored.key % 3 == 0) file->Free(stored.object);
  }
  ASSERT_TRUE(file->Flush());
  EXPECT_EQ(file->ChooseVictims(8), 0u);
  file->EndRound();
}

TEST_F(BackingFileTest, AReadOvertakenByANewUseOfThePlaceIsStale) {
  auto file =
      MustOpen({.path = directory_ / "backing", .size_bytes = 2 * kMib, .preallocate = true});
  auto reader = MustHaveReader(*file);
  Stored old = MustStore(*file, 1, kPageBytes);
  ASSERT_TRUE(file->Flush());
  DiskTrouble trouble(sys::Call::kRingRead);
  trouble.FailNext(1, EAGAIN);  // and so the disk is read after what follows
  ASSERT_EQ(reader->Begin(DiskReadRequest::Of(old.object, 0)), DiskReader::BeginResult::kStarted);
  file->Free(old.object);
  Stored young = MustStore(*file, 2, kPageBytes);
  ASSERT_TRUE(file->Flush());
  ASSERT_EQ(young.object, old.object);

  std::optional<DiskReadStatus> status;
  while (!status && AwaitReadable(*reader)) {
    reader->Complete([&](const DiskReadResult& result) {
      status = result.status;
      EXPECT_FALSE(result.Record(old.object));
    });
  }
  EXPECT_EQ(status, DiskReadStatus::kStale);
  EXPECT_EQ(file->stats().stale_reads, 1u);
  EXPECT_EQ(file->stats().checksum_errors, 0u);
  EXPECT_TRUE(IsIntactThrough(*reader, young));
}

TEST_F(BackingFileTest, AReadOfWhatWasFreedBeforeIsStaleNotDamaged) {
  auto file = Open(4 * kMib);
  auto reader = MustHaveReader(*file);
  Stored old = MustStore(*file, 1, kPageBytes);
  ASSERT_TRUE(file->Flush());
  file->Free(old.object);
  EXPECT_EQ(ReadThrough(*reader, old.object).status, DiskReadStatus::kStale);
  Bytes out;
  EXPECT_EQ(ReadNow(*file, old, out), DiskReadStatus::kStale);
  EXPECT_EQ(file->stats().stale_reads, 2u);
  EXPECT_EQ(file->stats().checksum_errors, 0u);
}

TEST_F(BackingFileTest, TheSpaceOfEmptySegmentsGoesBackUnlessItWasPreallocated) {
  for (bool preallocate : {false, true}) {
    auto file = MustOpen(
        {.path = directory_ / "backing", .size_bytes = 4 * kMib, .preallocate = preallocate});
    UniqueFd data = OpenData(directory_);
    auto disk_bytes = [&] {
      struct stat info;
      EXPECT_EQ(fstat(data.get(), &info), 0);
      return static_cast<uint64_t>(info.st_blocks) * 512;
    };
    EXPECT_EQ(disk_bytes() >= 4 * kMib, preallocate);
    auto all = StoreMany(*file, 0, 500);
    ASSERT_TRUE(file->Flush());
    EXPECT_GE(disk_bytes(), 3 * kSegmentBytes);
    for (const Stored& stored : all) file->Free(stored.object);
    if (preallocate) {
      EXPECT_GE(disk_bytes(), 4 * kMib);
    } else {
      EXPECT_TRUE(Await([&] { return disk_bytes() < kSegmentBytes; }));
    }
    EXPECT_EQ(file->stats().held_bytes, 0u);
  }
}

TEST_F(BackingFileTest, TheDailyLimitStopsAppendingUntilTheNextDay) {
  FakeClock clock;
  auto file = MustOpen({.path = directory_ / "backing",
                        .size_bytes = 4 * kMib,
                        .daily_write_limit_bytes = 10'000,
                        .clock = &clock});
  Bytes object = BytesOfKey(1, kPageBytes);
  DiskHandle handle;
  EXPECT_EQ(file->Append(object, &handle), AppendResult::kDone);
  EXPECT_EQ(file->Append(object, &handle), AppendResult::kDone);
  EXPECT_EQ(file->Append(object, &handle), AppendResult::kLimited);
  EXPECT_EQ(file->stats().daily_bytes_left, 10'000u - 2 * 4112);
  clock.Advance(int64_t{24 * 3600} * 1'000'000'000);
  EXPECT_EQ(file->stats().daily_bytes_left, 10'000u);
  EXPECT_EQ(file->Append(object, &handle), AppendResult::kDone);
}

TEST_F(BackingFileTest, AReaderTakesFourReadsAtATime) {
  auto file = Open(4 * kMib);
  auto reader = MustHaveReader(*file);
  auto all = StoreMany(*file, 0, 5);
  ASSERT_TRUE(file->Flush());
  for (int i = 0; i < 4; ++i) {
    ASSERT_EQ(reader->Begin(DiskReadRequest::Of(all[i].object, i)),
              DiskReader::BeginResult::kStarted);
  }
  EXPECT_EQ(reader->Begin(DiskReadRequest::Of(all[4].object, 4)), DiskReader::BeginResult::kBusy);
  std::set<uint64_t> cookies;
  while (cookies.size() < 4 && AwaitReadable(*reader)) {
    reader->Complete([&](const DiskReadResult& result) { cookies.insert(result.cookie); });
  }
  EXPECT_EQ(cookies, (std::set<uint64_t>{0, 1, 2, 3}));
  EXPECT_TRUE(IsIntactThrough(*reader, all[4]));
}

TEST_F(BackingFileTest, StatisticsCountWhatTheySay) {
  auto file = Open(4 * kMib);
  auto before = file->stats();
  EXPECT_EQ(before.segments, 8u);
  EXPECT_EQ(before.free_segments, 8u);
  EXPECT_EQ(before.held_bytes, 0u);
  EXPECT_EQ(before.daily_bytes_left, UINT64_MAX);
  EXPECT_GE(before.metadata_bytes, 4 * kSegmentBytes);
  Stored first = MustStore(*file, 1, 1000);
  MustStore(*file, 2, 3000);
  ASSERT_TRUE(file->Flush());
  EXPECT_TRUE(IsIntact(*file, first));
  file->Free(first.object);
  auto after = file->stats();
  EXPECT_EQ(after.objects, 1u);
  EXPECT_EQ(after.live_bytes, 3000u);
  EXPECT_EQ(after.held_bytes, kSegmentBytes);
  EXPECT_EQ(after.writes, 2u);
  EXPECT_EQ(after.reads, 1u);
  EXPECT_EQ(after.bytes_written, kPageBytes);
  EXPECT_EQ(after.bytes_read, kPageBytes);
  auto reader = MustHaveReader(*file);
  EXPECT_GT(file->stats().metadata_bytes, before.metadata_bytes);
  reader.reset();
  EXPECT_EQ(file->stats().metadata_bytes, before.metadata_bytes);
}

}  // namespace
}  // namespace zmem
