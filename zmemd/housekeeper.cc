#include "zmemd/housekeeper.h"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"

namespace zmem {
namespace {

// How often it is looked whether there is something to do, which costs a few microseconds.
constexpr std::chrono::milliseconds kPeriod{1000};
// The same while a pool above its limit shrinks, as the file's buffers take a few MiB and then the
// disk needs a moment, and while the file is short of free segments.
constexpr std::chrono::milliseconds kBusyPeriod{50};
// A pool that is no smaller after so many looks does not shrink: its file is full or suspended.
constexpr int kFruitlessLooks = 20;

}  // namespace

absl::StatusOr<std::unique_ptr<Housekeeper>> Housekeeper::Start(Upkeep& upkeep, Zpool& pool,
                                                                uint64_t keep_bytes,
                                                                Upkeep::ProcessesFn processes) {
  std::unique_ptr<Housekeeper> keeper(
      new Housekeeper(upkeep, pool, keep_bytes, std::move(processes)));
  try {
    keeper->thread_ = std::thread([raw = keeper.get()] {
      pthread_setname_np(pthread_self(), "zmem-upkeep");
      raw->Run();
    });
  } catch (const std::system_error& error) {
    return absl::ResourceExhaustedError(absl::StrCat("cannot start a thread: ", error.what()));
  }
  return keeper;
}

Housekeeper::~Housekeeper() {
  {
    MutexLock lock(mutex_);
    stop_.store(true, std::memory_order_release);
    changed_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

void Housekeeper::Wake() {
  MutexLock lock(mutex_);
  woken_ = true;
  changed_.notify_all();
}

void Housekeeper::OnManyKept() {
  MutexLock lock(mutex_);
  many_kept_ = true;
  changed_.notify_all();
}

bool Housekeeper::Await(std::chrono::steady_clock::time_point upkeep_due) {
  MutexLock lock(mutex_);
  if (!woken_ && !many_kept_ && !stop_.load(std::memory_order_acquire)) {
    changed_.wait_until(mutex_, upkeep_due);
  }
  // Whoever waits for pages of which much is freed is not to be disturbed.
  bool grows = true;
  while (!woken_ && many_kept_ && grows && !stop_.load(std::memory_order_acquire)) {
    uint64_t kept = pool_.kept_bytes();
    changed_.wait_for(mutex_, kBusyPeriod);
    grows = pool_.kept_bytes() > kept && kept < keep_bytes_ / 2;
  }
  bool is_due = woken_ || std::chrono::steady_clock::now() >= upkeep_due;
  woken_ = false;
  many_kept_ = false;
  return is_due;
}

void Housekeeper::Run() {
  uint64_t held_before = 0;
  int fruitless_looks = kFruitlessLooks;
  bool more = false;
  auto due = std::chrono::steady_clock::now();
  while (!stop_.load(std::memory_order_acquire)) {
    if (!Await(due)) {
      pool_.GiveBackEmpty();
      continue;
    }
    if (stop_.load(std::memory_order_acquire)) return;
    more = upkeep_.Run(processes_, stop_);
    uint64_t held = pool_.held_bytes();
    fruitless_looks = held < held_before ? 0 : std::min(fruitless_looks + 1, kFruitlessLooks);
    held_before = held;
    bool is_shrinking = held > pool_.limit_bytes() && fruitless_looks < kFruitlessLooks;
    due = std::chrono::steady_clock::now() + (is_shrinking || more ? kBusyPeriod : kPeriod);
  }
}

}  // namespace zmem
