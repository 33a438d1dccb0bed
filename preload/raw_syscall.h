// System calls without libc: no errno, no thread-local storage, no cancellation point. The agent
// runs on a bare thread that shares the thread pointer of the program's thread that started it, so
// it must never touch anything thread-local.
#pragma once

#include <sys/syscall.h>
#include <time.h>

#include <cstdint>

namespace zmem::raw {

#if !defined(__x86_64__)
#error "zmem's agent knows x86-64 only"
#endif

// The kernel's result: negative errno on failure.
inline long Syscall(long number, long a = 0, long b = 0, long c = 0, long d = 0, long e = 0,
                    long f = 0) {
  register long r10 asm("r10") = d;
  register long r8 asm("r8") = e;
  register long r9 asm("r9") = f;
  long result;
  asm volatile("syscall"
               : "=a"(result)
               : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
               : "rcx", "r11", "memory");
  return result;
}

template <typename T>
long AsLong(T* pointer) {
  return reinterpret_cast<long>(pointer);
}

// Milliseconds since an arbitrary start; never goes back.
inline int64_t NowMs() {
  timespec now{};
  Syscall(SYS_clock_gettime, CLOCK_MONOTONIC, AsLong(&now));
  return int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000;
}

}  // namespace zmem::raw
