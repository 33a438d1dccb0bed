// How long ago each page of a chunk came or went, in epochs of its process, and how often it proved
// hot: what is known of a page's heat where the kernel shows no reads. A page that was wanted back
// soon after it went out is left alone twice as long the next time, up to eight times if it was at
// once; one that stayed out half as long.
// Thread-safe: one word a page, written by the fault thread when it comes back and by the reclaimer
// when it goes out. A value lost between the two is a page judged a little wrongly.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "libzmem/base/page.h"

namespace zmem {

// Counts 1..kLast and begins again; 0 stands for all that is older than can be told.
using Epoch = uint16_t;
inline constexpr Epoch kLastEpoch = 1023;

// From `then` to `now`; kLastEpoch if `then` is 0.
constexpr unsigned EpochsBetween(Epoch then, Epoch now) {
  if (then == 0) return kLastEpoch;
  return now >= then ? now - then : kLastEpoch - then + now;
}
constexpr Epoch NextEpoch(Epoch epoch) { return epoch == kLastEpoch ? 1 : epoch + 1; }

class PageAges {
 public:
  static constexpr unsigned kMaxBackoff = 7;

  struct Age {
    Epoch epoch = 0;       // in which the page came, or went
    unsigned backoff = 0;  // 0..kMaxBackoff: it looks 2^backoff times younger than it is
  };

  Age Get(size_t page) const {
    uint16_t word = words_[page].load(std::memory_order_relaxed);
    return {static_cast<Epoch>(word & kEpochMask), static_cast<unsigned>(word >> kEpochBits)};
  }
  // The page came or went without telling anything of its heat.
  void SetEpoch(size_t page, Epoch epoch) { Set(page, {epoch, Get(page).backoff}); }
  // The page came back because a thread wanted it. `gone`: its age when it went out. It is hot if
  // it was out for no longer than `residence` epochs, for which pages stay in as a rule.
  void OnWanted(size_t page, Age gone, Epoch now, unsigned residence) {
    unsigned out = EpochsBetween(gone.epoch, now);
    unsigned backoff = gone.backoff;
    if (out > residence) {
      backoff -= backoff > 0;
    } else {
      backoff += out == 0 ? 3 : out <= residence / 4 ? 2 : 1;
    }
    Set(page, {now, std::min(backoff, kMaxBackoff)});
  }

  // For a chunk that nobody else can see yet.
  void CopyFrom(const PageAges& other) {
    for (size_t page = 0; page < words_.size(); ++page) {
      words_[page].store(other.words_[page].load(std::memory_order_relaxed),
                         std::memory_order_relaxed);
    }
  }

 private:
  static constexpr unsigned kEpochBits = 10;
  static constexpr uint16_t kEpochMask = (1 << kEpochBits) - 1;

  void Set(size_t page, Age age) {
    words_[page].store(static_cast<uint16_t>(age.epoch | age.backoff << kEpochBits),
                       std::memory_order_relaxed);
  }

  std::array<std::atomic<uint16_t>, kPagesPerChunk> words_{};
};

}  // namespace zmem
