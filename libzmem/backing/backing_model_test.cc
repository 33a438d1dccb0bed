// Random work against a model, by one thread and by several: nothing is lost, mixed up or counted
// wrong, whatever the order.
#include <random>
#include <thread>

#include "libzmem/backing/test_backing.h"
#include "libzmem/base/page.h"

namespace zmem {
namespace {

using Random = std::mt19937_64;

uint64_t Seed() {
  const char* given = std::getenv("ZMEM_TEST_SEED");
  uint64_t seed = given != nullptr ? std::strtoull(given, nullptr, 10) : 20240819;
  std::printf("ZMEM_TEST_SEED=%llu\n", static_cast<unsigned long long>(seed));
  return seed;
}

size_t RandomBytes(Random& random) {
  switch (random() % 8) {
    case 0:
      return kPageBytes;
    case 1:
      return 1 + random() % 32;
    default:
      return 1 + random() % kPageBytes;
  }
}

// One thread's work on a file of a few MiB, beside a list of what must be in it.
class Model {
 public:
  Model(BackingFile& file, uint64_t seed)
      : file_(file), reader_(MustHaveReader(file)), random_(seed) {}

  void Step() {
    uint64_t choice = all_.empty() ? 0 : random_() % 1000;
    if (choice < 500) {
      Append();
    } else if (choice < 500 + FreeShare()) {
      FreeAt(random_() % all_.size());
    } else if (choice < 940) {
      ASSERT_TRUE(IsIntact(file_, all_[random_() % all_.size()]));
    } else if (choice < 990) {
      ASSERT_TRUE(IsIntactThrough(*reader_, all_[random_() % all_.size()]));
    } else if (choice < 994) {
      ASSERT_TRUE(file_.Flush());
    } else {
      Clean();
    }
  }

  void ExpectAllIntact() {
    for (const Stored& stored : all_) {
      ASSERT_TRUE(IsIntact(file_, stored));
      ASSERT_TRUE(IsIntactThrough(*reader_, stored));
    }
  }

  void ExpectStatsMatch() const {
    uint64_t live_bytes = 0;
    for (const Stored& stored : all_) live_bytes += stored.object.bytes;
    EXPECT_EQ(file_.stats().objects, all_.size());
    EXPECT_EQ(file_.stats().live_bytes, live_bytes);
    EXPECT_GE(file_.stats().held_bytes, live_bytes);
    EXPECT_EQ(file_.stats().checksum_errors, 0u);
  }

  void FreeAll() {
    while (!all_.empty()) FreeAt(all_.size() - 1);
  }
  uint64_t times_full() const { return times_full_; }
  uint64_t moved() const { return moved_; }

 private:
  // Of a thousand; more while the file is full, so that it fills and drains in turns.
  uint64_t FreeShare() const { return is_draining_ ? 420 : 200; }

  void Append() {
    uint64_t key = next_key_++;
    size_t bytes = RandomBytes(random_);
    DiskHandle handle;
    AppendResult result = file_.Append(BytesOfKey(key, bytes), &handle);
    if (result == AppendResult::kDone) return all_.push_back({{handle, bytes}, key});
    if (result == AppendResult::kBusy) return WaitForTheDisk();
    ASSERT_EQ(result, AppendResult::kFull);
    ++times_full_;
    is_draining_ = true;
  }

  void WaitForTheDisk() { ASSERT_TRUE(file_.Flush()); }

  void FreeAt(size_t at) {
    file_.Free(all_[at].object);
    all_[at] = all_.back();
    all_.pop_back();
    if (all_.size() < 200) is_draining_ = false;
  }

  void Clean() {
    file_.ChooseVictims(1 + random_() % 3);
    for (Stored& stored : all_) {
      if (!file_.IsVictim(stored.object.handle) || random_() % 16 == 0) continue;
      Bytes bytes;
      ASSERT_EQ(ReadNow(file_, stored, bytes), DiskReadStatus::kOk);
      DiskHandle handle;
      if (file_.Append(bytes, &handle, BackingFile::Purpose::kCleaning) != AppendResult::kDone) {
        break;
      }
      file_.Free(stored.object);
      stored.object.handle = handle;
      ++moved_;
    }
    file_.EndRound();
  }

