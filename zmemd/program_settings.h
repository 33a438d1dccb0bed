// What may be said of one program, in the configuration and elsewhere.
// Thread-safe: values, and functions without state.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "libzmem/store/policy.h"

namespace zmem {

// A resident limit, in bytes: "none" is 0; else a size, or 1% to 100% of `total_bytes`.
// Errors: InvalidArgument for anything else, and for a size of nothing.
absl::StatusOr<uint64_t> ParseLimit(absl::string_view text, uint64_t total_bytes);

// Percent of wall time, 0 to 100, with fractions.
absl::StatusOr<double> ParseStallTarget(absl::string_view text);

absl::StatusOr<ReclaimMode> ParseReclaimMode(absl::string_view text);
absl::string_view ReclaimModeName(ReclaimMode mode);

}  // namespace zmem
