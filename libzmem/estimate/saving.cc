#include "libzmem/estimate/saving.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "libzmem/base/check.h"

namespace zmem {
namespace {

constexpr double k95Percent = 1.96;
// A mapping with fewer pages in the sample says too little of its own spread.
constexpr size_t kEnoughPages = 30;

// Sums over sampled pages of one codec.
struct Sums {
  double pages = 0;     // in the sample
  double of_pages = 0;  // that they stand for
  double out = 0;       // pages that would go out
  double held = 0;      // bytes for them
  double freed = 0;     // bytes
  double freed_squares = 0;

  void Add(const PageGrade& grade) {
    double freed_here = grade.goes_out ? kPageBytes - grade.held_bytes : 0;
    pages += 1;
    out += grade.goes_out ? 1 : 0;
    held += grade.held_bytes;
    freed += freed_here;
    freed_squares += freed_here * freed_here;
  }
  void Add(const SampledMapping& mapping, size_t codec) {
    of_pages += static_cast<double>(mapping.pages);
    for (const GradedPage& page : mapping.sample) Add(page.by_codec[codec]);
  }
  // Of the pages, those that are not in the sample.
  double UnseenShare() const { return std::max(0.0, 1 - pages / std::max(of_pages, 1.0)); }
  // Of the mean of `freed`: what the pages not looked at may change.
  double FreedVariance() const {
    if (pages < 2) return 0;
    double mean = freed / pages;
    double spread = std::max(0.0, (freed_squares - pages * mean * mean) / (pages - 1));
    return spread / pages * UnseenShare();
  }
};

Sums SumsOfAll(const PageSample& sample, size_t codec) {
  Sums all;
  for (const SampledMapping& mapping : sample.mappings) all.Add(mapping, codec);
  return all;
}

Estimated Share(double part, const Sums& all) {
  if (all.pages == 0) return {};
  double share = part / all.pages;
  return {share, k95Percent * std::sqrt(share * (1 - share) / all.pages * all.UnseenShare())};
}

}  // namespace

CodecResult ResultOfCodec(const PageSample& sample, size_t codec) {
  Sums all = SumsOfAll(sample, codec);
  std::vector<double> held_bytes;  // of each page compressed
  for (const SampledMapping& mapping : sample.mappings) {
    for (const GradedPage& page : mapping.sample) {
      const PageGrade& grade = page.by_codec[codec];
      if (grade.goes_out && !page.same_filled) held_bytes.push_back(grade.held_bytes);
    }
  }
  CodecResult result;
  result.incompressible_share = Share(all.pages - all.out, all);
  double held = std::accumulate(held_bytes.begin(), held_bytes.end(), 0.0);
  if (held == 0) return result;
  double ratio = static_cast<double>(held_bytes.size() * kPageBytes) / held;
  // The error of a ratio of two sums, by the spread about it (Cochran, Sampling Techniques, 6.3).
  double squares = 0;
  for (double bytes : held_bytes) squares += std::pow(kPageBytes - ratio * bytes, 2);
  result.ratio = {ratio, k95Percent * std::sqrt(squares * all.UnseenShare()) / held};
  return result;
}

Estimated SameFilledShare(const PageSample& sample) {
  Sums all = SumsOfAll(sample, 0);
  double same_filled = 0;
  for (const SampledMapping& mapping : sample.mappings) {
    for (const GradedPage& page : mapping.sample) same_filled += page.same_filled ? 1 : 0;
  }
  return Share(same_filled, all);
}

Saving SavingOfPages(const PageSample& sample, const std::vector<double>& cold_pages,
                     size_t codec) {
  ZMEM_CHECK(cold_pages.size() == sample.mappings.size() + 1);
  Saving saving;
  double variance = 0;
  auto add = [&](const Sums& like, double cold) {
    if (like.pages == 0) return;
    saving.out_bytes += cold * like.out / like.pages * kPageBytes;
    saving.pool_bytes += cold * like.held / like.pages;
    saving.freed_bytes.value += cold * like.freed / like.pages;
    variance += cold * cold * like.FreedVariance();
  };
  Sums few;  // of the mappings with few sampled pages, taken together
  double cold_of_few = cold_pages.back();
  for (size_t i = 0; i < sample.mappings.size(); ++i) {
    const SampledMapping& mapping = sample.mappings[i];
    if (mapping.sample.size() < kEnoughPages && mapping.sample.size() < mapping.pages) {
      few.Add(mapping, codec);
      cold_of_few += cold_pages[i];
      continue;
    }
    Sums own;
    own.Add(mapping, codec);
    add(own, cold_pages[i]);
  }
  add(few.pages < kEnoughPages ? SumsOfAll(sample, codec) : few, cold_of_few);
  saving.freed_bytes.error = k95Percent * std::sqrt(variance);
  return saving;
}

}  // namespace zmem
