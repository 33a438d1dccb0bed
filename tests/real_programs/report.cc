#include "tests/real_programs/report.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace zmem {
namespace {

constexpr std::chrono::milliseconds kRedraw{250};

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

using Cells = std::vector<std::string>;

Cells Row(const Comparison& comparison) {
  bool ran = comparison.verdict != Verdict::kSkipped;
  auto number = [&](int64_t value) { return ran ? absl::StrCat(value) : "-"; };
  auto seconds = [&](double value) { return ran ? absl::StrFormat("%.1f", value) : "-"; };
  return {comparison.name,
          comparison.what,
          seconds(comparison.unmanaged_s),
          seconds(comparison.managed_s),
          number(comparison.totals.programs),
          number(comparison.totals.evicted_pages),
          number(comparison.totals.faults),
          VerdictName(comparison.verdict)};
}

bool IsNumber(size_t column) { return column >= 2 && column <= 6; }

}  // namespace

RunLine::RunLine(const std::string& name, bool managed, const Stage& stage)
    : title_(absl::StrCat(name, managed ? ", managed" : ", unmanaged")),
      stage_(stage),
      on_terminal_(isatty(STDOUT_FILENO) == 1),
      start_(std::chrono::steady_clock::now()) {
  if (!on_terminal_) {
    std::printf("%s: started\n", title_.c_str());
    std::fflush(stdout);
    return;
  }
  thread_ = std::thread([this] {
    while (!stop_) {
      std::printf("\r\033[K%s", Text().c_str());
      std::fflush(stdout);
      std::this_thread::sleep_for(kRedraw);
    }
  });
}

RunLine::~RunLine() {
  stop_ = true;
  if (thread_.joinable()) thread_.join();
  std::printf("%s%s\n", on_terminal_ ? "\r\033[K" : "", Text().c_str());
  std::fflush(stdout);
}

std::string RunLine::Text() const {
  EvictionTotals totals = stage_.totals();
  std::string text = absl::StrFormat("%s: %.1f s", title_, SecondsSince(start_));
  if (totals.programs == 0) return text;
  return absl::StrFormat("%s, %d processes, %d pages out, %d faults", text, totals.programs,
                         totals.evicted_pages, totals.faults);
}

void PrintTable(const std::vector<Comparison>& comparisons) {
  std::vector<Cells> rows = {{"program", "what was run", "unmanaged s", "managed s", "processes",
                              "pages evicted", "faults", "verdict"}};
  for (const Comparison& comparison : comparisons) rows.push_back(Row(comparison));
  std::vector<size_t> widths(rows[0].size());
  for (const Cells& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::printf("\n");
  for (const Cells& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) {
      int width = static_cast<int>(widths[i]);
      std::printf("%*s%s", IsNumber(i) ? width : -width, row[i].c_str(),
                  i + 1 < row.size() ? "  " : "\n");
    }
  }
  for (const Comparison& comparison : comparisons) {
    if (comparison.verdict == Verdict::kEqual) continue;
    std::printf("\n%s: %s: %s\n", comparison.name.c_str(), VerdictName(comparison.verdict),
                comparison.reason.c_str());
  }
}

void WriteReport(const std::string& path, bool brief, const std::vector<Comparison>& comparisons) {
  nlohmann::json report = {{"brief", brief}, {"programs", nlohmann::json::array()}};
  for (const Comparison& comparison : comparisons) {
    report["programs"].push_back({{"name", comparison.name},
                                  {"what", comparison.what},
                                  {"unmanaged_s", comparison.unmanaged_s},
                                  {"managed_s", comparison.managed_s},
                                  {"processes", comparison.totals.programs},
                                  {"evicted_pages", comparison.totals.evicted_pages},
                                  {"faults", comparison.totals.faults},
                                  {"verdict", VerdictName(comparison.verdict)},
                                  {"reason", comparison.reason}});
  }
  std::ofstream file(path);
  file << report.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) << "\n";
  file.close();
  if (!file) throw HarnessError("cannot write " + path);
}

}  // namespace zmem
