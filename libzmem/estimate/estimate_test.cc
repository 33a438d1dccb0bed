#include "libzmem/estimate/estimate.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "libzmem/codec/compressor.h"
#include "libzmem/testing/memory.h"

namespace zmem {
namespace {

constexpr int64_t kMillisecondNs = 1'000'000;
constexpr size_t kChunks = 64;
constexpr size_t kPages = kChunks * kPagesPerChunk;
// What of this process is eligible and not the test's.
constexpr double kOtherBytes = 8 << 20;

class EstimateTest : public testing::Test {
 protected:
  EstimateTest() : mapping_(kChunks) {
    madvise(mapping_.data(0), mapping_.range().bytes(), MADV_NOHUGEPAGE);
    for (size_t page = 0; page < kPages; ++page) {
      mapping_.Write(page, page % 2 == 0 ? FilledPage(page) : CompressiblePage(page));
    }
  }

  void Touch(size_t first, size_t count) {
    for (size_t page = first; page < first + count; ++page) {
      static_cast<void>(*static_cast<volatile std::byte*>(mapping_.data(page)));
    }
  }

  Mapping mapping_;
  MonotonicClock clock_;
};

// Before each look this process touches another eighth of its memory.
TEST_F(EstimateTest, WhatIsTouchedUntilALookIsNotColdInItAndTheRestIs) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer's own memory lies beside what is measured, in this process";
#endif
  size_t looks = 0;
  EstimateOptions options;
  options.ages_ns = {kMillisecondNs, 2 * kMillisecondNs, 3 * kMillisecondNs};
  options.seed = TestSeed();
  int64_t touched_for_ns = 0;
  options.progress = [&](int64_t elapsed_ns, int64_t total_ns) {
    EXPECT_EQ(total_ns, 3 * kMillisecondNs);
    EXPECT_GE(elapsed_ns, touched_for_ns);
    touched_for_ns = elapsed_ns;
  };
  options.pages_out = [&] {  // once for each look, after it
    Touch(++looks * kPages / 8, kPages / 8);
    return PagesOut();
  };
  absl::StatusOr<Estimate> estimate = EstimateProcess(getpid(), options, clock_);
  ASSERT_TRUE(estimate.ok()) << estimate.status();
  ASSERT_EQ(estimate->ages.size(), 3u);
  for (size_t look = 0; look < 3; ++look) {
    const EstimatedAge& age = estimate->ages[look];
    EXPECT_GE(age.age_ns, options.ages_ns[look]);
    double untouched = static_cast<double>(mapping_.range().bytes()) * (8.0 - look) / 8;
    EXPECT_NEAR(age.cold_bytes, untouched, kOtherBytes) << look;
    EXPECT_LE(age.cold_bytes, static_cast<double>(age.eligible_bytes));
    EXPECT_LT(age.eligible_bytes, age.resident_bytes);
  }
  EXPECT_EQ(estimate->sampled_pages, 4096u);
  EXPECT_GE(estimate->eligible_pages, kPages);
  EXPECT_NEAR(estimate->same_filled_share.value, 0.5, 0.05);
  EXPECT_EQ(estimate->codecs.size(), CodecNames().size());
}

TEST_F(EstimateTest, NetIsWhatGoesOutLessPoolAndMetadataAndCountsWhatIsOut) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer's own memory lies beside what is measured, in this process";
#endif
  EstimateOptions options;
  options.ages_ns = {1};
  absl::StatusOr<Estimate> without = EstimateProcess(getpid(), options, clock_);
  constexpr double kOut = 1 << 30;
  options.pages_out = [] { return PagesOut{.original_bytes = 1 << 30, .held_bytes = 1 << 28}; };
  absl::StatusOr<Estimate> with = EstimateProcess(getpid(), options, clock_);
  ASSERT_TRUE(without.ok() && with.ok());
  const EstimatedAge& age = with->ages[0];
  EXPECT_NEAR(age.cold_bytes, without->ages[0].cold_bytes + kOut, kOtherBytes);
  for (size_t codec = 0; codec < CodecNames().size(); ++codec) {
    const EstimatedAge::OfCodec& result = age.codecs[codec];
    EXPECT_GT(result.pool_bytes, kOut / 4);
    EXPECT_GE(result.metadata_bytes, (kChunks + 512) * kPageBytes);
    EXPECT_NEAR(result.net_bytes.value,
                result.out_bytes - result.pool_bytes - static_cast<double>(result.metadata_bytes),
                1);
    // Half of the mapping needs no room, the other a third to a half of its size.
    double net_of_mapping = static_cast<double>(mapping_.range().bytes()) * 0.8;
    EXPECT_NEAR(without->ages[0].codecs[codec].net_bytes.value, net_of_mapping,
                0.1 * kPages * 4096);
  }
}

TEST_F(EstimateTest, LookingTwiceFindsTheSameAgain) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer's own memory lies beside what is measured, in this process";
#endif
  EstimateOptions options;
  options.ages_ns = {1};
  for (int i = 0; i < 2; ++i) {  // reading pages for the sample must not make them look touched
    absl::StatusOr<Estimate> estimate = EstimateProcess(getpid(), options, clock_);
    ASSERT_TRUE(estimate.ok());
    EXPECT_GT(estimate->ages[0].cold_bytes, 0.95 * static_cast<double>(mapping_.range().bytes()));
  }
}

TEST(EstimateErrors, NoSuchProcess) {
  EstimateOptions options{.ages_ns = {1}};
  MonotonicClock clock;
  pid_t above_all = 4194305;  // PID_MAX_LIMIT is one less
  absl::Status status = EstimateProcess(above_all, options, clock).status();
  EXPECT_TRUE(absl::IsNotFound(status)) << status;
}

TEST(EstimateErrors, AProgramThatEndsMeanwhile) {
  pid_t child = ForkChild([] {
    pause();
    return 0;
  });
  EstimateOptions options{.ages_ns = {int64_t{3'600'000} * kMillisecondNs}};
  options.progress = [&](int64_t, int64_t) { kill(child, SIGKILL); };
  MonotonicClock clock;
  absl::Status status = EstimateProcess(child, options, clock).status();
  EXPECT_TRUE(absl::IsAborted(status)) << status;
  // Not yet reaped, it still has a number, and no memory.
  status = EstimateProcess(child, options, clock).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_EQ(Await(child), -SIGKILL);
}

TEST(EstimateErrors, AProgramThatBecomesAnother) {
  pid_t child = ForkChild([] {
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGUSR1);
    sigprocmask(SIG_BLOCK, &signals, nullptr);
    int number = 0;
    sigwait(&signals, &number);
    execl("/bin/sleep", "sleep", "100", nullptr);
    return 1;
  });
  EstimateOptions options{.ages_ns = {int64_t{20} * kMillisecondNs}};
  std::string path = "/proc/" + std::to_string(child) + "/comm";
  options.progress = [&](int64_t, int64_t) {
    std::string comm;
    while (sys::ReadFile(path, comm).ok() && comm != "sleep\n") {
      kill(child, SIGUSR1);
      usleep(1000);
    }
  };
  MonotonicClock clock;
  absl::Status status = EstimateProcess(child, options, clock).status();
  EXPECT_TRUE(absl::IsAborted(status)) << status;
  kill(child, SIGKILL);
  Await(child);
}

}  // namespace
}  // namespace zmem
