// Which pages stay when memory holds fewer than a program uses: page replacement as the textbooks
// have it, to be run over a trace of page numbers beside what the machine did with the same one.
// A page is taken in when it is touched and is not there, at the cost of another once memory is
// full. Memory is empty at first. Not thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <utility>
#include <vector>

namespace zmem {

class Replacement {
 public:
  virtual ~Replacement() = default;
  // The program touches `page`. Returns whether it was there.
  virtual bool Touch(uint32_t page) = 0;
};

// What goes is ... Each takes pages 0..pages-1 and has room for `capacity` of them, 1 or more.
// ... what was touched longest ago.
std::unique_ptr<Replacement> MakeLru(uint32_t pages, uint32_t capacity);
// ... what came longest ago.
std::unique_ptr<Replacement> MakeFifo(uint32_t pages, uint32_t capacity);
// ... what came longest ago and was not touched since the hand last passed it.
std::unique_ptr<Replacement> MakeClock(uint32_t pages, uint32_t capacity);
// ... any.
std::unique_ptr<Replacement> MakeRandom(uint32_t pages, uint32_t capacity, uint64_t seed);

// An oracle: the pages of `kept` are always there, and no others ever are.
class KeptPages : public Replacement {
 public:
  explicit KeptPages(std::vector<bool> kept) : kept_(std::move(kept)) {}
  // From now on others are kept.
  void Keep(std::vector<bool> kept) { kept_ = std::move(kept); }
  bool Touch(uint32_t page) override { return kept_[page]; }

 private:
  std::vector<bool> kept_;
};

}  // namespace zmem
