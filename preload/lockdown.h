// Takes everything from the agent's thread that it does not need: capabilities, and all system
// calls but those of its loop. Affects the calling thread only.
#pragma once

namespace zmem {

// Returns 0, or a negative errno if the kernel refused; the thread is then as it was.
int LockDownThread();

}  // namespace zmem
