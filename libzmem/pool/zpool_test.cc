// What the pool promises, single-threaded and with four threads (run it under tsan too), but for
// compaction.
#include "libzmem/pool/zpool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <map>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#include "libzmem/pool/test_objects.h"

namespace zmem {
namespace {

TEST(Zpool, RefusesSizesOutOfBounds) {
  for (uint64_t reserved_bytes : {uint64_t{0}, kSpanSlotBytes - 1, kSpanSlotBytes + kPageBytes,
                                  (uint64_t{1} << 40) + kSpanSlotBytes}) {
    auto pool = Zpool::Create({.limit_bytes = kMib, .reserved_bytes = reserved_bytes});
    EXPECT_TRUE(absl::IsInvalidArgument(pool.status())) << reserved_bytes;
  }
}

TEST(Zpool, ReservesATebibyteAndTakesNearlyNothing) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "tsan's shadow leaves no room for a tebibyte";
#endif
  auto pool = MakePool(kMib, uint64_t{1} << 40);
  EXPECT_EQ(pool->stats().held_bytes, 0u);
  EXPECT_LT(pool->stats().metadata_bytes, 64u << 10);
  EXPECT_TRUE(PutObject(*pool, 100, 1).has_value());
}

TEST(Zpool, ObjectsOfEverySizeComeBackAligned) {
  auto pool = MakePool(64 * kMib);
  std::vector<Object> objects;
  for (size_t bytes = 1; bytes <= kPageBytes; ++bytes) {
    auto object = PutObject(*pool, bytes, bytes);
    ASSERT_TRUE(object.has_value()) << bytes;
    EXPECT_LT(object->handle.granule, uint64_t{1} << kZHandleBits);
    auto address = reinterpret_cast<uintptr_t>(pool->Get(object->handle, bytes).data());
    EXPECT_EQ(address % kPoolGranuleBytes, 0u);
    objects.push_back(*object);
  }
  for (const Object& object : objects) ASSERT_TRUE(IsIntact(*pool, object)) << object.bytes;
  for (const Object& object : objects) FreeObject(*pool, object);
  EXPECT_EQ(pool->stats().objects, 0u);
  EXPECT_EQ(pool->stats().live_bytes, 0u);
  EXPECT_EQ(pool->stats().held_bytes, 0u);
}

TEST(Zpool, LiveObjectsNeverOverlap) {
  constexpr int kRounds = 60'000;
  constexpr size_t kMostObjects = 5000;
  auto pool = MakePool(64 * kMib);
  Random random(kSeed);
  std::map<uint64_t, Object> live;  // by offset
  uint64_t live_bytes = 0;
  for (int round = 0; round < kRounds; ++round) {
    // Grows and drains by turns.
    bool grows = round / kMostObjects % 2 == 0;
    if (live.size() < kMostObjects && (live.empty() || random() % 4 < (grows ? 3u : 1u))) {
      auto object = PutObject(*pool, 1 + random() % kPageBytes, random());
      ASSERT_TRUE(object.has_value());
      uint64_t offset = object->handle.granule * kPoolGranuleBytes;
      auto [at, is_new] = live.emplace(offset, *object);
      ASSERT_TRUE(is_new) << "seed " << kSeed << ", round " << round;
      if (at != live.begin()) {
        ASSERT_LE(std::prev(at)->first + std::prev(at)->second.bytes, offset) << "seed " << kSeed;
      }
      if (std::next(at) != live.end()) {
        ASSERT_LE(offset + object->bytes, std::next(at)->first) << "seed " << kSeed;
      }
      live_bytes += object->bytes;
    } else {
      auto victim = live.lower_bound(random() % (live.rbegin()->first + 1));
      ASSERT_TRUE(IsIntact(*pool, victim->second)) << "seed " << kSeed << ", round " << round;
      live_bytes -= victim->second.bytes;
      FreeObject(*pool, victim->second);
      live.erase(victim);
    }
    if (round % 100 != 0) continue;
    Zpool::Stats stats = pool->stats();
    ASSERT_EQ(stats.objects, live.size());
    ASSERT_EQ(stats.live_bytes, live_bytes);
    ASSERT_GE(stats.held_bytes, live_bytes);
  }
  for (const auto& [offset, object] : live) ASSERT_TRUE(IsIntact(*pool, object));
}

TEST(Zpool, AnEmptySpanGoesBackToTheKernelAtOnce) {
  auto pool = MakePool(64 * kMib);
  std::vector<Object> objects;
  for (uint64_t key = 0; key < 1000; ++key) objects.push_back(*PutObject(*pool, kPageBytes, key));
  EXPECT_EQ(pool->stats().held_bytes, 1000 * kPageBytes);
  const std::byte* region = RegionStart(*pool, objects[0]);
  const size_t region_pages = 1000 * kSpanSlotBytes / kPageBytes;
  EXPECT_EQ(ResidentPages(region, region_pages), 1000u);
  for (size_t freed = 1; freed <= 1000; ++freed) {
    FreeObject(*pool, objects[freed - 1]);
    ASSERT_EQ(pool->stats().held_bytes, (1000 - freed) * kPageBytes);
    if (freed % 100 == 0) {
      ASSERT_EQ(ResidentPages(region, region_pages), 1000 - freed);
    }
  }
}

TEST(Zpool, KeptSpansAreUsedAgainAndGivenBackOnDemand) {
  constexpr uint64_t kPages = 600;
  constexpr uint64_t kKeptPages = kPages - 100;
  constexpr uint64_t kDivisor = 32;
  auto pool = *Zpool::Create({.limit_bytes = kKeptPages * kPageBytes * kDivisor,
                              .reserved_bytes = uint64_t{1} << 30,
                              .keep_divisor = kDivisor});
  std::vector<Object> objects;
  auto put_all = [&] {
    objects.clear();
    for (uint64_t key = 0; key < kPages; ++key)
      objects.push_back(*PutObject(*pool, kPageBytes, key));
  };
  put_all();
  const std::byte* region = RegionStart(*pool, objects[0]);
  const size_t region_pages = kPages * kSpanSlotBytes / kPageBytes;
  for (const Object& object : objects) FreeObject(*pool, object);
  EXPECT_EQ(pool->stats().kept_bytes, kKeptPages * kPageBytes);
  EXPECT_EQ(pool->stats().held_bytes, kKeptPages * kPageBytes);
  EXPECT_EQ(pool->used_bytes(), 0u);
  EXPECT_EQ(ResidentPages(region, region_pages), kKeptPages);
  put_all();
  EXPECT_EQ(pool->stats().kept_bytes, 0u);
  EXPECT_EQ(pool->stats().held_bytes, kPages * kPageBytes);
  EXPECT_EQ(ResidentPages(region, region_pages), kPages);
  for (const Object& object : objects) EXPECT_TRUE(IsIntact(*pool, object));
  for (const Object& object : objects) FreeObject(*pool, object);
  pool->GiveBackEmpty();
  EXPECT_EQ(pool->stats().kept_bytes, 0u);
  EXPECT_EQ(pool->stats().held_bytes, 0u);
  EXPECT_EQ(ResidentPages(region, region_pages), 0u);
}

TEST(Zpool, WhatIsKeptDoesNotMakeItFull) {
  constexpr uint64_t kPages = 64;
  auto pool = *Zpool::Create(
      {.limit_bytes = kPages * kPageBytes, .reserved_bytes = uint64_t{1} << 30, .keep_divisor = 1});
  std::vector<Object> objects;
  for (uint64_t key = 0; key < kPages; ++key) objects.push_back(*PutObject(*pool, kPageBytes, key));
  for (const Object& object : objects) FreeObject(*pool, object);
  EXPECT_EQ(pool->stats().kept_bytes, kPages * kPageBytes);
  // Spans of another size.
  objects.clear();
  while (auto object = PutObject(*pool, 1000, objects.size())) objects.push_back(*object);
  EXPECT_GT(objects.size(), kPages * 3);
  for (const Object& object : objects) EXPECT_TRUE(IsIntact(*pool, object));
}

TEST(Zpool, OfALowerLimitLessIsKept) {
  constexpr uint64_t kPages = 64;
  auto pool = *Zpool::Create(
      {.limit_bytes = kPages * kPageBytes, .reserved_bytes = uint64_t{1} << 30, .keep_divisor = 1});
  std::vector<Object> objects;
  for (uint64_t key = 0; key < kPages; ++key) objects.push_back(*PutObject(*pool, kPageBytes, key));
  pool->set_limit_bytes(kPages * kPageBytes / 4);
  for (const Object& object : objects) FreeObject(*pool, object);
  EXPECT_EQ(pool->stats().kept_bytes, kPages * kPageBytes / 4);
}

// Threads whose spans are of other sizes each time, so that what was freed before is in the way.
TEST(Zpool, NoPutIsRefusedWhileWhatIsKeptGoesBack) {
  constexpr int kThreads = 3;
  auto pool = *Zpool::Create(
      {.limit_bytes = 96 * kPageBytes, .reserved_bytes = uint64_t{1} << 30, .keep_divisor = 1});
  std::atomic<int> refused = 0;
  std::vector<std::thread> threads;
  for (int thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      for (int round = 0; round < 5000; ++round) {
        const size_t bytes = kPageBytes - 300 * static_cast<size_t>((round + thread) % 8);
        std::vector<Object> objects;
        for (uint64_t key = 0; key < 8; ++key) {
          auto object = PutObject(*pool, bytes, key);
          if (object) objects.push_back(*object);
          refused += !object;
        }
        for (const Object& object : objects) FreeObject(*pool, object);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(refused, 0);
  EXPECT_EQ(pool->used_bytes(), 0u);
}

TEST(Zpool, AfterChurnNoMoreIsResidentThanHeld) {
  auto pool = MakePool(256 * kMib);
  Random random(kSeed);
  std::vector<Object> objects;
  for (uint64_t key = 0; key < 8000; ++key) {
    objects.push_back(*PutObject(*pool, RealisticBytes(random), key));
  }
  const std::byte* region = RegionStart(*pool, objects[0]);
  const size_t region_pages = 8000 * kSpanSlotBytes / kPageBytes;
  std::shuffle(objects.begin(), objects.end(), random);
  while (!objects.empty()) {
    for (int i = 0; i < 1000; ++i) {
      FreeObject(*pool, objects.back());
      objects.pop_back();
    }
    EXPECT_LE(ResidentPages(region, region_pages) * kPageBytes, pool->stats().held_bytes);
    for (const Object& object : objects) ASSERT_TRUE(IsIntact(*pool, object));
  }
  EXPECT_EQ(pool->stats().held_bytes, 0u);
  EXPECT_EQ(ResidentPages(region, region_pages), 0u);
}

TEST(Zpool, ASlotServesAnotherSizeClassAfterItsSpanIsGone) {
  auto pool = MakePool(kMib, kSpanSlotBytes);
  for (size_t bytes : {size_t{16}, size_t{3000}, size_t{500}, kPageBytes}) {
    auto object = PutObject(*pool, bytes, bytes);
    ASSERT_TRUE(object.has_value()) << bytes;
    EXPECT_TRUE(IsIntact(*pool, *object));
    FreeObject(*pool, *object);
    EXPECT_EQ(pool->stats().held_bytes, 0u);
  }
}

TEST(Zpool, WithNoSlotLeftAPutIsRefusedAndCounted) {
  auto pool = MakePool(kMib, 2 * kSpanSlotBytes);
  ASSERT_TRUE(PutObject(*pool, kPageBytes, 1).has_value());
  auto second = PutObject(*pool, kPageBytes, 2);
  ASSERT_TRUE(second.has_value());
  EXPECT_FALSE(PutObject(*pool, kPageBytes, 3).has_value());
  EXPECT_EQ(pool->stats().held_bytes, 2 * kPageBytes);
  EXPECT_EQ(pool->stats().limit_rejects, 1u);
  FreeObject(*pool, *second);
  EXPECT_TRUE(PutObject(*pool, kPageBytes, 3).has_value());
}

TEST(Zpool, NewObjectsFillTheFullestSpanFirst) {
  constexpr size_t kObjectBytes = 1024;  // four to a span
  auto pool = MakePool(kMib);
  std::vector<Object> objects;
  for (uint64_t key = 0; key < 8; ++key) objects.push_back(*PutObject(*pool, kObjectBytes, key));
  ASSERT_NE(SlotOf(objects[0]), SlotOf(objects[4]));
  FreeObject(*pool, objects[0]);                             // three left in the first span
  for (size_t i : {4, 5, 6}) FreeObject(*pool, objects[i]);  // one left in the second
  EXPECT_EQ(SlotOf(*PutObject(*pool, kObjectBytes, 9)), SlotOf(objects[1]));
  EXPECT_EQ(SlotOf(*PutObject(*pool, kObjectBytes, 10)), SlotOf(objects[7]));
}

TEST(Zpool, ALoweredLimitKeepsObjectsAndStopsNewSpans) {
  auto pool = MakePool(2 * kPageBytes);
  auto first = PutObject(*pool, kPageBytes, 1);
  auto second = PutObject(*pool, kPageBytes, 2);
  ASSERT_TRUE(first && second);
  pool->set_limit_bytes(kPageBytes);
  EXPECT_FALSE(PutObject(*pool, kPageBytes, 3).has_value());
  EXPECT_TRUE(IsIntact(*pool, *first) && IsIntact(*pool, *second));
  FreeObject(*pool, *first);
  EXPECT_FALSE(PutObject(*pool, kPageBytes, 3).has_value());
  FreeObject(*pool, *second);
  EXPECT_TRUE(PutObject(*pool, kPageBytes, 3).has_value());
  Zpool::Stats stats = pool->stats();
  EXPECT_EQ(stats.limit_bytes, kPageBytes);
  EXPECT_EQ(stats.limit_rejects, 2u);
}

TEST(Zpool, WhileMoreIsHeldThanALoweredLimitNoPlaceIsGivenOut) {
  auto pool = MakePool(2 * kPageBytes);
  std::vector<Object> objects;  // four to a span, two spans
  for (uint64_t key = 0; key < 8; ++key) objects.push_back(*PutObject(*pool, 1024, key));
  FreeObject(*pool, objects[0]);
  pool->set_limit_bytes(kPageBytes);
  EXPECT_FALSE(PutObject(*pool, 1024, 9).has_value());
  for (size_t i : {4, 5, 6, 7}) FreeObject(*pool, objects[i]);
  EXPECT_EQ(pool->stats().held_bytes, kPageBytes);
  EXPECT_TRUE(PutObject(*pool, 1024, 9).has_value());
  EXPECT_FALSE(PutObject(*pool, 1024, 10).has_value());
}

TEST(Zpool, BytesWithNoOtherPlaceToStayMayExceedTheLimit) {
  auto pool = MakePool(kPageBytes);
  const std::array<std::byte, kPageBytes> page{};
  ASSERT_TRUE(pool->Put(page).has_value());
  EXPECT_FALSE(pool->Put(page).has_value());
  EXPECT_TRUE(pool->Put(page, Zpool::Limit::kExceed).has_value());
  EXPECT_EQ(pool->stats().held_bytes, 2 * kPageBytes);
}

TEST(Zpool, TheLimitIsExactWithFourThreads) {
  constexpr uint64_t kLimitPages = 1001;
  auto pool = MakePool(kLimitPages * kPageBytes);
  std::atomic<uint64_t> stored{0};
  std::atomic<uint64_t> refused{0};
  std::vector<std::thread> threads;
  for (uint64_t thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&, thread] {
      for (uint64_t i = 0; i < kLimitPages; ++i) {
        bool is_stored = PutObject(*pool, kPageBytes, thread << 32 | i).has_value();
        ++(is_stored ? stored : refused);
        ASSERT_LE(pool->stats().held_bytes, kLimitPages * kPageBytes);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(stored, kLimitPages);
  EXPECT_EQ(pool->stats().held_bytes, kLimitPages * kPageBytes);
  EXPECT_EQ(pool->stats().limit_rejects, refused);
}

// Puts, checks and frees objects that any thread may have put, under a limit that refuses some.
TEST(Zpool, FourThreadsShareItAndEachOthersObjects) {
  constexpr uint64_t kLimitBytes = 3 * kMib;
  constexpr int kRounds = 20'000;
  auto pool = MakePool(kLimitBytes);
  std::mutex mutex;
  std::vector<Object> shared;  // guarded by mutex
  std::vector<std::thread> threads;
  for (uint64_t thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&, thread] {
      Random random(kSeed + thread);
      for (int round = 0; round < kRounds; ++round) {
        if (random() % 3 != 0) {
          auto object = PutObject(*pool, RealisticBytes(random), random());
          if (!object) continue;
          std::lock_guard lock(mutex);
          shared.push_back(*object);
        } else {
          Object object;
          {
            std::lock_guard lock(mutex);
            if (shared.empty()) continue;
            std::swap(shared[random() % shared.size()], shared.back());
            object = shared.back();
            shared.pop_back();
          }
          ASSERT_TRUE(IsIntact(*pool, object)) << "seed " << kSeed;
          FreeObject(*pool, object);
        }
        if (round % 64 == 0) {
          ASSERT_LE(pool->stats().held_bytes, kLimitBytes);
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  uint64_t live_bytes = 0;
  for (const Object& object : shared) live_bytes += object.bytes;
  EXPECT_GT(pool->stats().limit_rejects, 0u);
  EXPECT_EQ(pool->stats().objects, shared.size());
  EXPECT_EQ(pool->stats().live_bytes, live_bytes);
  for (const Object& object : shared) {
    EXPECT_TRUE(IsIntact(*pool, object)) << "seed " << kSeed;
    FreeObject(*pool, object);
  }
  EXPECT_EQ(pool->stats().held_bytes, 0u);
}

TEST(Zpool, KeepsTheDensityThatTheDesignPromises) {
  auto pool = MakePool(256 * kMib);
  Random random(kSeed);
  std::vector<Object> objects;
  const std::array<std::byte, kPageBytes> content{};
  auto put = [&] {
    size_t bytes = RealisticBytes(random);
    return Object{*pool->Put(std::span(content).first(bytes)), bytes};
  };
  for (uint64_t live_bytes = 0; live_bytes < 64 * kMib; live_bytes += objects.back().bytes) {
    objects.push_back(put());
  }
  double filled = Density(*pool);
  EXPECT_GE(filled, 0.95);
  // Every object replaced five times on average, by one of another size.
  for (size_t i = 0; i < 5 * objects.size(); ++i) {
    Object& object = objects[random() % objects.size()];
    FreeObject(*pool, object);
    object = put();
  }
  double churned = Density(*pool);
  EXPECT_GE(churned, 0.90);
  Zpool::Stats stats = pool->stats();
  EXPECT_LE(stats.metadata_bytes * 100, stats.held_bytes);
  std::printf(
      "density: %.4f filled, %.4f churned; metadata %.3f %% of held\n", filled, churned,
      100.0 * static_cast<double>(stats.metadata_bytes) / static_cast<double>(stats.held_bytes));
}

TEST(ZpoolDeathTest, FreeingWhatIsNoObjectEndsTheProcess) {
  auto pool = MakePool(kMib);
  Object object = *PutObject(*pool, 1000, 1);
  EXPECT_DEATH(pool->Free(object.handle, 2000), "check failed");
  EXPECT_DEATH(pool->Free(ZHandle{object.handle.granule + 1}, 1000), "check failed");
  FreeObject(*pool, object);
  EXPECT_DEATH(FreeObject(*pool, object), "check failed");
}

}  // namespace
}  // namespace zmem
