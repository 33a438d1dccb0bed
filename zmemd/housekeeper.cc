#include "zmemd/housekeeper.h"

#include <pthread.h>

#include <chrono>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"

namespace zmem {
namespace {

// How often it is looked whether there is something to do, which costs a few microseconds.
constexpr std::chrono::milliseconds kPeriod{1000};

}  // namespace

absl::StatusOr<std::unique_ptr<Housekeeper>> Housekeeper::Start(Upkeep& upkeep,
                                                                Upkeep::ProcessesFn processes) {
  std::unique_ptr<Housekeeper> keeper(new Housekeeper(upkeep, std::move(processes)));
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
  for (;;) {
    {
      MutexLock lock(mutex_);
      if (!woken_ && !stop_.load(std::memory_order_acquire)) changed_.wait_for(mutex_, kPeriod);
      woken_ = false;
    }
    if (stop_.load(std::memory_order_acquire)) return;
    upkeep_.Run(processes_, stop_);
  }
}

}  // namespace zmem
