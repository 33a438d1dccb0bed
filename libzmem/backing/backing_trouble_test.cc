// What can go wrong with a backing file: paths that will not do, and disks that fail.
#include <sys/stat.h>

#include "libzmem/backing/test_backing.h"
#include "libzmem/base/page.h"

namespace zmem {
namespace {

class BackingTrouble : public testing::Test {
 protected:
  std::unique_ptr<BackingFile> Open() { return MustOpen(Options()); }
  BackingFile::Options Options() const {
    return {.path = directory_ / "backing", .size_bytes = 4 * kMib};
  }

  TestDirectory directory_;
};

// One line that names the path, with a code that says what kind of error it is.
void ExpectRefused(const BackingFile::Options& options, absl::StatusCode code,
                   const std::string& words) {
  absl::Status status = BackingFile::Open(options).status();
  EXPECT_EQ(status.code(), code) << status;
  std::string message(status.message());
  EXPECT_NE(message.find(words), std::string::npos) << message;
  EXPECT_NE(message.find(options.path), std::string::npos) << message;
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
}

// Fails one kind of call, for one detail or bits of it.
class FailCall : public sys::FailureInjector {
 public:
  FailCall(sys::Call call, uint64_t detail_bits, int error)
      : call_(call), detail_bits_(detail_bits), error_(error) {
    sys::SetFailureInjector(this);
  }
  ~FailCall() override { sys::SetFailureInjector(nullptr); }
  int ErrnoFor(sys::Call call, uint64_t detail) override {
    return call == call_ && (detail & detail_bits_) == detail_bits_ ? error_ : 0;
  }

