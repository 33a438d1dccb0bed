// This process as a program whose faults are answered: its own memory is managed, and a
// FaultHandler runs in a thread beside those that touch.
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <atomic>
#include <map>
#include <memory>
#include <optional>

#include "libzmem/fault/fault_handler.h"
#include "libzmem/testing/managed.h"

namespace zmem {

// Exit codes of forked children.
inline constexpr int kAsExpected = 0;
inline constexpr int kWrongBytes = 1;
inline constexpr int kGotSigbus = 77;

inline int64_t Count(const std::atomic<uint64_t>& counter) {
  return static_cast<int64_t>(counter.load());
}

class FaultHandlerTest : public testing::Test {
 protected:
  static constexpr size_t kChunks = 4;

  FaultHandlerTest() : memory_(kChunks), process_(ProcessOfThisOne(store_)) {
    RegisterRange(*process_, memory_.range());
  }

  // Makes `bytes` what zmem holds for the page, and remembers it.
  PageEntry Store(size_t page, const PageBytes& bytes) {
    expected_[page] = bytes;
    return StorePage(store_, *process_, memory_.address(page), bytes);
  }
  // Compressible, same-filled and otherwise special pages by turns.
  void StoreVaried(size_t first, size_t count) {
    for (size_t page = first; page < first + count; ++page) {
      switch (page % 4) {
        case 0:
          Store(page, FilledPage(page));
          break;
        case 1:
          Store(page, FilledPage(0x3ff1000000000001 + page));  // a word for the pool
          break;
        default:
          Store(page, CompressiblePage(page));
      }
    }
  }
  // As mremap to a fixed place.
  void* Move(size_t first, size_t count, size_t new_count, std::byte* target) {
    memory_.Forget(first, count);
    return mremap(memory_.data(first), count * kPageBytes, new_count * kPageBytes,
                  MREMAP_MAYMOVE | MREMAP_FIXED, target);
  }
  void Serve() { faults_.emplace(process_, clock_); }
  // Touches every page that was stored.
  void ExpectAllHeld() {
    for (const auto& [page, bytes] : expected_) {
      EXPECT_TRUE(memory_.Holds(page, bytes)) << "page " << page;
    }
  }
  void ExpectNothingStored() {
    EXPECT_EQ(store_.objects(), 0u);
    EXPECT_EQ(Count(process_->counters.stored_pages), 0);
    EXPECT_EQ(Count(process_->counters.same_filled_pages), 0);
    EXPECT_EQ(Count(process_->counters.compressed_bytes), 0);
    EXPECT_EQ(Count(process_->counters.held_bytes), 0);
  }

  MonotonicClock clock_;
  Mapping memory_;
  TestStore store_;
  std::shared_ptr<Process> process_;
  std::optional<FaultThread> faults_;
  std::map<size_t, PageBytes> expected_;
};

// Has calls fail as `injector` says, as long as it lives.
class Injected {
 public:
  explicit Injected(sys::FailureInjector& injector) { sys::SetFailureInjector(&injector); }
  ~Injected() { sys::SetFailureInjector(nullptr); }
};

}  // namespace zmem
