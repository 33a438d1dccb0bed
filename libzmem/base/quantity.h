// Sizes, durations and switches, as people write them in files and on command lines and as they
// read them in tables.
// Thread-safe: no state. Never guesses: what is not exactly understood is an error that quotes it.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace zmem {

// Bytes: a whole number with an optional K, M, G or T, powers of 1024, in either case and with an
// optional "B" or "iB" ("16M", "512kB", "2GiB", "4096"). Blanks around it are ignored.
// Errors: InvalidArgument for anything else and for what does not fit 64 bits.
absl::StatusOr<uint64_t> ParseBytes(absl::string_view text);

// As ParseBytes, or a whole percentage from 0% to 100% of `total_bytes`, rounded down.
absl::StatusOr<uint64_t> ParseBytesOrPercent(absl::string_view text, uint64_t total_bytes);

// Nanoseconds, 0 or more: a whole number with ms, s, m or h ("250ms", "30s", "5m", "1h").
// Errors: InvalidArgument for anything else and for more than 292 years.
absl::StatusOr<int64_t> ParseDurationNs(absl::string_view text);

// yes, true, on, 1 or no, false, off, 0, in either case. Errors: InvalidArgument.
absl::StatusOr<bool> ParseBool(absl::string_view text);

// At most four digits and a binary unit: "0 B", "1023 B", "9.50 KiB", "412.3 MiB".
std::string FormatBytes(uint64_t bytes);

// At most four digits and ns, µs, ms or s: "310 ns", "3.31 µs", "12.50 ms". Longer than a thousand
// seconds stays in whole seconds.
std::string FormatDuration(uint64_t ns);

// `text` in quotes for a one-line message: what is not printable ASCII is escaped, and after 64
// bytes it is cut.
std::string Quoted(absl::string_view text);

}  // namespace zmem
