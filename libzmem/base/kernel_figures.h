// Figures in the kernel's text files, one to a line, such as "VmRSS:      1024 kB" in
// /proc/PID/status, /proc/PID/smaps and /proc/meminfo.
// Thread-safe: no state.
#pragma once

#include <cstdint>
#include <optional>

#include "absl/strings/string_view.h"

namespace zmem {

// What the first line of `name` (without the colon) in `text` says, in bytes. nullopt if there is
// no such line, or something else than a number of kB in it.
std::optional<uint64_t> BytesFigure(absl::string_view text, absl::string_view name);

// The same of a line without a unit, such as "Threads:    3".
std::optional<uint64_t> PlainFigure(absl::string_view text, absl::string_view name);

}  // namespace zmem
