// The agent: one hidden thread in the managed program, the only place from which pages can be moved
// (UFFDIO_MOVE) and dropped. It waits for zmemd's commands and carries them out.
// It lives in a mapping of its own, has its own descriptor table from its first descriptor on,
// blocks all signals, and calls nothing of libc: see raw_syscall.h. It must never allocate in the
// program's heap, never wait for a lock of the program's, and never let go of its userfaultfd while
// a page may be out: the last close would turn evicted pages into zeros (FACTS 1).
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "libzmem/wire/kept_memory.h"
#include "libzmem/wire/messages.h"
#include "preload/bell.h"
#include "preload/desk.h"

namespace zmem {

struct AgentOptions {
  char socket_path[108];  // sun_path's size, zero-terminated
  bool verbose = false;   // say on stderr why the program is not managed
  bool required = false;  // end the program if it cannot be managed
  uint64_t min_resident_bytes = 0;
  bool min_resident_given = false;  // by ZMEM_MIN_RESIDENT: then it also overrides zmemd's
  uint64_t limit_bytes = 0;         // of resident memory (ZMEM_LIMIT); 0: none
  uint32_t daemon_timeout_s = 30;
};

inline constexpr uint64_t kDefaultMinResidentBytes = uint64_t{16} << 20;

// What a program and all that it has forked share, in memory that fork does not copy. Most children
// of shells and builds become another program at once, and a thread that is started for nothing
// costs more than all else that zmem adds to a fork. So children get an agent while they live long
// enough for it to be of use; of others only every kSample-th does.
struct Family {
  static constexpr uint32_t kSample = 16;
  std::atomic<uint32_t> forks{0};
  std::atomic<uint32_t> credit{kSample};  // children that get an agent without being asked more
};

// At the start of the agent's mapping; its stack is the rest.
struct AgentState {
  AgentOptions options;
  AddressRange mapping;
  Bell bell;
  Desk desk;
  wire::KeptMemory kept;
  Family* family;
  bool is_child = false;
  // Wiped on fork, so that a child reads either zeros (nobody manages it) or what zmemd puts there.
  wire::Token* token_page;
};

inline constexpr size_t kAgentMappingBytes = 64 * 1024;

// The thread's body; ends the thread, never returns. `state` is in its own mapping.
[[noreturn]] void RunAgent(AgentState* state);

// Starts a thread that runs RunAgent on the stack in `state`'s mapping, unless there is one.
// Returns 0 or a negative errno. Thread-safe and async-signal-safe.
int StartAgentThread(AgentState* state);

}  // namespace zmem
