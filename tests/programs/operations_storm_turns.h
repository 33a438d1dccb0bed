// What a world of the operations storm does next. All worlds take turns by the clock:
//   storm   anything, anywhere
//   calm    nothing that changes the layout, or little could be taken out: zmem leaves alone what
//           is changing, what is not readable and writable, and what a living child shares
//   hammer  one change to one slot, again and again, each time after it was rewritten and left
//           alone for long enough to be taken: so a change meets a taking that is under way
// Belongs to the world's thread.
#pragma once

#include <chrono>
#include <random>
#include <thread>
#include <utility>

#include "tests/programs/operations_storm_memory.h"

namespace zmem::storm {

struct Plan {
  Operation operation;
  uint32_t slot;
  Pages pages;
};

class Turns {
 public:
  explicit Turns(std::mt19937_64& random) : random_(random) {}

  // Pauses, if it is the time for it. Settles the memory when a storm has ended.
  Plan Next(const World& world, WorldMemory& memory) {
    Turn before = std::exchange(turn_, Now());
    if (turn_ != before && turn_ != Turn::kStorm) memory.SettleAll();
    if (turn_ == Turn::kHammer) {
      if (turn_ != before) ChooseTarget();
      return Hammer(world);
    }
    if (turn_ == Turn::kCalm && Below(8) == 0) Pause(4);
    Operation operation;
    do {
      operation = ChooseAny();
    } while (turn_ == Turn::kCalm && ChangesLayout(operation));
    auto slot = static_cast<uint32_t>(Below(kSlots));
    return {operation, slot, SomeOf(world.slots[slot])};
  }

 private:
  enum class Turn { kStorm, kCalm, kHammer };

  static Turn Now() {
    constexpr auto kTurn = std::chrono::milliseconds(500);
    constexpr Turn kOrder[] = {Turn::kStorm, Turn::kCalm, Turn::kHammer, Turn::kHammer};
    return kOrder[std::chrono::steady_clock::now().time_since_epoch() / kTurn % std::size(kOrder)];
  }

  static bool ChangesLayout(Operation operation) {
    return kOperations[static_cast<size_t>(operation)].changes_layout;
  }

  uint64_t Below(uint64_t bound) { return random_() % bound; }
  void Pause(uint64_t below_ms) {
    std::this_thread::sleep_for(std::chrono::microseconds(Below(below_ms * 1000)));
  }

  Operation ChooseAny() {
    static const unsigned total = [] {
      unsigned sum = 0;
      for (const OperationKind& kind : kOperations) sum += kind.weight;
      return sum;
    }();
    auto left = static_cast<unsigned>(Below(total));
    size_t index = 0;
    while (left >= kOperations[index].weight) left -= kOperations[index++].weight;
    return static_cast<Operation>(index);
  }

  Pages SomeOf(const Slot& slot) {
    auto first = static_cast<uint32_t>(Below(slot.pages));
    return {first, static_cast<uint32_t>(first + 1 + Below(slot.pages - first))};
  }

  // Forks as often as any other change. Some look on at what the others hammer at.
  void ChooseTarget() {
    do {
      target_ = static_cast<Operation>(Below(std::size(kOperations)));
    } while (!ChangesLayout(target_) || kOperations[static_cast<size_t>(target_)].weight == 0);
    looks_on_ = Below(3) == 0;
    target_slot_ = static_cast<uint32_t>(Below(kSlots));
  }

  // Write everything, pause, strike, verify everything.
  Plan Hammer(const World& world) {
    const Slot& slot = world.slots[target_slot_];
    Pages all{0, slot.pages};
    if (looks_on_) {
      Pause(1);
      return {Operation::kPeek, target_slot_, all};
    }
    switch (blow_++ % 3) {
      case 0:
        return {Operation::kWrite, target_slot_, all};
      case 1:
        // Up to a few of zmemd's scans.
        Pause(40);
        return {target_, target_slot_, Below(2) == 0 ? all : SomeOf(slot)};
      default:
        return {Operation::kVerify, target_slot_, all};
    }
  }

  std::mt19937_64& random_;
  Turn turn_ = Turn::kStorm;
  Operation target_ = Operation::kNone;
  uint32_t target_slot_ = 0;
  bool looks_on_ = false;
  unsigned blow_ = 0;
};

}  // namespace zmem::storm
