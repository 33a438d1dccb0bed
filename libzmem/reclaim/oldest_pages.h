// Picks what goes first when room has to be made: of all pages that may be taken, those that came
// longest ago, hot ones later than their age says (store/page_ages.h).
// No state, no system call.
#pragma once

#include <cstddef>
#include <vector>

#include "libzmem/reclaim/survey.h"
#include "libzmem/store/page_table.h"

namespace zmem {

struct OldestPages {
  std::vector<Candidate> chunks;  // the first to go is the last
  unsigned residence_epochs = 1;  // the youngest of them came so long ago, if it never proved hot
};

// About `most` pages, not fewer if there are as many: of a chunk, all of an age. Only pages that
// are not known to be incompressible, of chunks in the table.
OldestPages PickOldest(const std::vector<Candidate>& present, PageTable& table, Epoch now,
                       size_t most);

}  // namespace zmem
