#include "bench/process_use.h"

#include <filesystem>
#include <string>

#include "absl/strings/str_cat.h"
#include "libzmem/base/kernel_figures.h"
#include "libzmem/base/sys.h"
#include "tests/error.h"

namespace zmem {

MemoryUse MemoryOf(pid_t pid) {
  std::string path = absl::StrCat("/proc/", pid, "/smaps_rollup");
  std::string text;
  if (!sys::ReadFile(path, text).ok()) throw HarnessError("cannot read " + path);
  return {.resident_bytes = BytesFigure(text, "Rss").value_or(0),
          .proportional_bytes = BytesFigure(text, "Pss").value_or(0)};
}

uint64_t WakeUps(pid_t pid) {
  std::string path = absl::StrCat("/proc/", pid, "/task");
  std::error_code error;
  std::filesystem::directory_iterator tasks(path, error);
  if (error) throw HarnessError("cannot read " + path);
  uint64_t switches = 0;
  for (const auto& task : tasks) {
    std::string text;
    if (!sys::ReadFile(task.path().string() + "/status", text).ok()) continue;  // it has ended
    switches += PlainFigure(text, "voluntary_ctxt_switches").value_or(0);
  }
  return switches;
}

}  // namespace zmem
