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

absl::StatusOr<std::unique_ptr<Housekeeper>> Housekeeper::Start(Upkeep& upkeep, const Zpool& pool,
                                                                Upkeep::ProcessesFn processes) {
  std::unique_ptr<Housekeeper> keeper(new Housekeeper(upkeep, pool, std::move(processes)));
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

void Housekeeper::Run() {
  uint64_t held_before = 0;
  int fruitless_looks = kFruitlessLooks;
  bool more = false;
  for (;;) {
    uint64_t held = pool_.held_bytes();
    fruitless_looks = held < held_before ? 0 : std::min(fruitless_looks + 1, kFruitlessLooks);
    held_before = held;
    bool is_shrinking = held > pool_.limit_bytes() && fruitless_looks < kFruitlessLooks;
    {
      MutexLock lock(mutex_);
      if (!woken_ && !stop_.load(std::memory_order_acquire)) {
        changed_.wait_for(mutex_, is_shrinking || more ? kBusyPeriod : kPeriod);
      }
      woken_ = false;
    }
    if (stop_.load(std::memory_order_acquire)) return;
    more = upkeep_.Run(processes_, stop_);
  }
}

}  // namespace zmem
