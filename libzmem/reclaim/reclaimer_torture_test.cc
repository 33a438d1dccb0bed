// The reclaim flow while calls fail, and while the program does whatever programs do.
#include <sys/mman.h>

#include <array>
#include <functional>
#include <map>
#include <random>
#include <sstream>
#include <thread>

#include "libzmem/base/kernel_abi.h"
#include "libzmem/reclaim/reclaimer_fixture.h"

namespace zmem {
namespace {

// Makes one call fail: the one with the number that it is armed for. Threads of the flow are inside
// it at any time, so it is armed anew instead of being made anew.
class FailOnce : public sys::FailureInjector {
 public:
  explicit FailOnce(int error) : error_(error) { sys::SetFailureInjector(this); }
  ~FailOnce() override { sys::SetFailureInjector(nullptr); }
  void Arm(uint64_t number) { calls_left_ = static_cast<int64_t>(number); }
  int ErrnoFor(sys::Call, uint64_t detail) override {
    // The one call that the kernel has no way to fail, given a range that makes sense; who sleeps
    // after it would sleep for ever.
    if (detail == UFFDIO_WAKE) return 0;
    return calls_left_-- == 0 ? error_ : 0;
  }
  bool failed() const { return calls_left_ < 0; }

 private:
  const int error_;
  std::atomic<int64_t> calls_left_{-1};
};

// Whichever system call fails, a page stays or comes back.
class BadLuck : public ReclaimerTest, public testing::WithParamInterface<int> {
 protected:
  ~BadLuck() override { faults_.reset(); }  // which may be inside fail_
  // Everything that happens to pages in their lives.
  void Live(uint64_t version) {
    for (size_t page = 0; page < 40; ++page) {
      Write(page, page % 3 == 0 ? FilledPage(version) : CompressiblePage(version * 100 + page));
    }
    std::atomic<bool> cancel{false};
    reclaimer_->EvictAll(cancel, nullptr).IgnoreError();
    for (size_t page = 0; page < 40; page += 7) ExpectHeld(page);
    PassWhatever(2 * kSecond);
    ASSERT_EQ(madvise(memory_->data(20), 4 * kPageBytes, MADV_DONTNEED), 0);
    for (size_t page = 20; page < 24; ++page) expected_[page] = FilledPage(0);
    reclaimer_->EvictAll(cancel, nullptr).IgnoreError();
  }
  void PassWhatever(int64_t ns) {
    clock_.Advance(ns);
    reclaimer_->Tick().IgnoreError();  // an error ends the session, which is then drained
  }
  void ExpectHeld(size_t page) {
    EXPECT_TRUE(memory_->Holds(page, expected_[page])) << "page " << page;
  }

  FailOnce fail_{GetParam()};
};

TEST_P(BadLuck, LosesNothing) {
  constexpr uint64_t kMostCalls = 2000;
  uint64_t number = 0;
  for (bool failed = true; failed && number < kMostCalls && !HasFailure(); ++number) {
    fail_.Arm(number);
    Live(number);
    failed = fail_.failed();
  }
  EXPECT_GT(number, 50u);  // there are calls to fail
  EXPECT_LT(number, kMostCalls);
  ExpectAllHeld();
  EXPECT_FALSE(faults_->gone());
  EXPECT_EQ(process_->counters.poisoned_pages, 0u);
}

INSTANTIATE_TEST_SUITE_P(, BadLuck, testing::Values(ENOMEM, EIO, EAGAIN, EINTR),
                         [](const auto& info) { return std::to_string(info.param); });

// A program that does whatever programs do, against a reclaimer that takes everything out all the
// time: what it reads must always be what it wrote.
// The parameter is clean_pages_percent.
class Torture : public ReclaimerTest, public testing::WithParamInterface<unsigned> {
 protected:
  Torture() : ReclaimerTest({.clean_pages_percent = GetParam()}) {}

  // One step of the program on its own part of the memory.
  void Step(std::mt19937_64& random, size_t first, size_t count,
            std::map<size_t, PageBytes>& model) {
    size_t page = first + random() % count;
    size_t pages = std::min<size_t>(1 + random() % 24, first + count - page);
    uint64_t choice = random() % 16;
    for (size_t i = page; i < page + pages; ++i) Note(i, choice);
    switch (choice) {
      case 0:
        ASSERT_EQ(madvise(memory_->data(page), pages * kPageBytes, MADV_DONTNEED), 0);
        for (size_t i = page; i < page + pages; ++i) model[i] = FilledPage(0);
        return;
      case 1:
        MapAfresh(page, pages, model);
        return;
      case 2:
      case 3:
      case 4:
      case 5:
        for (size_t i = page; i < page + pages; ++i) {
          model[i] = random() % 4 == 0 ? FilledPage(random() % 3) : CompressiblePage(random());
          memory_->Write(i, model[i]);
        }
        return;
      case 6: {
        size_t target = first + random() % (count - pages);
        for (size_t i = target; i < target + pages; ++i) Note(i, 16);
        void* moved =
            mremap(memory_->data(page), pages * kPageBytes, pages * kPageBytes,
                   MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, memory_->data(target));
        if (moved != memory_->data(target)) {
          // They overlap, or the source is several mappings: then the kernel may have got half-way.
          for (size_t place : {page, target}) MapAfresh(place, pages, model);
          return;
        }
        for (size_t i = 0; i < pages; ++i) {
          model[target + i] = model[page + i];
          model[page + i] = FilledPage(0);
        }
        return;
      }
      case 7:
        ASSERT_EQ(mprotect(memory_->data(page), pages * kPageBytes, PROT_READ), 0);
        for (size_t i = page; i < page + pages; ++i) {
          ASSERT_TRUE(memory_->Holds(i, model[i])) << Describe(i);
        }
        ASSERT_EQ(mprotect(memory_->data(page), pages * kPageBytes, PROT_READ | PROT_WRITE), 0);
        return;
      case 8:
        if (random() % 8 == 0) {
          ForkAndCheck(first, count, model);
          return;
        }
        [[fallthrough]];
      default:
        for (size_t i = page; i < page + pages; ++i) {
          ASSERT_TRUE(memory_->Holds(i, model[i])) << Describe(i);
        }
    }
  }

