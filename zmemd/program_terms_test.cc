#include "zmemd/program_terms.h"

#include <gtest/gtest.h>

namespace zmem {
namespace {

constexpr uint64_t kMib = uint64_t{1} << 20;

Policy Configured(uint64_t limit_mib) { return {.limit_bytes = limit_mib * kMib}; }

void ExpectLimit(const ProgramTerms& terms, uint64_t mib, LimitSource source) {
  EXPECT_EQ(terms.limit().bytes, mib * kMib);
  EXPECT_EQ(LimitSourceName(terms.limit().source), LimitSourceName(source));
}

TEST(ProgramTerms, NobodyAskedMeansNoLimit) {
  ProgramTerms terms;
  ExpectLimit(terms, 0, LimitSource::kNone);
  terms.Configure(Configured(0));
  ExpectLimit(terms, 0, LimitSource::kNone);
  EXPECT_EQ(terms.policy(5 * kMib), Policy());
}

TEST(ProgramTerms, TheSmallerOfConfigurationAndEnvironmentCounts) {
  ProgramTerms terms;
  terms.SetEnvironmentLimit(100 * kMib);
  ExpectLimit(terms, 100, LimitSource::kEnvironment);
  terms.Configure(Configured(200));
  ExpectLimit(terms, 100, LimitSource::kEnvironment);
  terms.Configure(Configured(50));
  ExpectLimit(terms, 50, LimitSource::kConfiguration);
  terms.Configure(Configured(0));
  ExpectLimit(terms, 100, LimitSource::kEnvironment);
}

TEST(ProgramTerms, TheOwnersWordStandsInForTheEnvironments) {
  ProgramTerms terms;
  terms.SetEnvironmentLimit(100 * kMib);
  EXPECT_TRUE(terms.SetLimit(300 * kMib, false).ok());
  ExpectLimit(terms, 300, LimitSource::kOwner);
  EXPECT_TRUE(terms.SetLimit(0, false).ok());
  ExpectLimit(terms, 0, LimitSource::kNone);
  // A later configuration still binds him.
  EXPECT_TRUE(terms.SetLimit(300 * kMib, false).ok());
  terms.Configure(Configured(200));
  ExpectLimit(terms, 200, LimitSource::kConfiguration);
}

TEST(ProgramTerms, AnOwnerMayNotAskForMoreThanTheConfigurationGives) {
  ProgramTerms terms;
  terms.Configure(Configured(200));
  for (uint64_t bytes : {uint64_t{0}, 200 * kMib + 1}) {
    EXPECT_EQ(terms.SetLimit(bytes, false),
              absl::PermissionDeniedError("the configuration of zmemd gives it 200.0 MiB; ask for "
                                          "no more, or as root"));
    ExpectLimit(terms, 200, LimitSource::kConfiguration);
  }
  EXPECT_TRUE(terms.SetLimit(200 * kMib, false).ok());
  EXPECT_TRUE(terms.SetLimit(150 * kMib, false).ok());
  ExpectLimit(terms, 150, LimitSource::kOwner);
}

TEST(ProgramTerms, RootsWordWinsOverAll) {
  ProgramTerms terms;
  terms.Configure(Configured(200));
  terms.SetEnvironmentLimit(50 * kMib);
  EXPECT_TRUE(terms.SetLimit(400 * kMib, true).ok());
  ExpectLimit(terms, 400, LimitSource::kRoot);
  EXPECT_EQ(terms.SetLimit(100 * kMib, false),
            absl::PermissionDeniedError("root has set 400.0 MiB for it; ask as root"));
  EXPECT_TRUE(terms.SetLimit(0, true).ok());
  ExpectLimit(terms, 0, LimitSource::kRoot);
  EXPECT_EQ(terms.SetLimit(100 * kMib, false),
            absl::PermissionDeniedError("root has set no limit for it; ask as root"));
}

TEST(ProgramTerms, WhatCannotBeKeptIsRaisedUnlessSomebodyJustAskedForIt) {
  ProgramTerms terms;
  terms.SetEnvironmentLimit(100 * kMib);
  EXPECT_EQ(terms.policy(30 * kMib).limit_bytes, 100 * kMib);
  EXPECT_EQ(terms.policy(130 * kMib).limit_bytes, 130 * kMib);
  terms.Configure(Configured(90));
  EXPECT_EQ(terms.policy(130 * kMib).limit_bytes, 130 * kMib);
  EXPECT_TRUE(terms.SetLimit(80 * kMib, false).ok());
  EXPECT_EQ(terms.policy(130 * kMib).limit_bytes, 80 * kMib);
  EXPECT_TRUE(terms.SetLimit(0, true).ok());
  EXPECT_EQ(terms.policy(130 * kMib).limit_bytes, 0u);
}

TEST(ProgramTerms, EverythingElseIsAsConfigured) {
  ProgramTerms terms;
  Policy policy{.mode = ReclaimMode::kLimitOnly, .cold_age_ns = 7, .stall_target_percent = 3};
  terms.Configure(policy);
  EXPECT_EQ(terms.policy(0), policy);
}

}  // namespace
}  // namespace zmem
