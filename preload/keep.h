// What no look at the program's threads is sure to find before the kernel needs it: the control
// block of a thread on a stack of the program's own, and a robust mutex in its memory, where thread
// or owner begins and ends within one move of pages (FACTS 18). libzmem.so wraps the calls of libc
// by which a program gets there, pthread_attr_setstack and pthread_mutex_init, and says that their
// memory must stay. Thread-safe; nothing here allocates.
#pragma once

#include "libzmem/wire/kept_memory.h"

namespace zmem {

// Has `range` stay from now on: when this returns, no move goes on that does not know of it.
void Keep(wire::KeptMemory& kept, AddressRange range);

// In a forked child, where no other thread is left in the middle of anything.
void ResetKept(wire::KeptMemory& kept);

// The agent's side: between the two, pages may be moved out if Begin returned true. That is false
// if more was added than `generation` counts.
bool BeginMoveOut(wire::KeptMemory& kept, uint32_t generation);
void EndMoveOut(wire::KeptMemory& kept);

}  // namespace zmem
