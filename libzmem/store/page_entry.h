// What zmem knows of one page, in one atomic 64-bit word: who owns its bytes now and where they
// are. The word is consulted only when the page is missing in the program; a page that is present
// there wins over whatever its entry says.
// Plain values; the atomics are in page_table.h.
//
//   bits 0-3   state (PageState)
//   bit  4     restoring: the fault thread is putting the page back; nobody else may change it
//   bit  5     quarantined: the program is dropping the page, which may be present with old bytes
//   bit  6     shared: a forked relative's entry may name the same pool object
//   bit  7     incompressible: left alone by the cold scan until it is touched
//   bits 8-63  payload of the state
#pragma once

#include <cstdint>
#include <optional>

#include "libzmem/backing/backing_file.h"
#include "libzmem/base/page.h"
#include "libzmem/codec/compressor.h"
#include "libzmem/pool/zpool.h"

namespace zmem {

enum class PageState : uint8_t {
  kResident = 0,    // the program owns it, or it was never touched
  kIsolating = 1,   // the agent is moving it, out or back in; payload: staging slot
  kStaged = 2,      // the only copy is in a staging slot, uncompressed; payload: staging slot
  kSameFilled = 3,  // one word fills it; payload: the word, packed
  kInPool = 4,      // compressed in the pool; payload: handle, size, codec
  kLost = 5,        // nobody has it: a forked child's, whose parent ended with it in a slot
  kOnDisk = 6,      // in the backing file; payload: handle, size, codec
};
inline constexpr size_t kPageStates = 7;

// The words that fit a same-filled entry: repeated 32-bit values, and what sign-extends from 54
// bits (small numbers, pointers). Others are kept in the pool as 8 bytes.
constexpr std::optional<uint64_t> PackWord(uint64_t word) {
  constexpr unsigned kBits = 54;
  uint32_t low = static_cast<uint32_t>(word);
  if (word >> 32 == low) return (uint64_t{low} << 1) | 1;
  int64_t extended = static_cast<int64_t>(word << (64 - kBits)) >> (64 - kBits);
  if (static_cast<uint64_t>(extended) != word) return std::nullopt;
  return (word << (64 - kBits)) >> (64 - kBits) << 1;
}
constexpr uint64_t UnpackWord(uint64_t packed) {
  constexpr unsigned kBits = 54;
  if (packed & 1) {
    uint64_t low = packed >> 1;
    return low << 32 | low;
  }
  return static_cast<uint64_t>(static_cast<int64_t>(packed << (63 - kBits)) >> (64 - kBits));
}

class PageEntry {
 public:
  static constexpr uint64_t kRestoring = 1 << 4;
  static constexpr uint64_t kQuarantined = 1 << 5;
  static constexpr uint64_t kShared = 1 << 6;
  static constexpr uint64_t kIncompressible = 1 << 7;

  constexpr PageEntry() = default;  // kResident
  constexpr explicit PageEntry(uint64_t bits) : bits_(bits) {}

  static constexpr PageEntry Isolating(uint32_t slot) { return Make(PageState::kIsolating, slot); }
  static constexpr PageEntry Staged(uint32_t slot) { return Make(PageState::kStaged, slot); }
  static constexpr PageEntry SameFilled(uint64_t packed_word) {
    return Make(PageState::kSameFilled, packed_word);
  }
  static constexpr PageEntry Lost() { return Make(PageState::kLost, 0); }
  // object_bytes: 1..kPageBytes.
  static constexpr PageEntry InPool(ZHandle handle, size_t object_bytes, CodecId codec) {
    return Make(PageState::kInPool, handle.granule | uint64_t{object_bytes - 1} << kZHandleBits |
                                        uint64_t{static_cast<uint8_t>(codec)} << 48);
  }

  // object: of 1..kPageBytes bytes.
  static constexpr PageEntry OnDisk(DiskObject object, CodecId codec) {
    return Make(PageState::kOnDisk, object.handle.granule |
                                        uint64_t{object.bytes - 1} << kDiskHandleBits |
                                        uint64_t{static_cast<uint8_t>(codec)} << kDiskCodecShift);
  }

