// What a round of compaction promises: how much memory it gives back, exactly, and that it harms
// nobody who puts, reads and frees meanwhile (run it under tsan too).
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <functional>
#include <random>
#include <set>
#include <span>
#include <thread>
#include <vector>

#include "libzmem/pool/size_class.h"
#include "libzmem/pool/test_objects.h"
#include "libzmem/pool/zpool.h"

namespace zmem {
namespace {

constexpr size_t kAllSpans = ~size_t{0};
constexpr size_t kQuarterPage = 1024;  // four objects to a span of one page

std::vector<Object> PutMany(Zpool& pool, size_t count, size_t bytes) {
  std::vector<Object> objects;
  for (uint64_t key = 0; key < count; ++key) objects.push_back(*PutObject(pool, bytes, key));
  return objects;
}

// Keeps the objects for which `is_kept(index)` and frees the others.
void KeepOnly(Zpool& pool, std::vector<Object>& objects,
              const std::function<bool(size_t)>& is_kept) {
  std::vector<Object> kept;
  for (size_t i = 0; i < objects.size(); ++i) {
    if (is_kept(i)) {
      kept.push_back(objects[i]);
    } else {
      FreeObject(pool, objects[i]);
    }
  }
  objects = std::move(kept);
}

// What a holder does in a round. Returns how many objects it moved.
size_t MoveOutOfVictims(Zpool& pool, std::vector<Object>& objects) {
  size_t moved = 0;
  for (Object& object : objects) {
    if (!pool.IsVictim(object.handle)) continue;
    std::optional<ZHandle> copy = pool.Move(object.handle, object.bytes);
    if (!copy) continue;
    FreeObject(pool, object);
    object.handle = *copy;
    ++moved;
  }
  return moved;
}

// As many whole spans as the objects of each class need.
uint64_t LeastHeldBytes(const std::vector<Object>& objects) {
  std::array<size_t, kSizeClasses> counts{};
  for (const Object& object : objects) ++counts[SizeClassOf(object.bytes)];
  uint64_t bytes = 0;
  for (size_t number = 0; number < kSizeClasses; ++number) {
    const SizeClass& shape = kSizeClassTable.classes[number];
    size_t spans = (counts[number] + shape.objects_per_span - 1) / shape.objects_per_span;
    bytes += spans * shape.span_pages * kPageBytes;
  }
  return bytes;
}

TEST(ZpoolCompaction, VictimsStayReadableAndGetNoObject) {
  auto pool = MakePool(kMib);
  std::vector<Object> objects = PutMany(*pool, 16, kQuarterPage);
  KeepOnly(*pool, objects, [](size_t i) { return i % 4 == 0; });  // one in each of four spans
  ASSERT_EQ(pool->ChooseVictims(kAllSpans), 3u);
  std::set<uint64_t> victims;
  for (const Object& object : objects) {
    if (pool->IsVictim(object.handle)) victims.insert(SlotOf(object));
    EXPECT_TRUE(IsIntact(*pool, object));
  }
  EXPECT_EQ(victims.size(), 3u);
  for (uint64_t key = 100; key < 120; ++key) {
    EXPECT_FALSE(victims.contains(SlotOf(*PutObject(*pool, kQuarterPage, key))));
  }
  for (const Object& object : objects) EXPECT_TRUE(IsIntact(*pool, object));
  pool->EndRound();
}

TEST(ZpoolCompaction, AVictimIsGivenBackWithItsLastObject) {
  auto pool = MakePool(kMib);
  std::vector<Object> objects = PutMany(*pool, 16, kQuarterPage);
  KeepOnly(*pool, objects, [](size_t i) { return i % 4 == 0; });
  EXPECT_EQ(pool->stats().reclaimable_bytes, 3 * kPageBytes);
  pool->ChooseVictims(kAllSpans);
  EXPECT_EQ(pool->stats().reclaimable_bytes, 0u) << "what is chosen already counts no more";
  uint64_t held_bytes = 4 * kPageBytes;
  for (Object& object : objects) {
    if (!pool->IsVictim(object.handle)) continue;
    ZHandle copy = pool->Move(object.handle, object.bytes).value();
    EXPECT_EQ(pool->stats().held_bytes, held_bytes) << "Move takes and frees nothing";
    FreeObject(*pool, object);
    object.handle = copy;
    held_bytes -= kPageBytes;
    EXPECT_EQ(pool->stats().held_bytes, held_bytes);
  }
  pool->EndRound();
  EXPECT_EQ(held_bytes, kPageBytes);
  for (const Object& object : objects) EXPECT_TRUE(IsIntact(*pool, object));
}

TEST(ZpoolCompaction, NoMoreVictimsThanOtherSpansHaveRoomFor) {
  auto pool = MakePool(kMib);
  std::vector<Object> objects = PutMany(*pool, 12, kQuarterPage);
  FreeObject(*pool, objects[0]);
  FreeObject(*pool, objects[4]);
  FreeObject(*pool, objects[8]);  // three spans with one free place each
  EXPECT_EQ(pool->ChooseVictims(kAllSpans), 0u);
  pool->EndRound();
  FreeObject(*pool, objects[9]);  // now the third has two objects, and the others room for two
  EXPECT_EQ(pool->ChooseVictims(kAllSpans), 1u);
  EXPECT_TRUE(pool->IsVictim(objects[10].handle));
  EXPECT_FALSE(pool->IsVictim(objects[1].handle));
  pool->EndRound();
}

TEST(ZpoolCompaction, AsManyVictimsAsAskedForTheSparsestFirst) {
  auto pool = MakePool(kMib);
  std::vector<Object> fuller = PutMany(*pool, 40, 512);
  std::vector<Object> sparser = PutMany(*pool, 40, kQuarterPage);
  KeepOnly(*pool, fuller, [](size_t i) { return i % 2 == 0; });
  KeepOnly(*pool, sparser, [](size_t i) { return i % 4 == 0; });
  ASSERT_EQ(pool->ChooseVictims(3), 3u);
  auto count_victims = [&](const std::vector<Object>& objects) {
    return std::count_if(objects.begin(), objects.end(),
                         [&](const Object& object) { return pool->IsVictim(object.handle); });
  };
  EXPECT_EQ(count_victims(sparser), 3);
  EXPECT_EQ(count_victims(fuller), 0);
  ASSERT_EQ(pool->ChooseVictims(4), 4u) << "goes on with the round";
  EXPECT_EQ(count_victims(sparser), 7);
  pool->EndRound();
}

TEST(ZpoolCompaction, WhereNoPlaceIsLeftAnObjectStays) {
  auto pool = MakePool(2 * kPageBytes);
  std::vector<Object> objects = PutMany(*pool, 8, kQuarterPage);
  KeepOnly(*pool, objects, [](size_t i) { return i % 4 < 2; });
  ASSERT_EQ(pool->ChooseVictims(kAllSpans), 1u);
  ASSERT_TRUE(PutObject(*pool, kQuarterPage, 100).has_value());
  EXPECT_EQ(MoveOutOfVictims(*pool, objects), 1u) << "one place was left for two";
  EXPECT_EQ(pool->stats().held_bytes, 2 * kPageBytes);
  for (const Object& object : objects) EXPECT_TRUE(IsIntact(*pool, object));
  pool->EndRound();
  for (uint64_t key = 101; key < 104; ++key) {
    EXPECT_TRUE(PutObject(*pool, kQuarterPage, key).has_value()) << "its span is ordinary again";
  }
  EXPECT_FALSE(PutObject(*pool, kQuarterPage, 104).has_value());
  for (const Object& object : objects) EXPECT_TRUE(IsIntact(*pool, object));
}

TEST(ZpoolCompaction, OnlyObjectsOfVictimsMove) {
  auto pool = MakePool(kMib);
  std::vector<Object> objects = PutMany(*pool, 8, kQuarterPage);
  KeepOnly(*pool, objects, [](size_t i) { return i % 4 == 0; });
  EXPECT_FALSE(pool->Move(objects[0].handle, kQuarterPage).has_value()) << "before the round";
  ASSERT_EQ(pool->ChooseVictims(kAllSpans), 1u);
  size_t victim = pool->IsVictim(objects[0].handle) ? 0 : 1;
  EXPECT_FALSE(pool->Move(objects[1 - victim].handle, kQuarterPage).has_value());
  EXPECT_TRUE(pool->Move(objects[victim].handle, kQuarterPage).has_value());
  FreeObject(*pool, objects[victim]);
  EXPECT_FALSE(pool->Move(objects[victim].handle, kQuarterPage).has_value()) << "given back";
  pool->EndRound();
}

TEST(ZpoolCompaction, ObjectsOfEverySizeMove) {
  for (size_t bytes = 1; bytes <= kPageBytes / 2; bytes += bytes < 32 ? 1 : 61) {
    const size_t per_span = kSizeClassTable.classes[SizeClassOf(bytes)].objects_per_span;
    auto pool = MakePool(kMib);
    std::vector<Object> objects = PutMany(*pool, 2 * per_span, bytes);
    KeepOnly(*pool, objects, [&](size_t i) { return i % per_span == 0; });
    ASSERT_EQ(pool->ChooseVictims(kAllSpans), 1u) << bytes;
    EXPECT_EQ(MoveOutOfVictims(*pool, objects), 1u);
    pool->EndRound();
    for (const Object& object : objects) EXPECT_TRUE(IsIntact(*pool, object)) << bytes;
    EXPECT_EQ(pool->stats().held_bytes, LeastHeldBytes(objects));
  }
}

// The page was touched while its object was copied: the swap fails.
TEST(ZpoolCompaction, ACopyThatLostIsFreedLikeAnyOther) {
  auto pool = MakePool(kMib);
  std::vector<Object> objects = PutMany(*pool, 8, kQuarterPage);
  KeepOnly(*pool, objects, [](size_t i) { return i % 4 == 0; });
  ASSERT_EQ(pool->ChooseVictims(kAllSpans), 1u);
  size_t victim = pool->IsVictim(objects[0].handle) ? 0 : 1;
  ZHandle copy = pool->Move(objects[victim].handle, kQuarterPage).value();
  FreeObject(*pool, objects[victim]);
  pool->Free(copy, kQuarterPage);
  pool->EndRound();
  EXPECT_EQ(pool->stats().objects, 1u);
  EXPECT_EQ(pool->stats().live_bytes, kQuarterPage);
  EXPECT_EQ(pool->stats().held_bytes, kPageBytes);
  EXPECT_TRUE(IsIntact(*pool, objects[1 - victim]));
}

// Else a page that went in and out could have the handle it had when its object was copied, and
// the swap would bring old bytes back.
TEST(ZpoolCompaction, NothingNewAppearsAtAVictimsAddressesBeforeTheRoundEnds) {
  auto pool = MakePool(kMib, 2 * kSpanSlotBytes);
  std::vector<Object> objects = PutMany(*pool, 8, kQuarterPage);
  KeepOnly(*pool, objects, [](size_t i) { return i % 4 < 2; });
  ASSERT_EQ(pool->ChooseVictims(kAllSpans), 1u);
  ASSERT_EQ(MoveOutOfVictims(*pool, objects), 2u);
  EXPECT_EQ(pool->stats().held_bytes, kPageBytes);
  EXPECT_FALSE(PutObject(*pool, kPageBytes, 100).has_value()) << "the victim's slot rests";
  pool->EndRound();
  EXPECT_TRUE(PutObject(*pool, kPageBytes, 100).has_value());
}

using SizeOf = std::function<size_t(Random&)>;

size_t ThinBytes(Random& random) { return 40 + random() % 700; }
size_t FatBytes(Random& random) { return 2000 + random() % 1400; }

std::vector<Object> Fill(Zpool& pool, uint64_t live_bytes, const SizeOf& bytes_of, Random& random) {
  const std::array<std::byte, kPageBytes> content{};
  std::vector<Object> objects;
  for (uint64_t put_bytes = 0; put_bytes < live_bytes; put_bytes += objects.back().bytes) {
    size_t bytes = bytes_of(random);
    objects.push_back({pool.Put(std::span(content).first(bytes)).value(), bytes});
  }
  return objects;
}

// Ways to free all but a quarter or less, each leaving few of a span's neighbours together.
struct Churn {
  const char* name;
  SizeOf bytes_of;
  std::function<void(Zpool&, std::vector<Object>&, Random&)> run;
};

void KeepRandomHalf(Zpool& pool, std::vector<Object>& objects, Random& random) {
  KeepOnly(pool, objects, [&](size_t) { return random() % 2 == 0; });
}

std::vector<Churn> Churns() {
  return {
      {"every fourth kept", RealisticBytes,
       [](Zpool& pool, std::vector<Object>& objects, Random&) {
         KeepOnly(pool, objects, [](size_t i) { return i % 4 == 0; });
       }},
      {"one of each span's objects kept", ThinBytes,
       [](Zpool& pool, std::vector<Object>& objects, Random&) {
         std::set<uint64_t> slots;
         KeepOnly(pool, objects,
                  [&](size_t i) { return slots.insert(SlotOf(objects[i])).second || i % 5 == 0; });
       }},
      {"random half freed, three times", RealisticBytes,
       [](Zpool& pool, std::vector<Object>& objects, Random& random) {
         for (int i = 0; i < 3; ++i) KeepRandomHalf(pool, objects, random);
       }},
      {"from thin to fat", ThinBytes,
       [](Zpool& pool, std::vector<Object>& objects, Random& random) {
         uint64_t live_bytes = pool.stats().live_bytes;
         KeepOnly(pool, objects, [&](size_t) { return random() % 10 == 0; });
         std::vector<Object> fat = Fill(pool, live_bytes / 5, FatBytes, random);
         objects.insert(objects.end(), fat.begin(), fat.end());
         KeepOnly(pool, objects, [&](size_t) { return random() % 4 != 0; });
       }},
  };
}

TEST(ZpoolCompaction, LeavesLessThanOneSpareSpanInEachClass) {
  constexpr uint64_t kFilledBytes = 128 * kMib;
  for (const Churn& churn : Churns()) {
    auto pool = MakePool(512 * kMib, 16 * kAmpleBytes);
    Random random(kSeed);
    std::vector<Object> objects = Fill(*pool, kFilledBytes, churn.bytes_of, random);
    double filled = Density(*pool);
    EXPECT_GE(filled, 0.95) << churn.name;
    churn.run(*pool, objects, random);
    double churned = Density(*pool);
    Zpool::Stats before = pool->stats();
    EXPECT_LE(before.live_bytes, kFilledBytes / 4 + kMib) << churn.name;

    pool->ChooseVictims(kAllSpans);
    MoveOutOfVictims(*pool, objects);
    pool->EndRound();
    Zpool::Stats after = pool->stats();
    EXPECT_EQ(after.live_bytes, before.live_bytes) << churn.name;
    EXPECT_EQ(after.held_bytes, LeastHeldBytes(objects)) << churn.name;
    EXPECT_EQ(after.held_bytes, before.held_bytes - before.reclaimable_bytes) << churn.name;
    EXPECT_EQ(pool->ChooseVictims(kAllSpans), 0u) << churn.name;
    pool->EndRound();
    EXPECT_GE(Density(*pool), 0.89) << churn.name << ", seed " << kSeed;
    std::printf("%-32s density %.4f filled, %.4f churned, %.4f compacted\n", churn.name, filled,
                churned, Density(*pool));
  }
}

TEST(ZpoolCompaction, KeepsTheDensityOfAPoolInUse) {
  auto pool = MakePool(256 * kMib);
  Random random(kSeed);
  std::vector<Object> objects = Fill(*pool, 64 * kMib, RealisticBytes, random);
  const std::array<std::byte, kPageBytes> content{};
  for (int round = 0; round < 8; ++round) {
    for (size_t i = 0; i < objects.size() / 2; ++i) {
      Object& object = objects[random() % objects.size()];
      FreeObject(*pool, object);
      object.bytes = RealisticBytes(random);
      object.handle = pool->Put(std::span(content).first(object.bytes)).value();
    }
    EXPECT_GE(Density(*pool), 0.90) << "seed " << kSeed;
    pool->ChooseVictims(kAllSpans);
    MoveOutOfVictims(*pool, objects);
    pool->EndRound();
    EXPECT_GE(Density(*pool), 0.95) << "seed " << kSeed;
  }
}

// Pages that go in and out of the pool, as page-table entries say where they are. Sizes repeat, so
// that an entry may well become what it was before.
class Pages {
 public:
  explicit Pages(Zpool& pool) : pool_(pool) {
    for (auto& entry : entries_) entry = kResident;
  }

