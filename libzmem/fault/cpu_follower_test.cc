#include "libzmem/fault/cpu_follower.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <unistd.h>

namespace zmem {
namespace {

constexpr int64_t kClose = 20'000;
constexpr int64_t kFarApart = 2'000'000;
constexpr int kMany = 256;

// This thread as the one that follows, and as the one that it follows.
class CpuFollowerTest : public testing::Test {
 protected:
  CpuFollowerTest() { sched_getaffinity(0, sizeof before_, &before_); }
  ~CpuFollowerTest() override { sched_setaffinity(0, sizeof before_, &before_); }

  void Faults(int times, int64_t apart_ns) {
    for (int i = 0; i < times; ++i) follower_.OnFault(getpid(), gettid(), now_ns_ += apart_ns);
  }
  cpu_set_t allowed() const {
    cpu_set_t set;
    sched_getaffinity(0, sizeof set, &set);
    return set;
  }
  bool IsFree() const {
    cpu_set_t now = allowed();
    return CPU_EQUAL(&now, &before_);
  }

  CpuFollower follower_;
  cpu_set_t before_;
  int64_t now_ns_ = 1'000'000'000;
};

TEST_F(CpuFollowerTest, GoesWhereTheThreadIsWhileFaultsAreClose) {
  if (CPU_COUNT(&before_) < 2) GTEST_SKIP() << "needs two CPUs";
  Faults(kMany, kClose);
  EXPECT_FALSE(IsFree());
  cpu_set_t now = allowed();
  EXPECT_EQ(CPU_COUNT(&now), 1);
  EXPECT_TRUE(CPU_ISSET(sched_getcpu(), &now));
}

TEST_F(CpuFollowerTest, LeavesTheChoiceToTheSchedulerWhileTheyAreFarApart) {
  Faults(kMany, kFarApart);
  EXPECT_TRUE(IsFree());
}

TEST_F(CpuFollowerTest, LetsGoWhenTheyAreFarApartAgain) {
  Faults(kMany, kClose);
  Faults(kMany, kFarApart);
  EXPECT_TRUE(IsFree());
}

TEST_F(CpuFollowerTest, LooksAgainAtOnceWhenTheyAreCloseAgain) {
  if (CPU_COUNT(&before_) < 2) GTEST_SKIP() << "needs two CPUs";
  Faults(kMany, kClose);
  Faults(64, kFarApart);
  ASSERT_TRUE(IsFree());
  Faults(64, kClose);
  EXPECT_FALSE(IsFree());
}

TEST_F(CpuFollowerTest, BesideItMeansAnywhereElse) {
  if (CPU_COUNT(&before_) < 2) GTEST_SKIP() << "needs two CPUs";
  follower_.set_beside(true);
  Faults(kMany, kClose);
  cpu_set_t now = allowed();
  EXPECT_EQ(CPU_COUNT(&now), CPU_COUNT(&before_) - 1);
  follower_.set_beside(false);
  EXPECT_TRUE(IsFree());
}

TEST_F(CpuFollowerTest, KeepsToTheCpusThatAreItsOwn) {
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(sched_getcpu(), &one);
  ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
  follower_.set_beside(true);  // where there is no other
  Faults(kMany, kClose);
  cpu_set_t now = allowed();
  EXPECT_TRUE(CPU_EQUAL(&now, &one));
  follower_.set_beside(false);
  Faults(kMany, kClose);
  Faults(kMany, kFarApart);
  now = allowed();
  EXPECT_TRUE(CPU_EQUAL(&now, &one));
}

TEST_F(CpuFollowerTest, AThreadThatIsGoneIsNotFollowed) {
  for (int i = 0; i < kMany; ++i) follower_.OnFault(getpid(), 4194305, now_ns_ += kClose);
  EXPECT_TRUE(IsFree());
}

}  // namespace
}  // namespace zmem
