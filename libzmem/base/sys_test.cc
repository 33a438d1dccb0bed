#include "libzmem/base/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

namespace zmem {
namespace {

class FailPread : public sys::FailureInjector {
 public:
  int ErrnoFor(sys::Call call, uint64_t) override { return call == sys::Call::kPread ? EIO : 0; }
};

TEST(Sys, TheSeamMakesACallFailAndLetsOthersThrough) {
  FailPread fail;
  sys::SetFailureInjector(&fail);
  UniqueFd fd(sys::Open("/proc/self/maps", O_RDONLY));
  char byte;
  ssize_t got = sys::Pread(fd.get(), &byte, 1, 0);
  sys::SetFailureInjector(nullptr);
  EXPECT_TRUE(fd.valid());
  EXPECT_EQ(got, -EIO);
  EXPECT_EQ(sys::Pread(fd.get(), &byte, 1, 0), 1);
}

class FailFirstMib : public sys::FailureInjector {
 public:
  int ErrnoFor(sys::Call call, uint64_t detail) override {
    return call == sys::Call::kRingRead && detail < (1 << 20) ? EIO : 0;
  }
  size_t BytesFor(sys::Call, size_t bytes) override { return bytes / 2; }
};

TEST(Sys, TheSeamFailsAndShortensTransfersByIoUring) {
  size_t bytes = 4096;
  EXPECT_EQ(sys::AdmitRingTransfer(sys::Call::kRingRead, 0, bytes), 0);
  EXPECT_EQ(bytes, 4096u);
  FailFirstMib fail;
  sys::SetFailureInjector(&fail);
  EXPECT_EQ(sys::AdmitRingTransfer(sys::Call::kRingRead, 0, bytes), -EIO);
  EXPECT_EQ(bytes, 4096u);
  EXPECT_EQ(sys::AdmitRingTransfer(sys::Call::kRingRead, 1 << 20, bytes), 0);
  sys::SetFailureInjector(nullptr);
  EXPECT_EQ(bytes, 2048u);
}

TEST(Sys, OpenReportsErrno) { EXPECT_EQ(sys::Open("/nonexistent/zmem", O_RDONLY), -ENOENT); }

TEST(Sys, ReadNoWaitNeverBlocksOnABlockingDescriptor) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  UniqueFd read_end(ends[0]);
  UniqueFd write_end(ends[1]);
  char byte;
  EXPECT_EQ(sys::ReadNoWait(read_end.get(), &byte, 1), -EAGAIN);
  ASSERT_EQ(write(write_end.get(), "x", 1), 1);
  EXPECT_EQ(sys::ReadNoWait(read_end.get(), &byte, 1), 1);
}

TEST(Sys, ReadFileNamesThePathInItsError) {
  std::string contents;
  EXPECT_TRUE(sys::ReadFile("/proc/self/status", contents).ok());
  EXPECT_NE(contents.find("Name:"), std::string::npos);
  absl::Status missing = sys::ReadFile("/nonexistent/zmem", contents);
  EXPECT_TRUE(absl::IsNotFound(missing));
  EXPECT_NE(missing.message().find("/nonexistent/zmem"), absl::string_view::npos);
}

TEST(Sys, UniqueFdClosesOnce) {
  int raw = dup(0);
  {
    UniqueFd fd(raw);
    UniqueFd moved(std::move(fd));
    EXPECT_FALSE(fd.valid());
    EXPECT_EQ(moved.get(), raw);
  }
  EXPECT_EQ(fcntl(raw, F_GETFD), -1);
}

}  // namespace
}  // namespace zmem
