#include "libzmem/pool/size_class.h"

namespace zmem {
namespace {

// A span of one page more is worth it if each of its pages wastes so many bytes less behind the
// last object: larger spans empty later, make more classes, and a class has a span with room as a
// rule. By //bench:zpool, sizes of real programs gain from it at every size of pool.
constexpr size_t kWorthAPageBytes = 8;

constexpr SizeClass BestSpan(size_t object_bytes) {
  SizeClass best;
  size_t best_cost = 0;
  for (size_t pages = 1; pages <= kMaxSpanPages; ++pages) {
    size_t waste = pages * kPageBytes % object_bytes;
    size_t cost = waste + pages * pages * kWorthAPageBytes;
    // cost / pages < best_cost / best.span_pages, without the division
    if (best.span_pages != 0 && cost * best.span_pages >= best_cost * pages) continue;
    best = {.object_bytes = static_cast<uint16_t>(object_bytes),
            .objects_per_span = static_cast<uint16_t>(pages * kPageBytes / object_bytes),
            .span_pages = static_cast<uint8_t>(pages)};
    best_cost = cost;
  }
  return best;
}

constexpr bool SameShape(const SizeClass& a, const SizeClass& b) {
  return a.span_pages == b.span_pages && a.objects_per_span == b.objects_per_span;
}

constexpr SizeClass BestSpanOfStep(size_t step) { return BestSpan((step + 1) * kSizeStepBytes); }

constexpr SizeClassTable MakeTable() {
  SizeClassTable table{};
  size_t number = 0;
  for (size_t step = 0; step < kSizeSteps; ++step) {
    table.class_of_step[step] = static_cast<uint8_t>(number);
    SizeClass own = BestSpanOfStep(step);
    if (step + 1 < kSizeSteps && SameShape(own, BestSpanOfStep(step + 1))) continue;
    table.classes[number++] = own;
  }
  return table;
}

}  // namespace

constinit const SizeClassTable kSizeClassTable = MakeTable();

// Together with the bounds check of constant evaluation: exactly kSizeClasses were made.
static_assert(MakeTable().class_of_step.back() == kSizeClasses - 1);

}  // namespace zmem
