// Debian packages of programs that are not installed.
#pragma once

#include <vector>

#include "tests/real_programs/program.h"

namespace zmem {

// Installs with apt-get, asking nothing and saying so, what those of `programs` need that are not
// installed. Their services stay off. Where that does not work it says why; the programs are then
// skipped.
void InstallMissing(const std::vector<Program>& programs);

}  // namespace zmem