  // Brings a stored page in and checks it, or changes a resident one and evicts it. False if it was
  // not what it should be.
  bool Touch(size_t page) {
    uint64_t entry = entries_[page].load(std::memory_order_acquire);
    if (entry == kTaken || !entries_[page].compare_exchange_strong(entry, kTaken)) return true;
    bool is_intact = true;
    if (entry == kResident) {
      ++versions_[page];
      entry = PutObject(pool_, BytesOf(page), KeyOf(page)).value().handle.granule;
    } else {
      Object object = ObjectOf(page, entry);
      is_intact = IsIntact(pool_, object);
      FreeObject(pool_, object);
      entry = kResident;
    }
    entries_[page].store(entry, std::memory_order_release);
    return is_intact;
  }

  // A holder's part in a round.
  void MoveOutOfVictims() {
    for (size_t page = 0; page < kPages; ++page) {
      uint64_t entry = entries_[page].load(std::memory_order_acquire);
      if (entry == kTaken || entry == kResident || !pool_.IsVictim(ZHandle{entry})) continue;
      std::optional<ZHandle> copy = pool_.Move(ZHandle{entry}, BytesOf(page));
      if (!copy) continue;
      uint64_t old = entry;
      bool has_won = entries_[page].compare_exchange_strong(entry, copy->granule);
      pool_.Free(has_won ? ZHandle{old} : *copy, BytesOf(page));
      if (has_won) won_.fetch_add(1, std::memory_order_relaxed);
    }
  }

