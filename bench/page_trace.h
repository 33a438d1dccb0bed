// Which pages a program touches, one after the other: Zipfian popularity over pages in random
// order, interrupted by sequential scans, and after a while popularity of another order. The same
// options give the same trace, so that what a program does to its memory can be repeated by a
// simulation. Not thread-safe.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "bench/zipf.h"

namespace zmem {

enum class Touches {
  kBefore,     // popular pages, until memory holds what it will
  kSteady,     // the same pages
  kScan,       // every page, in order, once
  kAfterScan,  // the same popular pages again
  kChanged,    // other popular pages
};

// A part of a trace.
struct Stretch {
  Touches touches;
  uint64_t count;  // of touches
};

class PageTrace {
 public:
  struct Options {
    uint32_t pages = 0;
    uint64_t touches = 0;  // of the steady stretch; the others are in proportion
    double exponent = 0.99;
    uint64_t seed = 1;
  };
  explicit PageTrace(const Options& options);

  // In the order in which they come; together they are the trace.
  const std::vector<Stretch>& stretches() const { return stretches_; }
  // The next page, of so many calls as all stretches have touches.
  uint32_t Next();
  // The `count` pages that are touched most in such a stretch, by what is likely.
  std::vector<bool> MostPopular(Touches touches, uint32_t count) const;

 private:
  const ZipfItems& ItemsOf(Touches touches) const {
    return touches == Touches::kChanged ? changed_ : items_;
  }

  const uint32_t pages_;
  const ZipfItems items_;
  const ZipfItems changed_;
  std::vector<Stretch> stretches_;
  std::mt19937_64 random_;
  size_t stretch_ = 0;  // of the next page
  uint64_t at_ = 0;     // in that stretch
};

}  // namespace zmem
