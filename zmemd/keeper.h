// A small process beside zmemd that shares its descriptor table, and so holds every userfaultfd
// that zmemd holds, from the moment it exists. If zmemd is killed, none of them is closed, and no
// program reads zeros where its pages were (FACTS 1).
//
// Programs with an agent hold a copy themselves and end themselves after a while. Forked children
// without one have nobody but the keeper: when they have waited for long enough, the keeper poisons
// the page they wait for, so that they are told by SIGBUS instead of hanging.
// The keeper ends when zmemd has ended and no program is left whose descriptor it holds.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"

namespace zmem {

class Keeper {
 public:
  // Starts the keeper. Call while the process has one thread: the keeper begins as its copy.
  //   timeout_s: how long children without an agent wait after zmemd was killed.
  static absl::StatusOr<std::unique_ptr<Keeper>> Start(uint32_t timeout_s);
  // Ends the keeper: for a zmemd that has put everything back.
  ~Keeper();

  // Whether the program of this userfaultfd has an agent, which watches over it itself. Take it
  // back before the descriptor is closed. Thread-safe.
  void SetHasAgent(int uffd, bool has_agent);

 private:
  // Descriptors that can be marked; those beyond count as without an agent.
  static constexpr size_t kMaxDescriptors = 1 << 20;
  using Board = std::atomic<uint8_t>[kMaxDescriptors];

  Keeper(pid_t pid, Board* has_agent) : pid_(pid), has_agent_(has_agent) {}

  const pid_t pid_;
  Board* const has_agent_;  // shared with the keeper
};

}  // namespace zmem
