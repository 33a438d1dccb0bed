// What the agent in a program and zmemd say to each other over a SOCK_SEQPACKET Unix socket: one
// message a packet, fixed layouts, at most kMaxMessageBytes. Plain data, usable from the preloaded
// library. The header's first three fields never change, so that any two versions can tell each
// other that they do not fit.
//
//   agent                                    zmemd
//     Hello ───────────────────────────────►   authenticates by SO_PEERCRED and SO_PEERPIDFD
//     ◄──────────────── Welcome + /dev/userfaultfd   (or Refuse: with the reason)
//     Userfaultfd + descriptor ────────────►   handshake, registration, token proof
//     ◄─────────────────────────────── Attached
//     ◄─────── Move / Discard / Populate       then, until either side ends:
//     Report ──────────────────────────────►   one Report for each of them
//     Request ─────────────────────────────►   at any time: what the program waits for
//     ◄──────────────────────────────── Granted   in its own time
//     Query ───────────────────────────────►   at any time: advice, or a question (zmem.h)
//     ◄───────────────────────────────── Answer   one for each, at once
//     ◄───────────────────────────────── Detach
//
// A forked child already has a userfaultfd, which zmemd holds: its Hello carries the token that its
// token page was filled with, zmemd answers Attached with the child's descriptor, and no
// Userfaultfd message follows.
#pragma once

#include <cstddef>
#include <cstdint>

#include "libzmem/base/page.h"

namespace zmem::wire {

inline constexpr uint32_t kMagic = 0x4d454d5a;  // "ZMEM" in memory
inline constexpr uint16_t kVersion = 5;
inline constexpr size_t kMaxMessageBytes = 4096;

enum class MessageType : uint16_t {
  kHello = 1,
  kWelcome = 2,
  kRefuse = 3,
  kUserfaultfd = 4,
  kAttached = 5,
  kMove = 6,
  kDiscard = 7,
  kReport = 8,
  kDetach = 9,
  kPopulate = 10,
  kRequest = 11,
  kGranted = 12,
  kQuery = 13,
  kAnswer = 14,
};

struct Header {
  uint32_t magic = kMagic;
  uint16_t version = kVersion;
  MessageType type;
  uint32_t message_bytes;
  uint32_t sequence = 0;  // a Report carries that of what it answers
};
static_assert(sizeof(Header) == 16);

// 16 random bytes that tie a descriptor, a process and its memory together. All zero: none.
struct Token {
  uint64_t words[2] = {};
  bool empty() const { return words[0] == 0 && words[1] == 0; }
  friend bool operator==(const Token&, const Token&) = default;
};

struct Hello {
  Header header{.type = MessageType::kHello, .message_bytes = sizeof(Hello)};
  Token token;              // a forked child's, else empty
  uint64_t resident_bytes;  // of the program, when it asked
  AddressRange agent;       // the agent's stack and buffers: never to be evicted
  AddressRange staging;     // kChunkBytes-aligned; slabs of one chunk each
  Address token_page;       // one page, wiped on fork
  Address kept;             // the program's KeptMemory, within `agent`
  // Zero if the daemon's own min_resident decides, else the program's (ZMEM_MIN_RESIDENT).
  uint64_t min_resident_bytes;
  // Of resident memory, as the program asks (ZMEM_LIMIT); zero if it does not.
  uint64_t limit_bytes;
};

struct Welcome {
  Header header{.type = MessageType::kWelcome, .message_bytes = sizeof(Welcome)};
};

enum class RefuseReason : uint32_t {
  kVersion = 1,     // the other side's version is in its header
  kTooSmall = 2,    // come back when resident_bytes has passed min_resident_bytes
  kNotAllowed = 3,  // the process may not be managed
  kFailed = 4,      // something went wrong on zmemd's side
  kStopping = 5,
  kUnknownToken = 6,  // of an earlier zmemd, which put everything back: wipe it and come again
};

struct Refuse {
  Header header{.type = MessageType::kRefuse, .message_bytes = sizeof(Refuse)};
  RefuseReason reason;
  uint32_t reserved = 0;
  uint64_t min_resident_bytes = 0;  // for kTooSmall
  char text[256] = {};              // one line, zero-terminated
};

struct Userfaultfd {
  Header header{.type = MessageType::kUserfaultfd, .message_bytes = sizeof(Userfaultfd)};
};

struct Attached {
  Header header{.type = MessageType::kAttached, .message_bytes = sizeof(Attached)};
};

// One bit a page of a chunk.
struct PageSet {
  uint64_t words[kPagesPerChunk / 64] = {};

