// The least that must happen to a program squeezed by way of userfaultfd: a handler that reads
// faults, decodes and fills, beside it a thread of the program that moves pages away, and one that
// reads, compresses and drops them. No pool, no records, no choice but the oldest. What a program
// reaches over it is the most that it could over zmem.
// For programs of one thread, which do not fork. Not thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace zmem {

class BareSqueeze {
 public:
  // From now on at most `most_resident` of the `pages` pages at `data`, all of which are in memory,
  // stay there. The calling thread is kept on the first CPU, with the handler; what takes pages out
  // runs on the second. Throws HarnessError.
  BareSqueeze(std::byte* data, uint32_t pages, uint32_t most_resident);
  // What is out is lost: to live as long as the pages are used.
  ~BareSqueeze();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace zmem
