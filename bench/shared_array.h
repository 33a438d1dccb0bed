// Memory for what a measured program notes about itself: shared, so that neither zmem nor swap
// takes it out, and there before the measuring begins.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdio>
#include <cstdlib>

namespace zmem {

// `count` zeroed elements, for as long as the program runs. Ends it, with a message, for want of
// memory.
template <typename T>
T* SharedArray(size_t count) {
  void* mapping = mmap(nullptr, count * sizeof(T), PROT_READ | PROT_WRITE,
                       MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (mapping == MAP_FAILED) {
    std::perror("mmap");
    std::exit(2);
  }
  return static_cast<T*>(mapping);
}

}  // namespace zmem
