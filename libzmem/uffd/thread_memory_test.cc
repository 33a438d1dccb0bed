#include "libzmem/uffd/thread_memory.h"

#include <gtest/gtest.h>
#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "libzmem/testing/memory.h"
#include "libzmem/uffd/address_map.h"
#include "libzmem/wire/kept_memory.h"

namespace zmem {
namespace {

using Ranges = std::vector<AddressRange>;

RemoteMemory OwnMemory() {
  absl::StatusOr<RemoteMemory> memory = RemoteMemory::Open(getpid());
  EXPECT_TRUE(memory.ok()) << memory.status();
  return *std::move(memory);
}

bool Covers(const Ranges& ranges, Address address) {
  return std::any_of(ranges.begin(), ranges.end(),
                     [address](AddressRange range) { return range.Contains(address); });
}

TEST(ThreadMemory, HaveEachThreadsBlockAndLeaveOutItsStack) {
  constexpr size_t kThreads = 4;
  std::atomic<size_t> started{0};
  std::atomic<bool> done{false};
  std::array<Address, kThreads> blocks{};
  std::array<Address, kThreads> stacks{};
  std::vector<std::thread> threads;
  for (size_t id = 0; id < kThreads; ++id) {
    threads.emplace_back([&, id] {
      int on_stack = 0;
      blocks[id] = static_cast<Address>(pthread_self());  // glibc: the address of the block
      stacks[id] = reinterpret_cast<Address>(&on_stack);
      ++started;
      done.wait(false);
    });
  }
  while (started < kThreads) std::this_thread::yield();
  absl::StatusOr<Ranges> found = ThreadMemory(getpid(), OwnMemory());
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_GE(found->size(), kThreads + 1);
  EXPECT_TRUE(Covers(*found, static_cast<Address>(pthread_self())));
  absl::StatusOr<AddressMap> map = AddressMap::Read(getpid(), *found);
  ASSERT_TRUE(map.ok()) << map.status();
  for (size_t id = 0; id < kThreads; ++id) {
    EXPECT_TRUE(Covers(*found, blocks[id])) << id;
    EXPECT_FALSE(Covers(map->eligible(), blocks[id])) << id;
    EXPECT_FALSE(Covers(map->eligible(), stacks[id])) << id;
  }
  done = true;
  done.notify_all();
  for (std::thread& thread : threads) thread.join();
}

// A mutex in pages of its own, far from every control block.
pthread_mutex_t* MakeRobustMutex(const Mapping& memory) {
  auto* mutex = reinterpret_cast<pthread_mutex_t*>(memory.range().start + 8 * kPageBytes);
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  pthread_mutex_init(mutex, &attributes);
  return mutex;
}

TEST(ThreadMemory, HasTheRobustMutexesThatAreHeldAndNoOthers) {
  Mapping memory(1);
  pthread_mutex_t* mutex = MakeRobustMutex(memory);
  RemoteMemory own = OwnMemory();
  Address address = reinterpret_cast<Address>(mutex);
  EXPECT_FALSE(Covers(*ThreadMemory(getpid(), own), address));
  std::atomic<int> step{0};
  std::thread holder([&] {
    pthread_mutex_lock(mutex);
    step = 1;
    step.notify_all();
    step.wait(1);
    pthread_mutex_unlock(mutex);
  });
  step.wait(0);
  EXPECT_TRUE(Covers(*ThreadMemory(getpid(), own), address));
  step = 2;
  step.notify_all();
  holder.join();
  EXPECT_FALSE(Covers(*ThreadMemory(getpid(), own), address));
}

TEST(ThreadMemory, OfNoProcessIsAnError) { EXPECT_FALSE(ThreadMemory(1 << 30, OwnMemory()).ok()); }

TEST(ReadKept, SaysWhatTheProgramHasSaid) {
  auto kept = std::make_unique<wire::KeptMemory>();
  RemoteMemory memory = OwnMemory();
  Address at = reinterpret_cast<Address>(kept.get());
  std::optional<KeptRanges> none = ReadKept(at, memory);
  ASSERT_TRUE(none.has_value());
  EXPECT_EQ(none->generation, 0u);
  EXPECT_TRUE(none->ranges.empty());

  kept->generation = 7;
  kept->ranges[0] = wire::KeptMemory::Pack({0x10010, 0x10020});
  kept->ranges[wire::KeptMemory::kRanges - 1] =
      wire::KeptMemory::Pack({0x7f0000000000, 0x7f0000004000});
  std::optional<KeptRanges> two = ReadKept(at, memory);
  ASSERT_TRUE(two.has_value());
  EXPECT_EQ(two->generation, 7u);
  EXPECT_EQ(two->ranges, (Ranges{{0x10000, 0x11000}, {0x7f0000000000, 0x7f0000004000}}));
}

TEST(ReadKept, FailsWhereNothingIs) { EXPECT_FALSE(ReadKept(0x1000, OwnMemory()).has_value()); }

// A stack grows down from where its thread's control block is.
TEST(KeptMemory, KeepsTheUpperEndOfWhatIsTooLong) {
  constexpr uint64_t kTerabyte = uint64_t{1} << 40;
  AddressRange kept = wire::KeptMemory::Unpack(wire::KeptMemory::Pack({kTerabyte, 2 * kTerabyte}));
  EXPECT_EQ(kept.end, 2 * kTerabyte);
  EXPECT_GT(kept.bytes(), uint64_t{1} << 30);
}

}  // namespace
}  // namespace zmem
