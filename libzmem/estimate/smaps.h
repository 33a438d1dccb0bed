// What the kernel says of each mapping's memory: /proc/PID/smaps, as far as an estimate needs it.
// Thread-safe: no state.
// Source: fs/proc/task_mmu.c, show_smap.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/strings/string_view.h"
#include "libzmem/base/page.h"

namespace zmem {

struct MappingUse {
  AddressRange range;
  uint64_t resident_bytes = 0;
  uint64_t referenced_bytes = 0;  // of them, touched since the marks were cleared
  uint64_t huge_bytes = 0;        // of them, in huge pages, which have one mark for 2 MiB
};

// In the order of the text, which is ascending unless the program changed its layout meanwhile.
// Lines that are not understood are passed over.
std::vector<MappingUse> ParseMappingUse(absl::string_view smaps);

}  // namespace zmem
