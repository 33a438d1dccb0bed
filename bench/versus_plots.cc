#include "bench/versus_plots.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tests/child.h"

namespace zmem {
namespace {

constexpr std::chrono::seconds kDrawTimeout{60};
constexpr const char* kSides[] = {"zmem", "zram"};

// A block of inline data, `name`, of the points that `line` makes of the elements of `points`.
template <typename Line>
std::string Data(const std::string& name, const nlohmann::json& points, Line line) {
  std::string text = absl::StrCat("$", name, " << END\n");
  for (const nlohmann::json& point : points) absl::StrAppend(&text, line(point), "\n");
  return text + "END\n";
}

std::string LatencyScript(const nlohmann::json& latency, const std::string& directory) {
  std::string data;
  std::string plot;
  for (const char* side : kSides) {
    if (!latency.contains(side)) continue;
    // Against what share is beyond, so that the slow ones are spread out.
    data += Data(absl::StrCat("latency_", side), latency.at(side), [](const nlohmann::json& point) {
      return absl::StrFormat("%g %g", 100 - point.at(0).get<double>(),
                             point.at(1).get<double>() / 1e3);
    });
    absl::StrAppend(&plot, plot.empty() ? "plot " : ", ", "$latency_", side,
                    " using 1:2 with lines linewidth 2 title '", side, "'");
  }
  return absl::StrCat(data, "set output '", directory, "/refault_latency.svg'\n",
                      "set title 'random refaults of one thread'\n"
                      "set key at graph 0.03,0.96 left top Left reverse\n"
                      "set logscale xy\nset xrange [100:0.01]\n"
                      "set xtics ('p50' 50, 'p90' 10, 'p99' 1, 'p99.9' 0.1, 'p99.99' 0.01)\n"
                      "set xlabel 'percentile'\nset ylabel 'µs'\n",
                      plot, "\n");
}

std::string ShareScript(const nlohmann::json& rates, const std::string& directory) {
  std::string data;
  std::string plot;
  for (const char* side : kSides) {
    if (!rates.at(0).contains(side)) continue;
    data += Data(absl::StrCat("rate_", side), rates, [side](const nlohmann::json& point) {
      return absl::StrFormat("%d %g", point.at("share").get<int>(), point.at(side).get<double>());
    });
    absl::StrAppend(&plot, plot.empty() ? "plot " : ", ", "$rate_", side,
                    " using 1:2 with linespoints linewidth 2 title '", side, "'");
  }
  return absl::StrCat(data, "set output '", directory, "/throughput.svg'\n",
                      "set title 'random read-write of a program, a part of it resident'\n"
                      "set key at graph 0.97,0.96 right top\n"
                      "set xrange [95:35]\nset xtics 10\nset logscale y\nset format y '%.0s%c'\n"
                      "set xlabel 'resident, %'\nset ylabel 'operations/s'\n",
                      plot, "\n");
}

}  // namespace

std::string PlotScript(const nlohmann::json& details, const std::string& directory) {
  std::string script;
  auto add = [&script](const std::string& plot) {
    absl::StrAppend(&script, "reset\nset terminal svg size 720,440 background rgb 'white'\n",
                    "set grid\n", plot);
  };
  if (details.contains("refault_ns")) add(LatencyScript(details.at("refault_ns"), directory));
  if (details.contains("random_per_s")) add(ShareScript(details.at("random_per_s"), directory));
  return script;
}

std::string DrawPlots(const VersusResults& results, const std::string& directory) {
  std::string script = PlotScript(results.details(), directory);
  if (script.empty()) return "";
  std::optional<Child> gnuplot;
  try {
    gnuplot.emplace(ChildOptions{.argv = {"gnuplot"}});
  } catch (const HarnessError&) {
    return "no pictures: gnuplot is not installed (Debian's gnuplot-nox)";
  }
  gnuplot->Send(script);
  gnuplot->CloseInput();
  ExitStatus status = gnuplot->Wait(kDrawTimeout);
  return status.Succeeded() ? "" : "no pictures: gnuplot: " + gnuplot->errors();
}

}  // namespace zmem
