#include "libzmem/pool/size_class.h"

namespace zmem {
namespace {

// The span that wastes the smallest share of its pages behind its last object; of equals, the
// smallest, because it empties soonest.
constexpr SizeClass BestSpan(size_t object_bytes) {
  SizeClass best;
  size_t best_waste = 0;
  for (size_t pages = 1; pages <= kMaxSpanPages; ++pages) {
    size_t waste = pages * kPageBytes % object_bytes;
    // waste / pages < best_waste / best.span_pages, without the division
    if (best.span_pages != 0 && waste * best.span_pages >= best_waste * pages) continue;
    best = {.object_bytes = static_cast<uint16_t>(object_bytes),
            .objects_per_span = static_cast<uint16_t>(pages * kPageBytes / object_bytes),
            .span_pages = static_cast<uint8_t>(pages)};
    best_waste = waste;
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
