// Takes pages out of the program into the staging area, and back: the only steps that need the
// agent, and the only ones under the gate besides the fault thread's.
// Belongs to the reclaimer's thread.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libzmem/base/clock.h"
#include "libzmem/reclaim/agent_link.h"
#include "libzmem/store/process.h"
#include "libzmem/wire/messages.h"

namespace zmem {

class Isolator {
 public:
  Isolator(Process& process, AgentLink& agent, const Clock& clock)
      : process_(process), agent_(agent), clock_(clock) {}

  // Lets the faults of `part`, which lies in one chunk, come to us, and with it those of all of
  // `mapping`, which it lies in: registering a part would split the mapping, and the program's own
  // mremap of the whole would fail. False if the kernel refuses (somebody else's userfaultfd,
  // unmapped meanwhile), or the program is changing its layout.
  // The caller reads the address map again before it isolates anything of it: only what was
  // registered before that is known to be still the mapping that was judged.
  bool Register(AddressRange part, AddressRange mapping);

  // Lets the faults of `mapping` come to us although nobody has judged it, so that they can be held
  // up. Nothing of it is taken until Register was called for it.
  void RegisterUnjudged(AddressRange mapping);

  // The reverse for all of `mapping`, if nothing is known of its pages: its first touches are the
  // kernel's again, and its layout may change without an event. False if it stays registered, as it
  // does where it is no mapping of its own any more.
  bool Unregister(AddressRange mapping);
  // Takes chunks out of the table of which nothing is registered and nothing is known.
  void ForgetUnused();

  // What is to go out of one chunk, and what of it went.
  struct Order {
    uint64_t chunk_number = 0;
    wire::PageSet pages;
    size_t slab = 0;      // free, and no other order's
    wire::PageSet moved;  // of `pages`, by Isolate
  };
  // Moves those pages of each order that are registered, the program's own, not about to be dropped
  // and not kept (store/advice.h) from the chunk to the slab, all in one command. Their entries are
  // then kStaged. Pages that the kernel does not move (pinned, shared after a fork, locked) are
  // left alone, and so are all if the program has said since `kept_generation` that more must stay
  // (wire/kept_memory.h).
  //   orders: 1..wire::kMaxParts, each of another chunk.
  // Errors, of this and the next two: Unavailable when the agent is gone; DeadlineExceeded when it
  // does not answer. The entries then say where the pages are all the same.
  absl::Status Isolate(std::span<Order> orders, uint32_t kept_generation);

  // The reverse, for those of `pages` that are still staged. Their entries are then kResident with
  // `flags`. Returns those moved.
  absl::StatusOr<wire::PageSet> Return(uint64_t chunk_number, wire::PageSet pages, size_t slab,
                                       uint64_t flags);

  // Those of `pages` that are in memory and mapped by nobody else.
  wire::PageSet Exclusive(uint64_t chunk_number, wire::PageSet pages) const;

  // Makes those of `pages` the program's own again that a fork had shared, if no relative shares
  // them any more: the kernel does not move them otherwise (FACTS 15). Returns them.
  absl::StatusOr<wire::PageSet> Unshare(uint64_t chunk_number, wire::PageSet pages);

  // Slots of a slab that no entry needs any longer.
  struct Unneeded {
    size_t slab = 0;
    wire::PageSet slots;
  };
  // Drops what they hold. At most wire::kMaxParts.
  absl::Status Discard(std::span<const Unneeded> unneeded);

 private:
  // Nothing if the program is changing its layout.
  std::optional<bool> TryRegister(AddressRange part, AddressRange mapping);
  // Whether none of its pages is out, about to be dropped, kept, or known to be incompressible.
  bool NothingKnown(AddressRange range);
  // Whether chunks that `mapping` reaches into have pages that we registered.
  bool IsRegistered(AddressRange mapping);
  // One command to move pages out, under the gate. `foreign` becomes true if slots that should be
  // empty are not.
  absl::Status MoveOut(std::span<Order> orders, uint32_t kept_generation, bool* foreign);
  // Sets the entries of an order's `claimed` pages by where they are now.
  void SettleClaimed(Order& order, const wire::PageSet& claimed);
  // The slots of the slab that no staged page of the chunk is in.
  Unneeded UnknownSlots(const Order& order);
  // Removes what must not be taken from `pages` and marks the rest kIsolating.
  wire::PageSet Claim(Chunk& chunk, Address chunk_start, wire::PageSet pages, size_t slab);
  // Has a chunk that has just become known keep what the program was told it may drop.
  void Quarantine(Chunk& chunk, uint64_t chunk_number);
  void ReleaseQuarantine(Chunk& chunk, Address chunk_start);
  // After the agent vanished or fell silent in the middle: tells by the slots what had been moved.
  wire::PageSet FindMoved(wire::PageSet pages, size_t slab);
  AddressRange SlabRange(size_t slab) const;

  Process& process_;
  AgentLink& agent_;
  const Clock& clock_;
  // Slabs taken from the userfaultfd so that an agent that fell silent cannot move pages there.
  std::array<bool, Process::kMaxSlabs> cut_off_{};
};

}  // namespace zmem
