#include "bench/page_trace.h"

#include "libzmem/base/check.h"

namespace zmem {
namespace {

constexpr int kScans = 3;

}  // namespace

PageTrace::PageTrace(const Options& options)
    : pages_(options.pages),
      items_(options.pages, options.exponent, ZipfOrder::kScrambled, options.seed),
      changed_(options.pages, options.exponent, ZipfOrder::kScrambled, options.seed + 1),
      random_(options.seed) {
  stretches_ = {{Touches::kBefore, 2 * options.touches}, {Touches::kSteady, options.touches}};
  for (int scan = 0; scan < kScans; ++scan) {
    stretches_.push_back({Touches::kScan, options.pages});
    stretches_.push_back({Touches::kAfterScan, options.touches / kScans});
  }
  stretches_.push_back({Touches::kChanged, 2 * options.touches});
}

uint32_t PageTrace::Next() {
  while (at_ == stretches_[stretch_].count) {
    at_ = 0;
    ++stretch_;
    ZMEM_CHECK(stretch_ < stretches_.size());
  }
  Touches touches = stretches_[stretch_].touches;
  uint64_t at = at_++;
  return touches == Touches::kScan ? static_cast<uint32_t>(at) : ItemsOf(touches)(random_);
}

std::vector<bool> PageTrace::MostPopular(Touches touches, uint32_t count) const {
  std::vector<bool> popular(pages_);
  for (uint32_t rank = 0; rank < count; ++rank) popular[ItemsOf(touches).ItemOfRank(rank)] = true;
  return popular;
}

}  // namespace zmem
