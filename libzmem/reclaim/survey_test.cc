#include "libzmem/reclaim/survey.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <memory>
#include <vector>

#include "libzmem/testing/managed.h"

namespace zmem {
namespace {

class SurveyTest : public testing::Test {
 protected:
  static constexpr size_t kChunks = 3;

  SurveyTest() {
    staging_ = BindStaging(*process_, 1);
    memory_ = MapOnlyEligible(*process_, kChunks);
  }

  bool IsRegistered(size_t page) {
    GateLock lock(process_->gate);
    Address address = memory_->address(page);
    return process_->table.Registered(ChunkNumber(address)).Has(PageInChunk(address));
  }
  void Touch(size_t page) { *memory_->data(page) = std::byte{1}; }

  SharedFakeClock clock_;
  std::unique_ptr<Mapping> staging_;
  std::unique_ptr<Mapping> memory_;
  TestStore store_{TestStore::Options()};
  std::shared_ptr<Process> process_ = ProcessOfThisOne(store_);
  SelfAgent agent_{*process_};
  Isolator isolator_{*process_, agent_, clock_};
  Surveyor surveyor_{*process_, isolator_};
};

TEST_F(SurveyTest, WhatIsMappedIsRegisteredBeforeItIsTouched) {
  surveyor_.RegisterNew();
  EXPECT_FALSE(IsRegistered(0)) << "nobody has judged it: nothing may be taken";
  FaultThread faults(process_, clock_);
  Touch(kChunks * kPagesPerChunk - 1);
  faults.Settle();
  EXPECT_EQ(process_->counters.zero_faults, 1u) << "the whole mapping is";
}

TEST_F(SurveyTest, WhatIsRegisteredUnjudgedCanBeRegisteredForGood) {
  Touch(0);
  surveyor_.RegisterNew();
  absl::StatusOr<Survey> survey = surveyor_.LookRegistered(Surveyor::Reach::kAll);
  ASSERT_TRUE(survey.ok());
  ASSERT_EQ(survey->chunks.size(), 1u);
  EXPECT_TRUE(IsRegistered(0));
}

TEST_F(SurveyTest, ASurveyHasWhatIsPresentAndMayBeTaken) {
  Touch(5);
  Touch(kPagesPerChunk + 6);
  absl::StatusOr<Survey> survey = surveyor_.Look();
  ASSERT_TRUE(survey.ok());
  ASSERT_EQ(survey->chunks.size(), 2u);
  EXPECT_EQ(survey->chunks[0].chunk_number, ChunkNumber(memory_->range().start));
  EXPECT_TRUE(survey->chunks[0].pages.Has(5));
  EXPECT_TRUE(survey->chunks[1].pages.Has(6));
  EXPECT_EQ(CountPages(survey->chunks), 2u);
  EXPECT_FALSE(surveyor_.IsRegistered(survey->chunks[0]));
}

TEST_F(SurveyTest, WhatAForkWouldNotCopyIsSeenByTheLayoutUntilItIsJudged) {
  Touch(5);
  Touch(6);
  Touch(2 * kPagesPerChunk + 7);
  auto look = [this] {
    absl::StatusOr<Survey> survey = surveyor_.LookByLayout();
    EXPECT_TRUE(survey.ok());
    return survey.ok() ? survey->chunks : std::vector<Candidate>();
  };
  EXPECT_EQ(CountPages(look()), 3u);
  ASSERT_EQ(madvise(memory_->data(6), kPageBytes, MADV_DONTFORK), 0);
  std::vector<Candidate> candidates = look();
  EXPECT_EQ(CountPages(candidates), 3u);
  ASSERT_EQ(candidates.size(), 2u);
  ASSERT_TRUE(surveyor_.Judge(candidates).ok());
  EXPECT_TRUE(candidates[0].pages.Has(5));
  EXPECT_FALSE(candidates[0].pages.Has(6));
  EXPECT_TRUE(candidates[1].pages.Has(7));
  EXPECT_EQ(CountPages(candidates), 2u);
  EXPECT_EQ(CountPages(look()), 2u) << "remembered";
  ASSERT_EQ(madvise(memory_->data(6), kPageBytes, MADV_DOFORK), 0);
  int looks = 0;
  for (; looks < 20 && CountPages(look()) == 2; ++looks) {
  }
  EXPECT_GT(looks, 0);
  EXPECT_LT(looks, 20) << "and looked at again";
}

}  // namespace
}  // namespace zmem
