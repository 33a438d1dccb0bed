#include "tests/real_programs/stage.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace zmem {
namespace {

// As small as zmemd's configuration allows.
constexpr char kRestless[] = "[policy]\ncold_age=1ms\nscan_interval=10ms\nmin_resident=1M\n";

// The slowest takes two minutes; what takes this long does not go on at all.
constexpr std::chrono::minutes kRunTimeout{10};
constexpr size_t kTailLines = 30;
// So that a program that is taken out whole still gets anywhere on a machine with two CPUs.
constexpr std::chrono::milliseconds kEvictionPause{20};

}  // namespace

std::string Tail(const std::string& text, size_t lines) {
  std::vector<std::string> all = absl::StrSplit(text, '\n', absl::SkipWhitespace());
  size_t left = std::min(lines, all.size());
  return absl::StrJoin(all.end() - static_cast<ptrdiff_t>(left), all.end(), "\n");
}

Stage::Stage(const StageOptions& options) : options_(options) {
  if (!options.managed) return;
  daemon_.emplace(DaemonOptions{.config = kRestless});
  evictor_.emplace(*daemon_, EvictorOptions{.pause = kEvictionPause});
}

EvictionTotals Stage::totals() const {
  return evictor_.has_value() ? evictor_->totals() : EvictionTotals{};
}

ChildOptions Stage::Options(std::vector<std::string> argv) const {
  if (!daemon_.has_value()) return {.argv = std::move(argv)};
  ChildOptions options = Managed(*daemon_, std::move(argv));
  // What a program's test says on stderr is part of its result.
  options.env.erase("ZMEM_VERBOSE");
  return options;
}

CommandResult Stage::Run(const ChildOptions& options) const {
  CommandResult result = RunCommand(options, kRunTimeout);
  if (!result.status.Succeeded()) {
    throw HarnessError(absl::StrCat(absl::StrJoin(options.argv, " "), ": ",
                                    result.status.ToString(), "\n", Tail(result.output, kTailLines),
                                    "\n", Tail(result.errors, kTailLines)));
  }
  return result;
}

void Stage::Finish() {
  if (!daemon_.has_value()) return;
  evictor_->Stop();
  EvictionTotals totals = evictor_->totals();
  if (totals.evicted_pages == 0) throw HarnessError("no page was taken out");
  if (totals.faults == 0) throw HarnessError("no page that was taken out was touched again");
  if (totals.poisoned_pages != 0) {
    throw HarnessError(absl::StrCat(totals.poisoned_pages, " pages were poisoned"));
  }
  WaitPoolEmpty(*daemon_);
  daemon_->Stop();
}

}  // namespace zmem
