#include "libzmem/base/host_load.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <fstream>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace zmem {
namespace {

TEST(RunnableThreads, IsTheFirstNumberOfTheFourthField) {
  EXPECT_EQ(RunnableThreads("0.20 0.18 0.12 1/80 11206\n"), 1);
  EXPECT_EQ(RunnableThreads("12.20 10.18 9.12 135/2080 9\n"), 135);
}

TEST(RunnableThreads, AreNotKnownFromAnythingElse) {
  for (const char* text : {"", "\n", "1/80", "0.20 0.18 0.12", "0.20 0.18 0.12 180 11206",
                           "0.20 0.18 0.12 /80 11206", "a b c d/e f"}) {
    EXPECT_EQ(RunnableThreads(text), std::nullopt) << text;
  }
}

TEST(HostLoad, CountsThreadsBeyondTheCpus) {
  std::string path = testing::TempDir() + "/loadavg";
  std::ofstream(path) << "0.20 0.18 0.12 5/80 11206\n";
  EXPECT_EQ(HostLoad(path, 4).ThreadsBeyondCpus(), 1);
  EXPECT_EQ(HostLoad(path, 8).ThreadsBeyondCpus(), -3);
}

TEST(HostLoad, IsNotKnownWithoutItsFile) {
  EXPECT_EQ(HostLoad("/nonexistent", 4).ThreadsBeyondCpus(), std::nullopt);
}

TEST(HostLoad, SeesThreadsThatRun) {
  HostLoad load("/proc/loadavg", 1);
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      while (!stop) {
      }
    });
  }
  // They have to begin first.
  std::optional<int> beyond;
  for (int i = 0; i < 1000 && beyond.value_or(0) < 8; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    beyond = load.ThreadsBeyondCpus();
  }
  EXPECT_GE(beyond.value_or(0), 8);
  stop = true;
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace zmem
