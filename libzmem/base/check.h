// Checks that stay on in optimised builds, for what only a bug of ours can break. What a peer, a
// disk or a user sends is handled, never checked this way.
#pragma once

#include <cstdio>
#include <cstdlib>

// Ends the process with file, line and condition unless `condition` holds. Nothing of a program's
// memory may be part of the condition's text.
#define ZMEM_CHECK(condition)                                                            \
  do {                                                                                   \
    if (!(condition)) [[unlikely]] {                                                     \
      std::fprintf(stderr, "%s:%d: check failed: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                      \
    }                                                                                    \
  } while (false)