  // What was done to each page, newest last: a letter for each choice of Step.
  void Note(size_t page, uint64_t choice) {
    std::string& history = history_[page];
    history.push_back(static_cast<char>('a' + choice));
    if (history.size() > 12) history.erase(0, 1);
  }
  std::string Describe(size_t page) {
    const auto* words = reinterpret_cast<const uint64_t*>(memory_->data(page));
    std::ostringstream text;
    text << "page " << page << " begins with " << std::hex << words[0] << " " << words[1]
         << ", lately " << history_[page] << ", entry " << entry(page).bits();
    AddressMap map = OrDie(AddressMap::Read(getpid(), {}));
    bool registered =
        std::any_of(map.registered().begin(), map.registered().end(),
                    [&](AddressRange range) { return range.Contains(memory_->address(page)); });
    wire::PageSet known = process_->table.Registered(ChunkNumber(memory_->address(page)));
    text << (registered ? ", registered" : ", not registered")
         << (known.Has(page % kPagesPerChunk) ? ", known to be" : "");
    return text.str();
  }
  std::array<std::string, kChunks * kPagesPerChunk> history_;

  void MapAfresh(size_t page, size_t pages, std::map<size_t, PageBytes>& model) {
    void* fresh = mmap(memory_->data(page), pages * kPageBytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    ASSERT_EQ(fresh, memory_->data(page));
    for (size_t i = page; i < page + pages; ++i) model[i] = FilledPage(0);
  }

  void ForkAndCheck(size_t first, size_t count, const std::map<size_t, PageBytes>& model) {
    pid_t child = ForkChild([&] {
      for (size_t i = first; i < first + count; i += 7) {
        if (!memory_->Holds(i, model.at(i))) return 1;
      }
      return 0;
    });
    ASSERT_EQ(Await(child), 0) << "a child read something else";
  }
};

TEST_P(Torture, WhatAProgramReadsIsWhatItWrote) {
  constexpr int kSteps = 3000;
  // What sanitizers make slow ends earlier, but not before a page had to be brought back.
  const int64_t end_ns = MonotonicClock().now_ns() + 5 * kSecond;
  const int64_t give_up_ns = end_ns + 60 * kSecond;
  auto goes_on = [&](int step) {
    int64_t now_ns = MonotonicClock().now_ns();
    if (step < kSteps && now_ns < end_ns) return true;
    return process_->counters.faults_total == 0 && now_ns < give_up_ns;
  };
  uint64_t seed = TestSeed();
  std::atomic<int> running{2};
  std::vector<std::thread> program;
  for (uint64_t id = 0; id < 2; ++id) {
    program.emplace_back([&, id] {
      std::mt19937_64 random(seed + id);
      size_t count = memory_->page_count() / 2;
      size_t first = id * count;
      std::map<size_t, PageBytes> model;
      for (size_t page = first; page < first + count; ++page) model[page] = FilledPage(0);
      for (int step = 0; goes_on(step) && !HasFatalFailure(); ++step) {
        Step(random, first, count, model);
      }
      for (const auto& [page, bytes] : model) {
        EXPECT_TRUE(memory_->Holds(page, bytes)) << "page " << page << " at the end";
      }
      --running;
    });
  }
  std::atomic<bool> cancel{false};
  absl::Status status;
  while (running > 0 && status.ok()) {
    status = reclaimer_->EvictAll(cancel, nullptr).status();
    clock_.Advance(kSecond);
    if (status.ok()) status = reclaimer_->Tick();
  }
  EXPECT_TRUE(status.ok()) << status;
  for (std::thread& thread : program) thread.join();
  EXPECT_GT(process_->counters.faults_total, 0u);
  EXPECT_EQ(process_->counters.poisoned_pages, 0u);
  faults_->Drain();
  faults_->Settle();
  EXPECT_EQ(process_->counters.staged_pages, 0u);
  EXPECT_EQ(store_.store.clean.reused > 0, GetParam() > 0);
}

INSTANTIATE_TEST_SUITE_P(CleanPages, Torture, testing::Values(0, 100));

}  // namespace
}  // namespace zmem
