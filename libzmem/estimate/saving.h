// What taking pages out would gain, worked out from a sample of them; with its error.
// Thread-safe: no state. Every ± is 1.96 standard errors: it holds in 95 of 100 samples, and says
// nothing of what the program will do next.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "libzmem/estimate/page_sample.h"

namespace zmem {

struct Estimated {
  double value = 0;
  double error = 0;  // ±
};

// How a codec does on the sample.
struct CodecResult {
  // Of the pages that are compressed: their bytes over what they need in the pool. Without those
  // that one word fills, which would make it endless; 0: there are none.
  Estimated ratio;
  Estimated incompressible_share;  // 0..1 of the pages
};
// codec: its place in CodecNames().
CodecResult ResultOfCodec(const PageSample& sample, size_t codec);
Estimated SameFilledShare(const PageSample& sample);

// Bytes.
struct Saving {
  double out_bytes = 0;   // would leave the program
  double pool_bytes = 0;  // would be needed in the pool
  Estimated freed_bytes;  // out less pool
};
// If `cold_pages` of each mapping went out: by the sample's mappings, and last of any other. Those
// of a mapping are taken to compress as its sampled pages do, or as all do if those are few.
Saving SavingOfPages(const PageSample& sample, const std::vector<double>& cold_pages, size_t codec);

}  // namespace zmem
