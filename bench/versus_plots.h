// The pictures of bench/versus_kernel, drawn by gnuplot. Not thread-safe.
#pragma once

#include <string>

#include "bench/versus_results.h"

namespace zmem {

// The scripts that draw what there is in `results.details()`: of refaults' latencies and of
// throughput against the resident share, into SVG files of `directory`. Empty if there is nothing.
std::string PlotScript(const nlohmann::json& details, const std::string& directory);

// Draws them. Returns why that was not possible, or empty. Throws HarnessError.
std::string DrawPlots(const VersusResults& results, const std::string& directory);

}  // namespace zmem
