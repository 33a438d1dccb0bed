// What every bench of the whole system does around its measuring.
#pragma once

#include <cstdio>
#include <exception>
#include <functional>
#include <string>

#include "tests/harness.h"

namespace zmem {

// Runs `body` of the bench `name`. Returns the program's exit code: 1, with a line on stderr, if it
// throws, or if zmem cannot run here.
inline int RunBench(const char* name, const std::function<void()>& body) {
  try {
    std::string unsupported = WhyUnsupported();
    if (!unsupported.empty()) throw HarnessError(unsupported);
    body();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", name, error.what());
    return 1;
  }
  return 0;
}

}  // namespace zmem
