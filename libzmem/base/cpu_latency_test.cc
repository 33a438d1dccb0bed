#include "libzmem/base/cpu_latency.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include <string>
#include <utility>

namespace zmem {
namespace {

class CpuLatencyTest : public testing::Test {
 protected:
  void SetUp() override {
    path_ = testing::TempDir() + "/cpu_latency_XXXXXX";
    UniqueFd file(mkstemp(path_.data()));
    ASSERT_TRUE(file.valid());
  }
  void TearDown() override { unlink(path_.c_str()); }

  std::string Written() const {
    std::string text;
    EXPECT_TRUE(sys::ReadFile(path_, text).ok());
    return text;
  }

  std::string path_;
  FakeClock clock_;
};

TEST_F(CpuLatencyTest, ARequestSaysZeroMicrosecondsAndEndsWithItsHolder) {
  CpuLatency latency(clock_, {.most_holders = 1, .device = path_});
  {
    CpuLatency::Hold hold = latency.Begin();
    ASSERT_TRUE(hold.valid());
    EXPECT_EQ(Written(), std::string(4, '\0'));
    EXPECT_EQ(latency.stats().holds, 1u);
    EXPECT_EQ(latency.stats().held_ns, 0u);
    clock_.Advance(1000);
  }
  EXPECT_EQ(latency.stats().held_ns, 1000u);
}

TEST_F(CpuLatencyTest, ThereAreNoMoreHoldersThanMayBe) {
  CpuLatency latency(clock_, {.most_holders = 2, .device = path_});
  CpuLatency::Hold first = latency.Begin();
  CpuLatency::Hold second = latency.Begin();
  EXPECT_TRUE(first.valid() && second.valid());
  EXPECT_FALSE(latency.Begin().valid());
  CpuLatency::Hold moved = std::move(first);
  EXPECT_FALSE(latency.Begin().valid());
  moved = CpuLatency::Hold();
  EXPECT_TRUE(latency.Begin().valid());
  EXPECT_EQ(latency.stats().holds, 3u);
}

TEST_F(CpuLatencyTest, ADeviceThatIsNotThereIsAskedForOnce) {
  CpuLatency latency(clock_, {.most_holders = 1, .device = path_ + ".none"});
  EXPECT_FALSE(latency.Begin().valid());
  UniqueFd created(sys::Open((path_ + ".none").c_str(), O_CREAT | O_WRONLY, 0600));
  EXPECT_FALSE(latency.Begin().valid());
  EXPECT_EQ(latency.stats().holds, 0u);
  unlink((path_ + ".none").c_str());
}

TEST_F(CpuLatencyTest, ADeviceThatCannotBeOpenedForAMomentIsAskedForAgain) {
  CpuLatency latency(clock_, {.most_holders = 1, .device = path_});
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit none = before;
  none.rlim_cur = 0;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  EXPECT_FALSE(latency.Begin().valid());
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_TRUE(latency.Begin().valid());
}

}  // namespace
}  // namespace zmem
