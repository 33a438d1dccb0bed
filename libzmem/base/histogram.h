// A histogram of durations for the fault path: fixed size, no lock, no allocation.
// Buckets are logarithmic with 16 linear steps per doubling, so a reported percentile is at most
// 6.25 % above the true one. One writer or several; readers see each bucket atomically.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstdint>

namespace zmem {

class LatencyHistogram {
 public:
  void Record(uint64_t ns) {
    buckets_[BucketOf(ns)].fetch_add(1, std::memory_order_relaxed);
    uint64_t seen = max_ns_.load(std::memory_order_relaxed);
    while (ns > seen && !max_ns_.compare_exchange_weak(seen, ns, std::memory_order_relaxed)) {
    }
  }

  // Adds everything `other` has counted.
  void Merge(const LatencyHistogram& other) {
    for (size_t i = 0; i < buckets_.size(); ++i) {
      buckets_[i].fetch_add(other.buckets_[i].load(std::memory_order_relaxed),
                            std::memory_order_relaxed);
    }
    uint64_t theirs = other.max_ns();
    if (theirs > max_ns()) max_ns_.store(theirs, std::memory_order_relaxed);
  }

  uint64_t count() const {
    uint64_t total = 0;
    for (const auto& bucket : buckets_) total += bucket.load(std::memory_order_relaxed);
    return total;
  }
  uint64_t max_ns() const { return max_ns_.load(std::memory_order_relaxed); }

  // The upper edge of the bucket that holds the `percent`-th percentile (0 < percent <= 100),
  // never more than the maximum; 0 when nothing was recorded.
  uint64_t Percentile(double percent) const {
    uint64_t total = count();
    if (total == 0) return 0;
    auto rank = static_cast<uint64_t>(static_cast<double>(total) * percent / 100.0 + 0.5);
    if (rank == 0) rank = 1;
    uint64_t seen = 0;
    for (size_t i = 0; i < buckets_.size(); ++i) {
      seen += buckets_[i].load(std::memory_order_relaxed);
      if (seen >= rank) {
        uint64_t edge = UpperEdge(i);
        return edge < max_ns() ? edge : max_ns();
      }
    }
    return max_ns();
  }

 private:
  static constexpr unsigned kStepBits = 4;  // 16 linear steps per doubling
  static constexpr size_t kBuckets = (64 - kStepBits + 1) << kStepBits;

  static size_t BucketOf(uint64_t ns) {
    if (ns < (1u << kStepBits)) return ns;
    unsigned shift = static_cast<unsigned>(std::bit_width(ns)) - 1 - kStepBits;
    return ((size_t{shift} + 1) << kStepBits) + ((ns >> shift) - (1u << kStepBits));
  }
  static uint64_t UpperEdge(size_t bucket) {
    if (bucket < (1u << kStepBits)) return bucket;
    unsigned shift = static_cast<unsigned>(bucket >> kStepBits) - 1;
    uint64_t step = (bucket & ((1u << kStepBits) - 1)) + (1u << kStepBits);
    return ((step + 1) << shift) - 1;
  }

  std::array<std::atomic<uint64_t>, kBuckets> buckets_{};
  std::atomic<uint64_t> max_ns_{0};
};

}  // namespace zmem
