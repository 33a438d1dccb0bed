#include "libzmem/estimate/page_grader.h"

#include <string_view>

#include "libzmem/codec/same_filled.h"
#include "libzmem/pool/size_class.h"

namespace zmem {
namespace {

// With what rounding and the end of a span cost. What sparse spans cost is left out: a few percent
// of a pool that has been in use for long.
double ShareOfSpan(size_t object_bytes) {
  const SizeClass& size_class = kSizeClassTable.classes[SizeClassOf(object_bytes)];
  return static_cast<double>(size_class.span_pages * kPageBytes) / size_class.objects_per_span;
}

}  // namespace

absl::StatusOr<std::unique_ptr<PageGrader>> PageGrader::Create(unsigned fat_percent) {
  constexpr uint64_t kLimitBytes = 64 << 10;
  absl::StatusOr<std::unique_ptr<Zpool>> pool =
      Zpool::Create({.limit_bytes = kLimitBytes, .reserved_bytes = 8 * kLimitBytes});
  if (!pool.ok()) return pool.status();
  auto grader = std::unique_ptr<PageGrader>(new PageGrader(*std::move(pool)));
  for (std::string_view codec : CodecNames()) {
    PageStore::Options options;
    options.compressor = FindCompressor(codec);
    options.fat_bytes = kPageBytes * fat_percent / 100;
    grader->stores_.push_back(std::make_unique<PageStore>(*grader->pool_, options));
  }
  return grader;
}

GradedPage PageGrader::Grade(std::span<const std::byte, kPageBytes> page) {
  GradedPage graded;
  graded.same_filled = SameFilledWord(page).has_value();
  for (size_t codec = 0; codec < stores_.size(); ++codec) {
    graded.by_codec[codec] = GradeWith(*stores_[codec], page);
  }
  return graded;
}

PageGrade PageGrader::GradeWith(PageStore& store, std::span<const std::byte, kPageBytes> page) {
  PageEntry entry;
  if (store.Put(page, workspace_, &entry) != StoreResult::kStored) return {};
  PageGrade grade{.goes_out = true};
  if (entry.state() == PageState::kInPool) grade.held_bytes = ShareOfSpan(entry.object_bytes());
  store.Release(entry);
  return grade;
}

}  // namespace zmem
