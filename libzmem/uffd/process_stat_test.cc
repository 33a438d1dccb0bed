#include "libzmem/uffd/process_stat.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <ctime>
#include <vector>

namespace zmem {
namespace {

TEST(ProcessStat, ResidentMemoryGrowsWithWhatIsTouched) {
  auto stat = ProcessStat::Open(getpid());
  ASSERT_TRUE(stat.ok()) << stat.status();
  constexpr size_t kBytes = 64 << 20;
  constexpr uint64_t kSlack = 4 << 20;
  uint64_t before = stat->resident_bytes().value();
  std::vector<char> memory(kBytes, 1);
  uint64_t after = stat->resident_bytes().value();
  EXPECT_GE(after + kSlack, before + memory.size());
  EXPECT_LE(after, before + memory.size() + kSlack);
}

TEST(ProcessStat, WhatIsMappedCountsUntouched) {
  constexpr size_t kBytes = 64 << 20;
  auto stat = ProcessStat::Open(getpid());
  ASSERT_TRUE(stat.ok()) << stat.status();
  uint64_t before = stat->mapped_bytes().value();
  void* mapped = mmap(nullptr, kBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(mapped, MAP_FAILED);
  EXPECT_EQ(stat->mapped_bytes().value(), before + kBytes);
  munmap(mapped, kBytes);
  EXPECT_EQ(stat->mapped_bytes().value(), before);
}

TEST(ProcessStat, CpuTimeIsThatOfTheProcess) {
  auto stat = ProcessStat::Open(getpid());
  ASSERT_TRUE(stat.ok()) << stat.status();
  auto used_ns = [] {
    timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return now.tv_sec * 1'000'000'000 + now.tv_nsec;
  };
  int64_t end = used_ns() + 100'000'000;
  while (used_ns() < end) {
  }
  constexpr double kTicks = 30e6;
  EXPECT_NEAR(static_cast<double>(stat->cpu_ns().value()), static_cast<double>(used_ns()), kTicks);
}

TEST(ProcessStat, AProcessThatIsGoneHasNothing) {
  pid_t child = fork();
  if (child == 0) {
    pause();
    _exit(0);
  }
  auto stat = ProcessStat::Open(child);
  ASSERT_TRUE(stat.ok()) << stat.status();
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  EXPECT_FALSE(stat->resident_bytes());
  EXPECT_FALSE(stat->mapped_bytes());
  EXPECT_FALSE(stat->cpu_ns());
  EXPECT_FALSE(ProcessStat::Open(child).ok());
  EXPECT_FALSE(ProcessStat().resident_bytes());
}

}  // namespace
}  // namespace zmem
