#include "zmemd/program_settings.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

namespace zmem {
namespace {

const ProgramFacts kRedis{
    .exe = "/usr/bin/redis-server", .uid = 107, .cgroups = {"/system.slice/redis-server.service"}};

TEST(Matches, TheNameStandsInForAnExecutable) {
  EXPECT_TRUE(Matches({.name = "redis-server"}, kRedis));
  EXPECT_TRUE(Matches({.name = "/usr/bin/redis-server"}, kRedis));
  EXPECT_FALSE(Matches({.name = "redis"}, kRedis));
  EXPECT_FALSE(Matches({.name = "redis-server", .match = {.exe = "java"}}, kRedis));
}

TEST(Matches, PatternsWithASlashAreOfTheWholePath) {
  for (const char* exe : {"redis-*", "*", "/usr/bin/*", "/usr/*", "/*/redis-server", "*/redis-*",
                          "redis-serve[qr]", "redis-serve?"}) {
    EXPECT_TRUE(Matches({.name = "x", .match = {.exe = exe}}, kRedis)) << exe;
  }
  for (const char* exe : {"usr*", "bin/redis-server", "/usr/bin/redis", "Redis-server", "/usr"}) {
    EXPECT_FALSE(Matches({.name = "x", .match = {.exe = exe}}, kRedis)) << exe;
  }
}

TEST(Matches, EverythingThatIsGivenMustFit) {
  ProgramSection section{.name = "redis-server"};
  section.match.uid = 107;
  section.match.cgroup = "/system.slice/*";
  EXPECT_TRUE(Matches(section, kRedis));
  ProgramFacts other = kRedis;
  other.uid = 0;
  EXPECT_FALSE(Matches(section, other));
  other = kRedis;
  other.cgroups = {"/user.slice"};
  EXPECT_FALSE(Matches(section, other));
  other.cgroups.push_back("/system.slice/x/y");  // of another hierarchy
  EXPECT_TRUE(Matches(section, other));
  other = kRedis;
  other.exe = "";  // it could not be read
  EXPECT_FALSE(Matches(section, other));
}

TEST(SettingsFor, TheLastSectionThatSaysSomethingHasItsWay) {
  std::vector<ProgramSection> sections(3);
  sections[0] = {.name = "all",
                 .match = {.exe = "*"},
                 .settings = {.managed = false, .limit_bytes = 1, .cold_age_ns = 5}};
  sections[1] = {.name = "redis-server", .settings = {.managed = true, .limit_bytes = 0}};
  sections[2] = {.name = "java", .settings = {.limit_bytes = 3, .mode = ReclaimMode::kPressure}};
  ProgramSettings settings = SettingsFor(sections, kRedis);
  EXPECT_EQ(settings, (ProgramSettings{.managed = true, .limit_bytes = 0, .cold_age_ns = 5}));
  std::swap(sections[0], sections[1]);
  EXPECT_EQ(SettingsFor(sections, kRedis),
            (ProgramSettings{.managed = false, .limit_bytes = 1, .cold_age_ns = 5}));
}

TEST(SettingsFor, WhatIsNotSaidStaysAsItWas) {
  Policy policy{.mode = ReclaimMode::kPressure, .cold_age_ns = 7, .stall_target_percent = 2};
  EXPECT_EQ(Apply({}, policy), policy);
  const Compressor* zstd = FindCompressor("zstd");
  Policy changed = Apply({.limit_bytes = 9,
                          .stall_target_percent = 0,
                          .cold_age_ns = 8,
                          .mode = ReclaimMode::kLimitOnly,
                          .compressor = zstd},
                         policy);
  EXPECT_EQ(changed, (Policy{.mode = ReclaimMode::kLimitOnly,
                             .cold_age_ns = 8,
                             .stall_target_percent = 0,
                             .limit_bytes = 9,
                             .compressor = zstd}));
  policy.limit_bytes = 9;
  EXPECT_EQ(Apply({.limit_bytes = 0}, policy).limit_bytes, 0u);
}

TEST(ShareMatches, SectionsOfOneNameMeanTheSamePrograms) {
  std::vector<ProgramSection> sections = {{.name = "a", .match = {.exe = "x", .uid = 1}},
                                          {.name = "b"},
                                          {.name = "a", .match = {.exe = "y"}}};
  ShareMatches(sections);
  ProgramMatch shared{.exe = "y", .uid = 1};
  EXPECT_EQ(sections[0].match, shared);
  EXPECT_EQ(sections[1].match, ProgramMatch());
  EXPECT_EQ(sections[2].match, shared);
}

TEST(ReadProgramFacts, AreThoseOfTheProcess) {
  ProgramFacts facts = ReadProgramFacts(getpid(), 7);
  EXPECT_EQ(facts.exe, std::filesystem::read_symlink("/proc/self/exe").string());
  EXPECT_EQ(facts.uid, 7u);
  ASSERT_FALSE(facts.cgroups.empty());
  EXPECT_EQ(facts.cgroups[0][0], '/');
  constexpr pid_t kNobody = 4194305;  // above PID_MAX_LIMIT
  facts = ReadProgramFacts(kNobody, 0);
  EXPECT_EQ(facts.exe, "");
  EXPECT_TRUE(facts.cgroups.empty());
}

TEST(ParseUser, TakesNamesAndNumbers) {
  EXPECT_EQ(*ParseUser("root"), 0u);
  EXPECT_EQ(*ParseUser("12345"), 12345u);
  for (const char* nobody : {"", "no-such-user", "-1", "4294967295", "4294967296", "1.5"}) {
    EXPECT_FALSE(ParseUser(nobody).ok()) << nobody;
  }
}

}  // namespace
}  // namespace zmem