  // Once nobody touches them.
  std::vector<Object> Stored() const {
    std::vector<Object> objects;
    for (size_t page = 0; page < kPages; ++page) {
      if (entries_[page] != kResident) objects.push_back(ObjectOf(page, entries_[page]));
    }
    return objects;
  }
  uint64_t won() const { return won_; }

  static constexpr size_t kPages = 3000;

 private:
  static constexpr uint64_t kTaken = ~uint64_t{0};
  static constexpr uint64_t kResident = ~uint64_t{1};

  static size_t BytesOf(size_t page) { return page % 3 == 0 ? 1 : 300 + page % 3 * 500; }
  uint64_t KeyOf(size_t page) const { return page << 32 | versions_[page]; }
  Object ObjectOf(size_t page, uint64_t entry) const {
    return {ZHandle{entry}, BytesOf(page), KeyOf(page)};
  }

  Zpool& pool_;
  std::array<std::atomic<uint64_t>, kPages> entries_{};
  std::array<uint64_t, kPages> versions_{};  // of whoever has taken the page
  std::atomic<uint64_t> won_{0};             // swaps of an old handle for a copy's
};

TEST(ZpoolCompaction, GoesOnBesideFaultsAndEvictions) {
  constexpr int kRounds = 150;
  auto pool = MakePool(64 * kMib);
  Pages pages(*pool);
  for (size_t page = 0; page < Pages::kPages; ++page) ASSERT_TRUE(pages.Touch(page));
  const std::byte* region = RegionStart(*pool, pages.Stored().front());
  std::atomic<bool> is_over{false};
  std::vector<std::thread> programs;
  for (uint64_t thread = 0; thread < 2; ++thread) {
    programs.emplace_back([&, thread] {
      Random random(kSeed + thread);
      while (!is_over) ASSERT_TRUE(pages.Touch(random() % Pages::kPages)) << "seed " << kSeed;
    });
  }
  for (int round = 0; round < kRounds; ++round) {
    pool->ChooseVictims(round % 3 == 0 ? kAllSpans : 5);
    std::thread other_holder([&] { pages.MoveOutOfVictims(); });  // of the same pages
    pages.MoveOutOfVictims();
    other_holder.join();
    pool->EndRound();
  }
  is_over = true;
  for (std::thread& program : programs) program.join();

  EXPECT_GT(pages.won(), 0u);
  std::vector<Object> stored = pages.Stored();
  for (const Object& object : stored) ASSERT_TRUE(IsIntact(*pool, object)) << "seed " << kSeed;
  pool->ChooseVictims(kAllSpans);
  MoveOutOfVictims(*pool, stored);
  pool->EndRound();
  EXPECT_EQ(pool->stats().objects, stored.size());
  EXPECT_EQ(pool->stats().held_bytes, LeastHeldBytes(stored));
  size_t region_pages = Pages::kPages * kSpanSlotBytes / kPageBytes;
  EXPECT_LE(ResidentPages(region, region_pages) * kPageBytes, pool->stats().held_bytes)
      << "a copy made memory of what the kernel had back";
  for (const Object& object : stored) FreeObject(*pool, object);
  EXPECT_EQ(pool->stats().held_bytes, 0u);
  EXPECT_EQ(ResidentPages(region, region_pages), 0u);
}

}  // namespace
}  // namespace zmem
