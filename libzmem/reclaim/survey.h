// What a pass over a process's memory finds: the pages that may be taken, and the mappings they lie
// in. And whose faults come to us: mappings are registered when something of them is to be taken,
// and given up when they prove hot.
// Belongs to the reclaimer's thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "libzmem/reclaim/isolator.h"
#include "libzmem/store/process.h"
#include "libzmem/uffd/address_map.h"
#include "libzmem/wire/messages.h"

namespace zmem {

// Pages of one chunk.
struct Candidate {
  uint64_t chunk_number = 0;
  wire::PageSet pages;
};

uint64_t CountPages(std::span<const Candidate> candidates);

struct Survey {
  std::vector<Candidate> chunks;  // with eligible present pages, ascending
  AddressMap map;
};

class Surveyor {
 public:
  Surveyor(Process& process, Isolator& isolator) : process_(process), isolator_(isolator) {}

  // Errors, of all: Unavailable when the program is gone.
  absl::StatusOr<Survey> Look();
  // The same, as a rule by the layout alone, which costs half: what has been locked, or is not
  // copied by a fork as it is, since the last look that could tell is found too. To see what a
  // program uses; nothing is taken that Judge has not left.
  absl::StatusOr<Survey> LookByLayout();
  // Leaves in `candidates` the pages that may be taken. Returns the map by which it was judged.
  absl::StatusOr<AddressMap> Judge(std::span<Candidate> candidates);
  // As Look, of a process of which everything eligible is registered as far as it can be. Only
  // what was registered before a map was read is known to be the mapping that was judged, so that
  // kAll looks again if something was not. kMost has only what was, if that is half of the pages.
  enum class Reach { kAll, kMost };
  absl::StatusOr<Survey> LookRegistered(Reach reach);

  bool IsRegistered(const Candidate& candidate) {
    return Unregistered(std::span(&candidate, 1)).empty();
  }
  // Lets the faults of the chunk's eligible parts come to us.
  void Register(uint64_t chunk_number, const AddressMap& map);
  // The same for every mapping that is new since the last call and looks as if it may be managed,
  // so that its first touches can be held up: by the layout alone, which walks no page tables. What
  // is locked, or not copied by a fork as it is, the layout does not tell; so nothing of these is
  // taken until Register was called for it.
  void RegisterNew();
  // The same for the mappings of ranges that the program keeps, so that their end is told. What
  // lies in none that may be managed is forgotten.
  absl::Status Watch(const std::vector<AddressRange>& kept);
  // Gives up the mappings of which nothing is out and nothing of `cold`, ascending, is about to go.
  void UnregisterHot(const AddressMap& map, const std::vector<Candidate>& cold);

 private:
  // Registered mappings a process has at most: each is one that the kernel cannot merge with its
  // neighbours, and vm.max_map_count is 65,530 as a rule.
  static constexpr size_t kMaxRegisteredMappings = 16'384;

  // So many looks by the layout follow each other, that what is eligible again is found.
  static constexpr int kLayoutLooks = 8;

  // By smaps.
  absl::StatusOr<AddressMap> ReadMap();
  absl::StatusOr<Survey> LookAt(absl::StatusOr<AddressMap> map);
  // The chunks of those that are not registered with all their pages.
  std::vector<uint64_t> Unregistered(std::span<const Candidate> candidates);
  // What we have put into the program.
  std::vector<AddressRange> OwnRanges() const;
  // That, and what the program keeps.
  std::vector<AddressRange> Excluded() const;

  // By start, then by end.
  static bool IsBelow(AddressRange a, AddressRange b);

  Process& process_;
  Isolator& isolator_;
  std::vector<AddressRange> unjudged_;   // registered by RegisterNew, ascending
  std::vector<AddressRange> forbidden_;  // by the last map that could tell
  int layout_looks_left_ = 0;            // until such a map is to be read
};

}  // namespace zmem