  constexpr bool Has(size_t page) const { return (words[page / 64] >> (page % 64)) & 1; }
  constexpr void Add(size_t page) { words[page / 64] |= uint64_t{1} << (page % 64); }
  constexpr void AddRange(size_t first, size_t end) {
    for (size_t page = first; page < end; ++page) Add(page);
  }
  constexpr void Remove(size_t page) { words[page / 64] &= ~(uint64_t{1} << (page % 64)); }
  constexpr size_t count() const {
    size_t total = 0;
    for (uint64_t word : words) total += static_cast<size_t>(__builtin_popcountll(word));
    return total;
  }
  constexpr bool empty() const { return count() == 0; }
  // Of neighbouring pages.
  constexpr size_t runs() const {
    size_t total = 0;
    uint64_t before = 0;
    for (uint64_t word : words) {
      total += static_cast<size_t>(__builtin_popcountll(word & ~(word << 1 | before >> 63)));
      before = word;
    }
    return total;
  }
  constexpr PageSet And(const PageSet& other) const {
    PageSet both;
    for (size_t i = 0; i < kPagesPerChunk / 64; ++i) both.words[i] = words[i] & other.words[i];
    return both;
  }
  constexpr PageSet Or(const PageSet& other) const {
    PageSet either;
    for (size_t i = 0; i < kPagesPerChunk / 64; ++i) either.words[i] = words[i] | other.words[i];
    return either;
  }
  constexpr PageSet Without(const PageSet& other) const {
    PageSet rest;
    for (size_t i = 0; i < kPagesPerChunk / 64; ++i) rest.words[i] = words[i] & ~other.words[i];
    return rest;
  }
  // The first page at or after `from` whose membership is `member`; kPagesPerChunk if there is
  // none.
  constexpr size_t Next(size_t from, bool member) const {
    while (from < kPagesPerChunk && Has(from) != member) ++from;
    return from;
  }
};

// Chunks that one command is about at most. Where a few pages of each are taken, the way to the
// agent and back costs more than what it does.
inline constexpr size_t kMaxParts = 32;

// The pages of `pages` from source + i pages to target + i pages.
struct MovePart {
  Address source;
  Address target;
  PageSet pages;
};

// Move pages, with UFFDIO_MOVE, between the program's memory and slabs of the staging area: out in
// all parts, or in. Pages that refuse stay where they are.
struct Move {
  Header header{.type = MessageType::kMove, .message_bytes = sizeof(Move)};
  uint32_t parts = 0;
  // Of a move out: nothing is moved if the program's KeptMemory is of another by now.
  uint32_t kept_generation = 0;
  MovePart part[kMaxParts];
};

struct DiscardPart {
  Address slab;
  PageSet pages;
};

// Drop pages of slabs.
struct Discard {
  Header header{.type = MessageType::kDiscard, .message_bytes = sizeof(Discard)};
  uint32_t parts = 0;
  uint32_t reserved = 0;
  DiscardPart part[kMaxParts];
};

// Make the pages of `pages` of a chunk the program's own with a write fault (MADV_POPULATE_WRITE),
// after relatives that shared them have gone.
struct Populate {
  Header header{.type = MessageType::kPopulate, .message_bytes = sizeof(Populate)};
  Address chunk;
  PageSet pages;
};

struct Report {
  Header header{.type = MessageType::kReport, .message_bytes = sizeof(Report)};
  PageSet done[kMaxParts];  // pages moved, dropped or populated, of each part
  uint32_t busy = 0;        // EBUSY: pinned, or shared after a fork
  uint32_t invalid = 0;     // EINVAL: locked, read-only, not anonymous
  uint32_t absent = 0;      // ENOENT: a hole, or unmapped meanwhile
  uint32_t exists = 0;      // EEXIST: something is in the target's place
  uint32_t other = 0;
  int32_t last_errno = 0;  // of the last page counted in `other`
};

// What threads of the program can ask for through their agent.
enum class Wish : uint32_t {
  kSettle = 0,  // about to fork: no page may be left in the staging area, which a child has not
  kThaw = 1,    // about to dump core: every page back, and none taken out any more
  kLeave = 2,   // the agent must end: every page back, then Detach
};
inline constexpr size_t kWishes = 3;

struct Request {
  Header header{.type = MessageType::kRequest, .message_bytes = sizeof(Request)};
  Wish wish;
  uint32_t reserved = 0;
};

// Not sent for kLeave, which Detach answers.
struct Granted {
  Header header{.type = MessageType::kGranted, .message_bytes = sizeof(Granted)};
  Wish wish;
  uint32_t reserved = 0;
};

// Every page is back. The agent closes its userfaultfd, then the socket.
struct Detach {
  Header header{.type = MessageType::kDetach, .message_bytes = sizeof(Detach)};
  uint32_t for_good = 0;  // 1: end; 0: ask to be managed again when a zmemd listens
  uint32_t reserved = 0;
};

// What a program says or asks through libzmem/zmem.h.
enum class QueryKind : uint32_t {
  kNormal = 0,    // ends the others
  kCold = 1,      // may go out now
  kWillNeed = 2,  // back now
  kKeep = 3,      // never out
  kStatistics = 4,
};

// The agent passes on what it is given: one Answer with the same sequence follows.
struct Query {
  Header header{.type = MessageType::kQuery, .message_bytes = sizeof(Query)};
  QueryKind kind;
  uint32_t reserved = 0;
  AddressRange range;  // page-aligned; of kStatistics: empty
};

// Levels, but for the two totals; zmem.h says what each is.
struct Statistics {
  uint64_t resident_bytes = 0;
  uint64_t out_bytes = 0;
  uint64_t held_bytes = 0;
  uint64_t disk_bytes = 0;
  uint64_t faults_total = 0;
  uint64_t stall_ns = 0;
  uint64_t limit_bytes = 0;
  uint64_t stall_target_ppm = 0;
  uint64_t kept_bytes = 0;
};

struct Answer {
  Header header{.type = MessageType::kAnswer, .message_bytes = sizeof(Answer)};
  int32_t error = 0;  // an errno, or 0
  uint32_t reserved = 0;
  Statistics statistics;  // of kStatistics
};

static_assert(sizeof(Hello) <= kMaxMessageBytes && sizeof(Refuse) <= kMaxMessageBytes &&
              sizeof(Move) <= kMaxMessageBytes && sizeof(Discard) <= kMaxMessageBytes &&
              sizeof(Report) <= kMaxMessageBytes);

}  // namespace zmem::wire