 private:
  const sys::Call call_;
  const uint64_t detail_bits_;
  const int error_;
};

constexpr uint64_t kNamelessFlag = O_TMPFILE & ~O_DIRECTORY;

TEST_F(BackingTrouble, AMissingDirectoryIsNamed) {
  ExpectRefused({.path = directory_ / "no/backing", .size_bytes = 4 * kMib},
                absl::StatusCode::kNotFound, "create it");
}

TEST_F(BackingTrouble, ADirectoryThatCannotBeWrittenIsNamed) {
  ExpectRefused({.path = "/sys/zmem-backing", .size_bytes = 4 * kMib},
                absl::StatusCode::kPermissionDenied, "the directory /sys cannot be written");
}

TEST_F(BackingTrouble, WhatIsNeitherFileNorDeviceIsRefused) {
  ExpectRefused({.path = directory_.path(), .size_bytes = 4 * kMib},
                absl::StatusCode::kInvalidArgument, "neither a file nor a block device");
  ASSERT_EQ(mkfifo((directory_ / "fifo").c_str(), 0600), 0);
  ExpectRefused({.path = directory_ / "fifo", .size_bytes = 4 * kMib},
                absl::StatusCode::kInvalidArgument, "neither a file nor a block device");
  ASSERT_EQ(symlink("target", (directory_ / "link").c_str()), 0);
  ExpectRefused({.path = directory_ / "link", .size_bytes = 4 * kMib},
                absl::StatusCode::kInvalidArgument, "symbolic link");
}

TEST_F(BackingTrouble, SizesOutOfBoundsAreRefused) {
  ExpectRefused({.path = directory_ / "backing", .size_bytes = 2 * kMib - 1},
                absl::StatusCode::kInvalidArgument, "too small");
  ExpectRefused({.path = directory_ / "backing"}, absl::StatusCode::kInvalidArgument, "too small");
  ExpectRefused({.path = directory_ / "backing", .size_bytes = (uint64_t{16} << 40) + 1},
                absl::StatusCode::kInvalidArgument, "at most 16T");
  BackingFile::Options odd = Options();
  odd.segment_bytes = 3 << 17;
  EXPECT_TRUE(absl::IsInvalidArgument(BackingFile::Open(odd).status()));
  odd = Options();
  odd.path.clear();
  EXPECT_TRUE(absl::IsInvalidArgument(BackingFile::Open(odd).status()));
}

TEST_F(BackingTrouble, AFileInUseIsRefusedUntilItsOwnerIsGone) {
  auto file = Open();
  ExpectRefused(Options(), absl::StatusCode::kUnavailable, "in use");
  file.reset();
  EXPECT_NE(Open(), nullptr);
}

TEST_F(BackingTrouble, FileSystemsWithoutDirectIoAreRefused) {
  {
    FailCall fail(sys::Call::kOpen, kNamelessFlag, EINVAL);
    ExpectRefused(Options(), absl::StatusCode::kFailedPrecondition, "direct I/O");
  }
  struct stat info;
  if (stat("/dev/shm", &info) != 0) GTEST_SKIP() << "no /dev/shm";
  std::string path = "/dev/shm/zmem-backing-test." + std::to_string(getpid());
  ExpectRefused({.path = path, .size_bytes = 4 * kMib}, absl::StatusCode::kFailedPrecondition,
                "direct I/O");
  unlink(path.c_str());
}

TEST_F(BackingTrouble, NoSpaceToPreallocateIsSaid) {
  FailCall fail(sys::Call::kFallocate, 0, ENOSPC);
  BackingFile::Options options = Options();
  options.preallocate = true;
  ExpectRefused(options, absl::StatusCode::kResourceExhausted, "no space left");
}

TEST_F(BackingTrouble, NothingIsLeftInTheDirectoryButAnEmptyFile) {
  for (bool knows_nameless : {true, false}) {
    FailCall fail(sys::Call::kOpen, knows_nameless ? ~uint64_t{0} : kNamelessFlag, EOPNOTSUPP);
    auto file = Open();
    MustStore(*file, 1, 100);
    ASSERT_TRUE(file->Flush());
    for (const auto& entry : std::filesystem::directory_iterator(directory_.path())) {
      EXPECT_EQ(entry.path().filename(), "backing");
      EXPECT_EQ(entry.file_size(), 0u);
    }
  }
}

TEST_F(BackingTrouble, NothingAppendedIsLostWhileTheDiskRefusesWrites) {
  DiskTrouble trouble(sys::Call::kRingWrite);
  auto file = Open();
  auto reader = MustHaveReader(*file);
  trouble.FailNext(UINT64_MAX, EIO);
  auto all = StoreMany(*file, 0, 300);  // three segments
  EXPECT_FALSE(file->Flush());
  EXPECT_TRUE(file->stats().is_suspended);
  EXPECT_GE(file->stats().io_errors_write, 8u);
  DiskHandle handle;
  EXPECT_EQ(file->Append(BytesOfKey(0, 16), &handle), AppendResult::kSuspended);
  for (const Stored& stored : all) {
    ASSERT_TRUE(IsIntact(*file, stored));
    ASSERT_TRUE(IsIntactThrough(*reader, stored));
  }
  EXPECT_EQ(file->stats().bytes_read, 0u);
  EXPECT_EQ(file->stats().bytes_written, 0u);

  trouble.FailNext(0, 0);
  ASSERT_TRUE(Await([&] { return !file->stats().is_suspended; }));
  ASSERT_TRUE(file->Flush());
  EXPECT_EQ(file->Append(BytesOfKey(0, 16), &handle), AppendResult::kDone);
  for (const Stored& stored : all) {
    ASSERT_TRUE(IsIntact(*file, stored));
    ASSERT_TRUE(IsIntactThrough(*reader, stored));
  }
  EXPECT_GT(file->stats().bytes_read, 0u);
}

TEST_F(BackingTrouble, FreeingWhatCannotBeWrittenLiftsTheSuspension) {
  DiskTrouble trouble(sys::Call::kRingWrite);
  auto file = Open();
  trouble.FailNext(UINT64_MAX, EIO);
  Stored stored = MustStore(*file, 1, 100);
  EXPECT_FALSE(file->Flush());
  file->Free(stored.object);
  EXPECT_TRUE(Await([&] { return !file->stats().is_suspended; }));
  EXPECT_EQ(file->stats().held_bytes, 0u);
}

TEST_F(BackingTrouble, ShortTransfersAreContinued) {
  auto file = Open();
  auto reader = MustHaveReader(*file);
  std::vector<Stored> all;
  {
    DiskTrouble trouble(sys::Call::kRingWrite);
    trouble.CutTo(8192 + 512);  // what is over a block is written again
    all = StoreMany(*file, 0, 40);
    ASSERT_TRUE(file->Flush());
    EXPECT_GE(trouble.seen(), 20u);
  }
  DiskTrouble trouble(sys::Call::kRingRead);
  trouble.CutTo(4096);
  for (const Stored& stored : all) {
    EXPECT_TRUE(IsIntact(*file, stored));
    EXPECT_TRUE(IsIntactThrough(*reader, stored));
  }
  EXPECT_GE(trouble.seen(), 80u);
}

TEST_F(BackingTrouble, ReadErrorsAreRepeatedAFewTimesThenReported) {
  auto file = Open();
  auto reader = MustHaveReader(*file);
  Stored stored = MustStore(*file, 1, kPageBytes);
  ASSERT_TRUE(file->Flush());
  {
    DiskTrouble trouble(sys::Call::kRingRead);
    trouble.FailNext(3, EIO);
    EXPECT_TRUE(IsIntactThrough(*reader, stored));
    trouble.FailNext(UINT64_MAX, EIO);
    ReadOutcome outcome = ReadThrough(*reader, stored.object);
    EXPECT_EQ(outcome.status, DiskReadStatus::kFailed);
    EXPECT_EQ(outcome.error, EIO);
    EXPECT_FALSE(outcome.bytes);
  }
  EXPECT_EQ(file->stats().io_errors_read, 3u + 4u);
  {
    DiskTrouble trouble(sys::Call::kPread);
    trouble.FailNext(3, EINTR);
    EXPECT_TRUE(IsIntact(*file, stored));
    trouble.FailNext(UINT64_MAX, EIO);
    Bytes out(kPageBytes);
    int error = 0;
    EXPECT_EQ(file->ReadNow(stored.object, out, &error), DiskReadStatus::kFailed);
    EXPECT_EQ(error, EIO);
  }
  EXPECT_TRUE(IsIntactThrough(*reader, stored));
}

TEST_F(BackingTrouble, DamagedRecordsAreReportedAndTheirNeighboursAreNot) {
  auto file = Open();
  auto reader = MustHaveReader(*file);
  auto all = StoreMany(*file, 0, 3);
  ASSERT_TRUE(file->Flush());
  UniqueFd data = OpenData(directory_);
  uint64_t middle = all[1].object.handle.granule * kDiskGranuleBytes + 2000;
  ASSERT_EQ(pwrite(data.get(), "damage", 6, static_cast<off_t>(middle)), 6);
  ReadOutcome outcome = ReadThrough(*reader, all[1].object);
  EXPECT_EQ(outcome.status, DiskReadStatus::kDamaged);
  EXPECT_FALSE(outcome.bytes);
  EXPECT_EQ(file->stats().checksum_errors, 2u);  // it was read again
  Bytes out;
  EXPECT_EQ(ReadNow(*file, all[1], out), DiskReadStatus::kDamaged);
  EXPECT_EQ(file->stats().checksum_errors, 4u);
  for (const Stored& stored : {all[0], all[2]}) {
    EXPECT_TRUE(IsIntact(*file, stored));
    EXPECT_TRUE(IsIntactThrough(*reader, stored));
  }
}

// What a disk that drops or misdirects writes does.
TEST_F(BackingTrouble, ARecordOfAnotherPlaceIsNotTaken) {
  auto file = Open();
  auto reader = MustHaveReader(*file);
  auto all = StoreMany(*file, 0, 2);
  ASSERT_TRUE(file->Flush());
  UniqueFd data = OpenData(directory_);
  auto offset_of = [&](int i) {
    return static_cast<off_t>(all[i].object.handle.granule * kDiskGranuleBytes);
  };
  Bytes record(kPageBytes + 8);
  ASSERT_EQ(pread(data.get(), record.data(), record.size(), offset_of(0)), ssize_t(record.size()));
  ASSERT_EQ(pwrite(data.get(), record.data(), record.size(), offset_of(1)), ssize_t(record.size()));
  EXPECT_EQ(ReadThrough(*reader, all[1].object).status, DiskReadStatus::kDamaged);
}

TEST_F(BackingTrouble, AFileCutShortIsReportedAndUsableAgain) {
  auto file = Open();
  auto reader = MustHaveReader(*file);
  auto all = StoreMany(*file, 0, 200);
  ASSERT_TRUE(file->Flush());
  UniqueFd data = OpenData(directory_);
  ASSERT_EQ(ftruncate(data.get(), 8192), 0);
  EXPECT_TRUE(IsIntactThrough(*reader, all[0]));
  for (size_t at : {size_t{1}, size_t{100}, all.size() - 1}) {
    ReadOutcome outcome = ReadThrough(*reader, all[at].object);
    EXPECT_NE(outcome.status, DiskReadStatus::kOk);
    EXPECT_FALSE(outcome.bytes);
    Bytes out;
    EXPECT_NE(ReadNow(*file, all[at], out), DiskReadStatus::kOk);
  }
  for (const Stored& stored : all) file->Free(stored.object);
  auto young = StoreMany(*file, 1000, 200);
  ASSERT_TRUE(file->Flush());
  for (const Stored& stored : young) ASSERT_TRUE(IsIntactThrough(*reader, stored));
}

}  // namespace
}  // namespace zmem
