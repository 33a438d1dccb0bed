#include "zmemd/progress_bar.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "zmemd/tables.h"

namespace zmem {
namespace {

constexpr int64_t kSecondNs = 1'000'000'000;
constexpr int64_t kQuietNs = 2 * kSecondNs;
constexpr int64_t kRedrawNs = kSecondNs / 10;
constexpr size_t kMinBarColumns = 10;
constexpr size_t kMaxBarColumns = 40;

std::string Bar(double share, size_t columns) {
  auto filled = static_cast<size_t>(share * static_cast<double>(columns));
  std::string bar(columns, ' ');
  std::fill_n(bar.begin(), filled, '=');
  if (filled > 0 && filled < columns) bar[filled - 1] = '>';
  return absl::StrCat("[", bar, "]");
}

}  // namespace

std::string RenderProgress(absl::string_view what, const ControlProgress& progress,
                           int64_t elapsed_ns, size_t columns) {
  uint64_t done = std::min(progress.done, progress.total);
  double share =
      progress.total == 0 ? 0 : static_cast<double>(done) / static_cast<double>(progress.total);
  std::string numbers =
      absl::StrFormat("%3d %%  %s of %s %s", static_cast<int>(share * 100), FormatCount(done),
                      FormatCount(progress.total), Printable(progress.unit));
  if (share > 0) {
    double left_s = static_cast<double>(elapsed_ns) / kSecondNs * (1 - share) / share;
    absl::StrAppendFormat(&numbers, ", %.0f s left", left_s);
  }
  size_t taken = what.size() + numbers.size() + 6;  // blanks and brackets
  size_t bar_columns = columns > taken ? std::min(columns - taken, kMaxBarColumns) : 0;
  if (bar_columns < kMinBarColumns) return absl::StrCat(what, "  ", numbers).substr(0, columns);
  return absl::StrCat(what, "  ", Bar(share, bar_columns), "  ", numbers);
}

ProgressBar::ProgressBar(std::string what, const Clock& clock, size_t columns, Sink write)
    : what_(std::move(what)),
      clock_(clock),
      columns_(columns),
      write_(std::move(write)),
      start_ns_(clock.now_ns()) {}

ProgressBar::~ProgressBar() {
  if (drawn_) write_("\r\x1b[K");
}

void ProgressBar::Update(const ControlProgress& progress) {
  int64_t now_ns = clock_.now_ns();
  if (!write_ || now_ns - start_ns_ < kQuietNs) return;
  if (drawn_ && now_ns - drawn_ns_ < kRedrawNs) return;
  drawn_ = true;
  drawn_ns_ = now_ns;
  // One place short of the edge: some terminals wrap there.
  std::string line = RenderProgress(what_, progress, now_ns - start_ns_, columns_ - 1);
  write_(absl::StrCat("\r", line, "\x1b[K"));
}

}  // namespace zmem
