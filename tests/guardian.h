// Takes down what a bench or test has set up on the machine (swap, cgroups, files), in whatever way
// it ends: a process of its own waits for that, out of reach of the terminal's signals. Not
// thread-safe; to be made before any thread is.
#pragma once

#include <sys/types.h>

#include <functional>
#include <string>

#include "libzmem/base/sys.h"

namespace zmem {

class Guardian {
 public:
  // `take_down` runs in the guardian's process and returns whether it succeeded. `what` names, for
  // the message if it does not, what is left and how to look at it. Throws HarnessError.
  Guardian(std::string what, const std::function<bool()>& take_down);
  // Has it taken down, and waits until it is.
  ~Guardian();
  Guardian(const Guardian&) = delete;
  Guardian& operator=(const Guardian&) = delete;

  // Whether anything of this process could not be taken down so far.
  static bool AnyFailed();

 private:
  const std::string what_;
  pid_t pid_;
  UniqueFd alive_;  // its closing tells the guardian
};

}  // namespace zmem
