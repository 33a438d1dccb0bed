#include "tests/guardian.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <utility>

#include "tests/error.h"

namespace zmem {
namespace {

bool any_failed = false;

}  // namespace

bool Guardian::AnyFailed() { return any_failed; }

Guardian::Guardian(std::string what, const std::function<bool()>& take_down)
    : what_(std::move(what)) {
  int ends[2];
  CheckErrno(pipe2(ends, O_CLOEXEC), "pipe2");
  UniqueFd watched(ends[0]);
  alive_.reset(ends[1]);
  pid_ = CheckErrno(fork(), "fork");
  if (pid_ != 0) return;
  setsid();
  // Everything else of the owner's too: other guardians' pipes are among it.
  if (dup2(watched.get(), STDIN_FILENO) < 0 || close_range(STDERR_FILENO + 1, ~0U, 0) != 0) {
    _exit(1);
  }
  char byte;
  while (read(STDIN_FILENO, &byte, 1) < 0) {
  }
  _exit(take_down() ? 0 : 1);
}

Guardian::~Guardian() {
  alive_.reset();
  int status = 0;
  if (waitpid(pid_, &status, 0) != pid_ || status != 0) {
    any_failed = true;
    std::fprintf(stderr, "could not be taken down: %s\n", what_.c_str());
  }
}

}  // namespace zmem