  constexpr uint64_t bits() const { return bits_; }
  constexpr PageState state() const { return static_cast<PageState>(bits_ & 15); }
  constexpr bool Has(uint64_t flag) const { return (bits_ & flag) != 0; }
  constexpr PageEntry With(uint64_t flag) const { return PageEntry(bits_ | flag); }
  constexpr PageEntry Without(uint64_t flag) const { return PageEntry(bits_ & ~flag); }

  // Whether zmem holds the page's bytes in a form that stays while the program sleeps.
  constexpr bool stored() const { return state() == PageState::kSameFilled || has_object(); }
  // Whether something is kept of it that is to be given back.
  constexpr bool has_object() const {
    return state() == PageState::kInPool || state() == PageState::kOnDisk;
  }

  // Of kIsolating and kStaged: index of the page in the staging area.
  constexpr uint32_t slot() const { return static_cast<uint32_t>(payload()); }
  // Of kSameFilled.
  constexpr uint64_t word() const { return UnpackWord(payload()); }
  // Of kInPool.
  constexpr ZHandle handle() const {
    return ZHandle{payload() & ((uint64_t{1} << kZHandleBits) - 1)};
  }
  constexpr size_t object_bytes() const { return ((payload() >> kZHandleBits) & 0xfff) + 1; }
  // Of kOnDisk.
  constexpr DiskObject disk_object() const {
    constexpr uint64_t kHandle = (uint64_t{1} << kDiskHandleBits) - 1;
    return {{payload() & kHandle}, ((payload() >> kDiskHandleBits) & 0xfff) + 1};
  }
  // Of both.
  constexpr CodecId codec() const {
    return state() == PageState::kOnDisk ? static_cast<CodecId>(payload() >> kDiskCodecShift)
                                         : static_cast<CodecId>((payload() >> 48) & 0x7f);
  }

  friend constexpr bool operator==(PageEntry, PageEntry) = default;

 private:
  static constexpr unsigned kPayloadShift = 8;
  static constexpr unsigned kDiskCodecShift = kDiskHandleBits + 12;
  static constexpr PageEntry Make(PageState state, uint64_t payload) {
    return PageEntry(static_cast<uint64_t>(state) | payload << kPayloadShift);
  }
  constexpr uint64_t payload() const { return bits_ >> kPayloadShift; }

  uint64_t bits_ = 0;
};

static_assert(UnpackWord(*PackWord(0)) == 0);
static_assert(UnpackWord(*PackWord(0x0101010101010101)) == 0x0101010101010101);
static_assert(UnpackWord(*PackWord(~uint64_t{0})) == ~uint64_t{0});
static_assert(UnpackWord(*PackWord(0x00007f1234567890)) == 0x00007f1234567890);
static_assert(UnpackWord(*PackWord(static_cast<uint64_t>(-12345))) ==
              static_cast<uint64_t>(-12345));
static_assert(!PackWord(0x3ff1000000000001));
static_assert(kZHandleBits + 12 == 48, "handle and size lie below the codec");
static_assert(kDiskHandleBits + 12 == 52 && kCodecIds <= 16,
              "handle, size and codec fit a payload");

// Whether an entry may go from `from` to `to`, flags aside. The reclaimer isolates, stages,
// publishes; the fault thread restores and drops.
constexpr bool TransitionAllowed(PageState from, PageState to) {
  constexpr bool kAllowed[kPageStates][kPageStates] = {
      // to: resident isolating staged same-filled in-pool lost on-disk
      {true, true, false, true, true, true, true},      // from resident: isolated; mremap's
      {true, false, true, false, false, false, false},  // from isolating: refused, returned; moved
      {true, true, true, true, true, true, true},  // from staged: restored, returned, published
      {true, false, false, true, false, false, false},  // from same-filled: restored or dropped
      {true, false, false, false, true, false, true},   // from in-pool: the same; moved, shared
      {true, false, false, false, false, true, false},  // from lost: told to the program, dropped
      {true, false, false, false, false, false, true},  // from on-disk: as from in-pool
  };
  return kAllowed[static_cast<size_t>(from)][static_cast<size_t>(to)];
}

}  // namespace zmem