  BackingFile& file_;
  std::unique_ptr<DiskReader> reader_;
  Random random_;
  std::vector<Stored> all_;
  uint64_t next_key_ = 1;
  bool is_draining_ = false;
  uint64_t times_full_ = 0;
  uint64_t moved_ = 0;
};

TEST(BackingModel, RandomWorkLosesAndMixesUpNothing) {
  TestDirectory directory;
  auto file = MustOpen(
      {.path = directory / "backing", .size_bytes = 3 * kMib, .segment_bytes = size_t{256} << 10});
  Model model(*file, Seed());
  for (int step = 0; step < 20'000 && !testing::Test::HasFailure(); ++step) {
    model.Step();
    if (step % 2000 == 0) model.ExpectAllIntact();
  }
  model.ExpectAllIntact();
  model.ExpectStatsMatch();
  EXPECT_GT(model.times_full(), 0u);
  EXPECT_GT(model.moved(), 0u);
  model.FreeAll();
  ASSERT_TRUE(file->Flush());
  EXPECT_EQ(file->stats().held_bytes, 0u);
  model.ExpectStatsMatch();
}

// A word as a page's entry has it: handle and size of an object, or 0.
uint64_t EntryOf(DiskObject object) { return object.handle.granule << 13 | object.bytes; }
DiskObject ObjectOf(uint64_t entry) { return {{entry >> 13}, entry & 0x1fff}; }

// Threads that store, read and free their own objects while one more cleans everybody's.
class Holders {
 public:
  static constexpr size_t kThreads = 2;
  static constexpr size_t kEntriesEach = 250;

  explicit Holders(BackingFile& file) : file_(file), entries_(kThreads * kEntriesEach) {}

  void Work(size_t thread, uint64_t seed) {
    Random random(seed + thread);
    auto reader = MustHaveReader(file_);
    std::array<uint64_t, kEntriesEach> keys{};
    for (int step = 0; step < 6000 && !testing::Test::HasFailure(); ++step) {
      size_t at = random() % kEntriesEach;
      std::atomic<uint64_t>& entry = entries_[thread * kEntriesEach + at];
      uint64_t claimed = entry.exchange(0);
      if (claimed == 0) {
        keys[at] = random();
        auto stored = Store(file_, keys[at], RandomBytes(random));
        if (stored) entry.store(EntryOf(stored->object));
        continue;
      }
      Stored stored{ObjectOf(claimed), keys[at]};
      ASSERT_TRUE(step % 4 == 0 ? IsIntactThrough(*reader, stored) : IsIntact(file_, stored));
      if (random() % 3 == 0) {
        file_.Free(stored.object);
      } else {
        entry.store(claimed);
      }
    }
  }

  void Clean(const std::atomic<bool>& should_stop) {
    while (!should_stop.load()) {
      file_.ChooseVictims(4);
      for (std::atomic<uint64_t>& entry : entries_) {
        uint64_t found = entry.load();
        if (found != 0 && file_.IsVictim(ObjectOf(found).handle)) MoveEntry(entry, found);
      }
      file_.EndRound();
      file_.Flush();
    }
  }

  uint64_t moved() const { return moved_; }
  void FreeAll() {
    for (std::atomic<uint64_t>& entry : entries_) {
      if (uint64_t found = entry.exchange(0)) file_.Free(ObjectOf(found));
    }
  }

 private:
  void MoveEntry(std::atomic<uint64_t>& entry, uint64_t found) {
    DiskObject old = ObjectOf(found);
    Bytes bytes(old.bytes);
    if (file_.ReadNow(old, bytes) != DiskReadStatus::kOk) return;
    DiskObject young{{}, old.bytes};
    if (file_.Append(bytes, &young.handle, BackingFile::Purpose::kCleaning) !=
        AppendResult::kDone) {
      return;
    }
    bool is_swapped = entry.compare_exchange_strong(found, EntryOf(young));
    file_.Free(is_swapped ? old : young);
    moved_ += is_swapped ? 1 : 0;
  }

  BackingFile& file_;
  std::vector<std::atomic<uint64_t>> entries_;
  uint64_t moved_ = 0;  // the cleaning thread's
};

TEST(BackingModel, ThreadsAndCleaningDoNotDisturbEachOther) {
  TestDirectory directory;
  auto file = MustOpen(
      {.path = directory / "backing", .size_bytes = 3 * kMib, .segment_bytes = size_t{256} << 10});
  Holders holders(*file);
  std::atomic<bool> should_stop{false};
  std::thread cleaner([&] { holders.Clean(should_stop); });
  std::vector<std::thread> workers;
  uint64_t seed = Seed();
  for (size_t thread = 0; thread < Holders::kThreads; ++thread) {
    workers.emplace_back([&, thread] { holders.Work(thread, seed); });
  }
  for (std::thread& worker : workers) worker.join();
  should_stop.store(true);
  cleaner.join();
  EXPECT_GT(holders.moved(), 0u);
  EXPECT_EQ(file->stats().checksum_errors, 0u);
  holders.FreeAll();
  ASSERT_TRUE(file->Flush());
  EXPECT_EQ(file->stats().objects, 0u);
  EXPECT_EQ(file->stats().live_bytes, 0u);
  EXPECT_EQ(file->stats().held_bytes, 0u);
}

}  // namespace
}  // namespace zmem
