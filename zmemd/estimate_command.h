// `zmemctl estimate PID`: what zmem would save of a program, before it is managed. Works without a
// zmemd; one that manages the program already is asked what is out.
// Thread-safe: no state.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/statusor.h"
#include "zmemd/control.h"

namespace zmem {

struct EstimateRequest {
  pid_t pid = 0;
  int64_t seconds = 30;   // to watch it for; 1..kMaxEstimateSeconds
  uint64_t pages = 4096;  // to compress; 1..kMaxEstimatePages
  std::string socket;     // of a zmemd that may manage it
};
inline constexpr int64_t kMaxEstimateSeconds = 86'400;
inline constexpr uint64_t kMaxEstimatePages = 1 << 20;

// Takes `seconds`. docs/statistics.md says what is in the answer. Errors: as EstimateProcess.
absl::StatusOr<nlohmann::json> AnswerEstimate(const EstimateRequest& request,
                                              const ControlProgressFn& progress);

// The same as tables for people. Never fails: what is missing reads as zero.
std::string RenderEstimate(const nlohmann::json& estimate);

}  // namespace zmem
