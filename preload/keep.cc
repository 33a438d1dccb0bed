#include "preload/keep.h"

#include <dlfcn.h>
#include <pthread.h>
#include <time.h>

#include "preload/raw_syscall.h"
#include "preload/step_aside.h"

namespace zmem {
namespace {

using wire::KeptMemory;

// A move takes microseconds, if its thread is not held up; an agent that has been stopped in one
// goes on when the program does.
void AwaitZero(const std::atomic<uint32_t>& word) {
  constexpr int kTries = 20'000;  // a second
  for (int tries = 0; word.load() != 0 && tries < kTries; ++tries) {
    timespec pause{0, 50'000};
    raw::Syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, raw::AsLong(&pause), 0);
  }
}

bool IsKept(const KeptMemory& kept, uint64_t packed) {
  for (const std::atomic<uint64_t>& each : kept.ranges) {
    if (each.load() == packed) return true;
  }
  return false;
}

void KeepMemory(const void* start, size_t bytes) {
  if (g_agent == nullptr) return;
  Address address = reinterpret_cast<Address>(start);
  Keep(g_agent->kept, {address, address + bytes});
}

// libc's own function of that name, behind ours.
template <typename Function>
Function Behind(std::atomic<Function>& found, const char* name) {
  Function function = found.load(std::memory_order_relaxed);
  if (function == nullptr) {
    function = reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
    found.store(function, std::memory_order_relaxed);
  }
  return function;
}

}  // namespace

void Keep(KeptMemory& kept, AddressRange range) {
  uint64_t packed = KeptMemory::Pack(range);
  if (IsKept(kept, packed)) {
    AwaitZero(kept.adding);
  } else {
    kept.adding.fetch_add(1);
    kept.ranges[kept.next.fetch_add(1) % KeptMemory::kRanges].store(packed);
    kept.generation.fetch_add(1);
    kept.adding.fetch_sub(1);
  }
  AwaitZero(kept.moving);
}

void ResetKept(KeptMemory& kept) {
  kept.adding.store(0);
  kept.moving.store(0);
}

bool BeginMoveOut(KeptMemory& kept, uint32_t generation) {
  // Before the generation is looked at, as a range is added before `moving` is.
  kept.moving.store(1);
  return kept.generation.load() == generation;
}

void EndMoveOut(KeptMemory& kept) { kept.moving.store(0); }

}  // namespace zmem

#define ZMEM_EXPORTED extern "C" __attribute__((visibility("default")))

ZMEM_EXPORTED int pthread_attr_setstack(pthread_attr_t* attributes, void* stack, size_t bytes) {
  static std::atomic<int (*)(pthread_attr_t*, void*, size_t)> found{nullptr};
  zmem::KeepMemory(stack, bytes);
  return zmem::Behind(found, "pthread_attr_setstack")(attributes, stack, bytes);
}

ZMEM_EXPORTED int pthread_mutex_init(pthread_mutex_t* mutex,
                                     const pthread_mutexattr_t* attributes) {
  static std::atomic<int (*)(pthread_mutex_t*, const pthread_mutexattr_t*)> found{nullptr};
  int robust = PTHREAD_MUTEX_STALLED;
  if (attributes != nullptr) pthread_mutexattr_getrobust(attributes, &robust);
  if (robust == PTHREAD_MUTEX_ROBUST) zmem::KeepMemory(mutex, sizeof *mutex);
  return zmem::Behind(found, "pthread_mutex_init")(mutex, attributes);
}
