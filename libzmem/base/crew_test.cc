#include "libzmem/base/crew.h"

#include <gtest/gtest.h>

#include <atomic>
#include <set>
#include <thread>
#include <vector>

namespace zmem {
namespace {

constexpr size_t kHelpers = 3;

TEST(Crew, EveryTaskIsDoneOnce) {
  std::atomic<size_t> started{0};
  Crew crew(kHelpers, [&started] { ++started; });
  for (size_t tasks : {0u, 1u, 2u, 7u, 1000u}) {
    std::vector<std::atomic<int>> done(tasks);
    crew.Run(tasks, [&](size_t task) { ++done[task]; });
    for (const std::atomic<int>& times : done) EXPECT_EQ(times, 1);
  }
  EXPECT_LE(started, kHelpers);
}

TEST(Crew, AllThreadsTakePart) {
  Crew crew(kHelpers, [] {});
  Mutex mutex;
  std::set<std::thread::id> threads;
  std::atomic<size_t> arrived{0};
  // Nobody gets a second task before all have their first.
  crew.Run(kHelpers + 1, [&](size_t) {
    {
      MutexLock lock(mutex);
      threads.insert(std::this_thread::get_id());
    }
    ++arrived;
    while (arrived < kHelpers + 1) std::this_thread::yield();
  });
  EXPECT_EQ(threads.size(), kHelpers + 1);
}

TEST(Crew, WhoFindsItBusyWorksAlone) {
  Crew crew(kHelpers, [] {});
  std::atomic<bool> second_done{false};
  std::atomic<bool> first_began{false};
  std::thread second([&] {
    while (!first_began) std::this_thread::yield();
    std::thread::id own = std::this_thread::get_id();
    crew.Run(100, [own](size_t) { EXPECT_EQ(std::this_thread::get_id(), own); });
    second_done = true;
  });
  crew.Run(2, [&](size_t) {
    first_began = true;
    while (!second_done) std::this_thread::yield();
  });
  second.join();
}

TEST(Crew, ManyCallersAtOnce) {
  Crew crew(kHelpers, [] {});
  std::atomic<size_t> done{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&] {
      for (int round = 0; round < 200; ++round) crew.Run(5, [&](size_t) { ++done; });
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(done, 4u * 200 * 5);
}

TEST(Crew, WhileItIsNotWantedTheCallerDoesItAll) {
  std::atomic<bool> is_wanted{false};
  Crew crew(
      kHelpers, [] {}, [&] { return is_wanted.load(); });
  size_t done = 0;
  crew.Run(10, [&](size_t task) { EXPECT_EQ(task, done++); });
  EXPECT_EQ(done, 10u);
  is_wanted = true;
  std::atomic<size_t> arrived{0};
  crew.Run(2, [&](size_t) {
    ++arrived;
    while (arrived < 2) std::this_thread::yield();
  });
}

TEST(Crew, WithoutHelpersTheCallerDoesItAll) {
  Crew crew(0, [] {});
  size_t done = 0;
  crew.Run(10, [&](size_t task) { EXPECT_EQ(task, done++); });
  EXPECT_EQ(done, 10u);
}

}  // namespace
}  // namespace zmem
