#include "zmemd/config.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <random>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace zmem {
namespace {

class ConfigTest : public testing::Test {
 protected:
  ConfigTest() {
    std::filesystem::remove_all(directory_);
    std::filesystem::create_directories(directory_);
    source_.file = directory_ + "/zmemd.conf";
    source_.must_exist = true;
    source_.ram_bytes = uint64_t{8} << 30;
    source_.compressors = {"lz4", "zstd"};
  }

  void Write(const std::string& name, absl::string_view text) {
    std::filesystem::path path = directory_ + "/" + name;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << text;
  }

  // The errors that the main file's `text` gives, without its directory.
  std::vector<std::string> ErrorsOf(absl::string_view text) {
    Write("zmemd.conf", text);
    std::vector<std::string> errors;
    for (const std::string& error : LoadConfig(source_).errors) {
      EXPECT_TRUE(absl::StartsWith(error, directory_ + "/")) << error;
      EXPECT_EQ(error.find('\n'), std::string::npos) << error;
      errors.push_back(error.substr(directory_.size() + 1));
    }
    return errors;
  }

  std::string directory_ = absl::StrCat(
      testing::TempDir(), "/", testing::UnitTest::GetInstance()->current_test_info()->name());
  ConfigSource source_;
};

using Lines = std::vector<std::string>;

TEST_F(ConfigTest, ReadsEveryKey) {
  Write("zmemd.conf",
        "# zmemd\n[pool]\nmax_pool_percent = 35\n  ; a remark\ncompressor=\"zstd\"  # denser\n \n"
        "same_filled_pages_enabled=no\r\n[policy]\ncold_age=90s\nscan_interval=250ms\n"
        "min_resident=25%\n");
  LoadedConfig loaded = LoadConfig(source_);
  EXPECT_EQ(loaded.errors, Lines{});
  EXPECT_EQ(loaded.config.max_pool_percent, 35u);
  EXPECT_EQ(loaded.config.compressor, "zstd");
  EXPECT_FALSE(loaded.config.same_filled_pages_enabled);
  EXPECT_EQ(loaded.config.cold_age_ns, 90'000'000'000);
  EXPECT_EQ(loaded.config.scan_interval_ns, 250'000'000);
  EXPECT_EQ(loaded.config.min_resident_bytes, uint64_t{2} << 30);
}

TEST_F(ConfigTest, ReadsWhatProgramsArePromised) {
  Write("zmemd.conf",
        "[policy]\nmode=limit-only\nstall_target_percent=0.25\nlimit=25%\ncold_age=90s\n"
        "[pool]\ncompressor=zstd\n");
  LoadedConfig loaded = LoadConfig(source_);
  EXPECT_EQ(loaded.errors, Lines{});
  Policy policy = DefaultPolicy(loaded.config);
  EXPECT_EQ(policy.mode, ReclaimMode::kLimitOnly);
  EXPECT_EQ(policy.stall_target_percent, 0.25);
  EXPECT_EQ(policy.limit_bytes, uint64_t{2} << 30);
  EXPECT_EQ(policy.cold_age_ns, 90'000'000'000);
  EXPECT_EQ(policy.scan_interval_ns, 5'000'000'000);
  EXPECT_EQ(policy.compressor->name(), "zstd");
  for (absl::string_view limit : {"none", "None"}) {
    EXPECT_EQ(ErrorsOf(absl::StrCat("[policy]\nlimit=", limit, "\n")), Lines{});
  }
  for (absl::string_view target : {"0", "0.0", "100", "100%", "3.5%"}) {
    EXPECT_EQ(ErrorsOf(absl::StrCat("[policy]\nstall_target_percent=", target, "\n")), Lines{});
  }
}

TEST_F(ConfigTest, ReadsWhenTheHostIsShortOfMemory) {
  Write("zmemd.conf", "[policy]\navailable_low_percent=0\navailable_high_percent=100\n");
  LoadedConfig loaded = LoadConfig(source_);
  EXPECT_EQ(loaded.errors, Lines{});
  EXPECT_EQ(loaded.config.available_low_percent, 0u);
  EXPECT_EQ(loaded.config.available_high_percent, 100u);
  EXPECT_EQ(ErrorsOf("[policy]\navailable_low_percent=101\n").size(), 1u);
}

TEST_F(ConfigTest, ReadsOnWhichHostsIdleCpusMayPoll) {
  Write("zmemd.conf", "[policy]\nidle_polling_max_cpus=0\n");
  LoadedConfig loaded = LoadConfig(source_);
  EXPECT_EQ(loaded.errors, Lines{});
  EXPECT_EQ(loaded.config.idle_polling_max_cpus, 0u);
  for (absl::string_view cpus : {"-1", "many", "2.5"}) {
    EXPECT_EQ(ErrorsOf(absl::StrCat("[policy]\nidle_polling_max_cpus=", cpus, "\n")).size(), 1u);
  }
}

TEST_F(ConfigTest, ReadsWhetherAccessedBitsAreLookedAt) {
  EXPECT_TRUE(Config().accessed_bits);
  Write("zmemd.conf", "[policy]\naccessed_bits=no\n");
  LoadedConfig loaded = LoadConfig(source_);
  EXPECT_EQ(loaded.errors, Lines{});
  EXPECT_FALSE(loaded.config.accessed_bits);
  EXPECT_EQ(ErrorsOf("[policy]\naccessed_bits=perhaps\n").size(), 1u);
}

TEST_F(ConfigTest, NonsenseIsPromisedToNobody) {
  for (absl::string_view limit : {"0", "0%", "101%", "50.5%", "-1G", "1Q", "%", "nothing"}) {
    EXPECT_EQ(ErrorsOf(absl::StrCat("[policy]\nlimit=", limit, "\n")),
              Lines{absl::StrCat("zmemd.conf:2: limit: \"", limit,
                                 "\" is not a limit; write none, a size such as 512M, or 1% to "
                                 "100%")});
  }
  for (absl::string_view target : {"-1", "100.1", "nan", "inf", "1,5", "%", "lots"}) {
    EXPECT_EQ(ErrorsOf(absl::StrCat("[policy]\nstall_target_percent=", target, "\n")),
              Lines{absl::StrCat("zmemd.conf:2: stall_target_percent: \"", target,
                                 "\" is not a percentage of time from 0 to 100, such as 0.5")});
  }
  EXPECT_EQ(ErrorsOf("[policy]\nmode=eager\n"),
            Lines{"zmemd.conf:2: mode: \"eager\" is not a mode; write proactive, pressure or "
                  "limit-only"});
}

TEST_F(ConfigTest, ReadsSectionsOfPrograms) {
  Write("zmemd.conf",
        "[program \"redis-server\"]  # the cache\nlimit=25%\nmanaged=yes\n"
        "[ program  \"batch jobs\" ]\nexe = \"/opt/my jobs/*\"\nuser=root\n"
        "cgroup=/batch.slice/*\nstall_target_percent=5\ncompressor=zstd\ncold_age=1s\n"
        "mode=pressure\n[pool]\nmax_pool_percent=7\n[program \"x\"]\nuser=7\nlimit=none\n");
  LoadedConfig loaded = LoadConfig(source_);
  EXPECT_EQ(loaded.errors, Lines{});
  EXPECT_EQ(loaded.config.max_pool_percent, 7u);
  const std::vector<ProgramSection>& programs = loaded.config.programs;
  ASSERT_EQ(programs.size(), 3u);
  EXPECT_EQ(programs[0].name, "redis-server");
  EXPECT_EQ(programs[0].match, ProgramMatch());
  EXPECT_EQ(programs[0].settings,
            (ProgramSettings{.managed = true, .limit_bytes = uint64_t{2} << 30}));
  EXPECT_EQ(programs[1].name, "batch jobs");
  EXPECT_EQ(programs[1].match,
            (ProgramMatch{.exe = "/opt/my jobs/*", .uid = 0, .cgroup = "/batch.slice/*"}));
  EXPECT_EQ(programs[1].settings, (ProgramSettings{.stall_target_percent = 5,
                                                   .cold_age_ns = 1'000'000'000,
                                                   .mode = ReclaimMode::kPressure,
                                                   .compressor = FindCompressor("zstd")}));
  EXPECT_EQ(programs[2].match.uid, 7u);
  EXPECT_EQ(programs[2].settings.limit_bytes, 0u);
}

TEST_F(ConfigTest, ALaterFileContinuesASectionAndComesAfterIt) {
  Write("zmemd.conf",
        "[program \"a\"]\nexe=x*\nlimit=1G\nmanaged=no\n[program \"b\"]\nexe=*\nlimit=2G\n");
  EXPECT_EQ(LoadConfig(source_).errors.size(), 1u);
  Write("zmemd.conf", "[program \"a\"]\nexe=x*\nlimit=1G\n[program \"b\"]\nexe=*\nlimit=2G\n");
  Write("zmemd.conf.d/1.conf", "[program \"a\"]\nlimit=3G\n");
  Write("zmemd.conf.d/2.conf", "[program \"a\"]\nuser=5\n");
  LoadedConfig loaded = LoadConfig(source_);
  EXPECT_EQ(loaded.errors, Lines{});
  ProgramFacts facts{.exe = "/bin/xy", .uid = 5};
  EXPECT_EQ(SettingsFor(loaded.config.programs, facts).limit_bytes, uint64_t{3} << 30);
  facts.uid = 6;
  EXPECT_EQ(SettingsFor(loaded.config.programs, facts).limit_bytes, uint64_t{2} << 30);
}

TEST_F(ConfigTest, MistakesInSectionsOfPrograms) {
  EXPECT_EQ(
      ErrorsOf("[program \"a\"]\nexe=usr/bin/x\nuser=no-such-user\ncgroup=batch.slice\n"
               "limit=0\nmanaged=maybe\nstall_target_percent=101\ncompressor=lz5\ncold_age=5\n"
               "mode=eager\nlimt=1G\nscan_interval=1s\nlimit=1G\n"
               "[program \"a\"]\nmanaged=no\n[pool]\nexe=x\n"
               "[program \"b\"]\nmanaged=no\nlimit=1G\n"),
      (Lines{
          "zmemd.conf:2: exe: \"usr/bin/x\" matches no path, which begins with /; write a whole "
          "path, or a name without slashes",
          "zmemd.conf:3: user: \"no-such-user\" is no user of this machine; write a name or a "
          "number",
          "zmemd.conf:4: cgroup: \"batch.slice\" matches no path, which begins with /",
          "zmemd.conf:5: limit: \"0\" is not a limit; write none, a size such as 512M, or 1% to "
          "100%",
          "zmemd.conf:6: managed: \"maybe\" is not a switch; write yes or no",
          "zmemd.conf:7: stall_target_percent: \"101\" is not a percentage of time from 0 to 100, "
          "such as 0.5",
          "zmemd.conf:8: compressor: \"lz5\" is no compressor of this zmemd; it has lz4, zstd",
          "zmemd.conf:9: cold_age: \"5\" is not a duration; write a whole number with ms, s, m or "
          "h, such as 30s",
          "zmemd.conf:10: mode: \"eager\" is not a mode; write proactive, pressure or limit-only",
          "zmemd.conf:11: unknown key \"limt\"; the nearest is limit of [program \"NAME\"]",
          "zmemd.conf:12: scan_interval is for all programs: put it under [policy]",
          "zmemd.conf:13: \"limit\" is set twice in this file; keep one",
          "zmemd.conf:14: [program \"a\"] is in line 1 already; keep one",
          "zmemd.conf:17: exe is for single programs: put it under [program \"NAME\"]",
          "zmemd.conf:18: says managed=no and more; what is not managed needs no other setting",
      }));
}

TEST_F(ConfigTest, SectionsOfProgramsThatContradictThemselvesOrEachOther) {
  EXPECT_EQ(
      ErrorsOf("[program \"a\"]\n[program \"b\"]\nmanaged=no\nlimit=1G\n"
               "[program \"c\"]\nexe=b\nlimit=1G\n[program \"d/e\"]\nlimit=1G\n"
               "[program \"f/g\"]\nexe=f\nmanaged=no\n"),
      (Lines{
          "zmemd.conf:1: says nothing of the programs that it means; write managed=no, "
          "limit=512M or the like",
          "zmemd.conf:2: says managed=no and more; what is not managed needs no other setting",
          "zmemd.conf:5: means the same programs as the section in line 2; make one of them",
          "zmemd.conf:8: \"d/e\" matches no path, which begins with /; write a whole path, or "
          "a name without slashes, or add exe=",
      }));
}

TEST_F(ConfigTest, HeadersOfProgramsThatAreNone) {
  for (absl::string_view name : {"program", "program redis", "program \"\"", "program \" \"",
                                 "program \"a\"b\"", "program \"a", "porgram \"a\""}) {
    Lines errors = ErrorsOf(absl::StrCat("[", name, "]\nlimit=1G\n"));
    ASSERT_EQ(errors.size(), 1u) << name;
    EXPECT_TRUE(absl::EndsWith(errors[0], "is not a section; write it as [program \"NAME\"]"))
        << errors[0];
  }
}

TEST_F(ConfigTest, AnEmptyFileMeansTheDefaults) {
  EXPECT_EQ(ErrorsOf(""), Lines{});
  EXPECT_EQ(ErrorsOf("\n\n# nothing\n[pool]\n"), Lines{});
  LoadedConfig loaded = LoadConfig(source_);
  EXPECT_EQ(loaded.config.max_pool_percent, 20u);
  EXPECT_EQ(loaded.config.compressor, "lz4");
  EXPECT_TRUE(loaded.config.same_filled_pages_enabled);
  EXPECT_EQ(loaded.config.cold_age_ns, 30'000'000'000);
  EXPECT_EQ(loaded.config.scan_interval_ns, 5'000'000'000);
  EXPECT_EQ(loaded.config.min_resident_bytes, uint64_t{16} << 20);
}

TEST_F(ConfigTest, AMissingFileIsAnErrorOnlyWhenItWasNamed) {
  LoadedConfig loaded = LoadConfig(source_);
  EXPECT_EQ(loaded.errors, Lines{source_.file + ": cannot be read: No such file or directory"});
  source_.must_exist = false;
  loaded = LoadConfig(source_);
  EXPECT_EQ(loaded.errors, Lines{});
  EXPECT_EQ(loaded.files, Lines{});
}

TEST_F(ConfigTest, DropInsOverrideInTheOrderOfTheirNames) {
  Write("zmemd.conf", "[pool]\nmax_pool_percent=10\n[policy]\ncold_age=1s\n");
  Write("zmemd.conf.d/20-b.conf", "[pool]\nmax_pool_percent=30\n");
  Write("zmemd.conf.d/10-a.conf", "[pool]\nmax_pool_percent=40\ncompressor=zstd\n");
  Write("zmemd.conf.d/30-c.conf.dpkg-old", "garbage\n");
  LoadedConfig loaded = LoadConfig(source_);
  EXPECT_EQ(loaded.errors, Lines{});
  EXPECT_EQ(loaded.files.size(), 3u) << absl::StrJoin(loaded.files, " ");
  EXPECT_EQ(loaded.config.max_pool_percent, 30u);
  EXPECT_EQ(loaded.config.compressor, "zstd");
  EXPECT_EQ(loaded.config.cold_age_ns, 1'000'000'000);
}

TEST_F(ConfigTest, DropInsCountWithoutAMainFile) {
  source_.must_exist = false;
  Write("zmemd.conf.d/a.conf", "[policy]\ncold_age=7s\n");
  EXPECT_EQ(LoadConfig(source_).config.cold_age_ns, 7'000'000'000);
}

TEST_F(ConfigTest, EveryMistakeIsReportedWithItsLine) {
  EXPECT_EQ(
      ErrorsOf("cold_age=1s\n[pool]\nmax_pool_precent=20\ncold_age=1s\nmax_pool_percent=0\n"
               "compressor=lz5\nsame_filled_pages_enabled=maybe\nlonely\n=5\n[polcy]\ncold=1\n"
               "[policy]\ncold_age=30\nscan_interval=\nmin_resident=-1\n"),
      (Lines{
          "zmemd.conf:1: cold_age stands before any section; put it under [policy]",
          "zmemd.conf:3: unknown key \"max_pool_precent\"; the nearest is max_pool_percent in "
          "[pool]",
          "zmemd.conf:4: cold_age is in the wrong section; put it under [policy]",
          "zmemd.conf:5: max_pool_percent: \"0\" is not a whole percentage of RAM from 1 to 100",
          "zmemd.conf:6: compressor: \"lz5\" is no compressor of this zmemd; it has lz4, zstd",
          "zmemd.conf:7: same_filled_pages_enabled: \"maybe\" is not a switch; write yes or no",
          "zmemd.conf:8: \"lonely\" is not of the form key=value",
          "zmemd.conf:9: \"=5\" is not of the form key=value",
          "zmemd.conf:10: unknown section \"polcy\"; the nearest is [policy]",
          "zmemd.conf:13: cold_age: \"30\" is not a duration; write a whole number with ms, s, m "
          "or h, such as 30s",
          "zmemd.conf:14: scan_interval has no value",
          "zmemd.conf:15: min_resident: \"-1\" is not a size; write a whole number with an "
          "optional K, M, G or T, such as 16M, or 0% to 100%",
      }));
}

TEST_F(ConfigTest, MistakesOfAllFilesAreReported) {
  Write("zmemd.conf.d/a.conf", "[pool]\nx=1\n");
  Write("zmemd.conf.d/b.conf", "[pool\n");
  Lines errors = ErrorsOf("[pool]\nmax_pool_percent=101\n");
  ASSERT_EQ(errors.size(), 3u) << absl::StrJoin(errors, "\n");
  EXPECT_EQ(errors[2], "zmemd.conf.d/b.conf:1: \"[pool\" is not a section; write it as [name]");
}

TEST_F(ConfigTest, AKeySetTwiceInOneFileIsAMistake) {
  EXPECT_EQ(ErrorsOf("[pool]\ncompressor=lz4\ncompressor=zstd\n"),
            Lines{"zmemd.conf:3: \"compressor\" is set twice in this file; keep one"});
  EXPECT_EQ(ErrorsOf("[pool]\ncompressor=lz4\n[policy]\n[pool]\ncompressor=zstd\n"),
            Lines{"zmemd.conf:5: \"compressor\" is set twice in this file; keep one"});
}

TEST_F(ConfigTest, SectionHeadersThatAreNone) {
  for (absl::string_view text : {"[", "[pool", "[pool] x", "[]x", "[po]ol]", "[ # ]"}) {
    Lines errors = ErrorsOf(text);
    ASSERT_EQ(errors.size(), 1u) << text;
    EXPECT_TRUE(absl::StrContains(errors[0], "is not a section")) << errors[0];
  }
  EXPECT_EQ(ErrorsOf("[]\n"), Lines{"zmemd.conf:1: unknown section \"\"; the nearest is [pool]"});
}

TEST_F(ConfigTest, ScanningTooOftenIsRefused) {
  EXPECT_EQ(ErrorsOf("[policy]\nscan_interval=0s\n"),
            Lines{"zmemd.conf:2: scan_interval: \"0s\" is too short; write 10ms or more"});
}

TEST_F(ConfigTest, WhatIsNoRegularFileIsNotOpened) {
  std::filesystem::create_directory(source_.file);
  EXPECT_EQ(LoadConfig(source_).errors,
            Lines{source_.file + ": is not a regular file; a configuration must be one"});
  std::filesystem::remove(source_.file);
  ASSERT_EQ(mkfifo(source_.file.c_str(), 0600), 0);  // opening it would block for ever
  EXPECT_EQ(LoadConfig(source_).errors.size(), 1u);
  std::filesystem::remove(source_.file);
  std::filesystem::create_symlink(source_.file, source_.file);
  EXPECT_EQ(LoadConfig(source_).errors,
            Lines{source_.file + ": cannot be read: Too many levels of symbolic links"});
}

TEST_F(ConfigTest, AFileWhereTheDropInDirectoryBelongsIsReported) {
  Write("zmemd.conf.d", "");
  EXPECT_EQ(ErrorsOf(""), Lines{"zmemd.conf.d: cannot be listed for drop-ins: Not a directory"});
}

TEST_F(ConfigTest, HugeLinesAndFilesAreRefused) {
  EXPECT_EQ(ErrorsOf(std::string(10 << 20, 'x')),
            Lines{"zmemd.conf: has 10.00 MiB; a configuration may have 64.00 KiB"});
  EXPECT_EQ(ErrorsOf(absl::StrCat("[pool]\nx=", std::string(9000, '1'), "\ncompressor=lz4\n")),
            Lines{"zmemd.conf:2: is longer than 1000 bytes; is this a text file?"});
}

TEST_F(ConfigTest, TheNumberOfErrorsIsBounded) {
  std::string text = "[pool]\n";
  for (int i = 0; i < 5000; ++i) absl::StrAppend(&text, "k", i, "=1\n");
  Lines errors = ErrorsOf(text);
  EXPECT_EQ(errors.size(), 101u);
  EXPECT_EQ(errors.back(), "zmemd.conf: has 4900 more errors; is it a configuration of zmemd?");
}

TEST_F(ConfigTest, AFewKeysChangeAtRunTime) {
  Config config;
  EXPECT_TRUE(ChangeConfig("max_pool_percent", "35", source_, config).ok());
  EXPECT_TRUE(ChangeConfig("max_pool_size", "25%", source_, config).ok());
  EXPECT_TRUE(ChangeConfig("accept_threshold_percent", "70%", source_, config).ok());
  EXPECT_EQ(config.max_pool_percent, 35u);
  EXPECT_EQ(config.max_pool_size, uint64_t{2} << 30);
  EXPECT_EQ(config.accept_threshold_percent, 70u);
}

TEST_F(ConfigTest, AChangeThatIsRefusedChangesNothingAndSaysWhyAsTheFileDoes) {
  struct Refused {
    absl::string_view key, value, error;
  };
  for (const Refused& refused : std::vector<Refused>{
           {"max_pool_percent", "0",
            "max_pool_percent: \"0\" is not a whole percentage of RAM from 1 to 100"},
           {"max_pool_percent", "", "max_pool_percent has no value"},
           {"accept_threshold_percent", "101",
            "accept_threshold_percent: \"101\" is not a whole percentage of the pool's limit from "
            "1 to 100"},
           {"max_pool_precent", "20",
            "unknown key \"max_pool_precent\"; the nearest is max_pool_percent in [pool]"},
           {"cold_age", "1s",
            "cold_age is read when zmemd starts and by zmemctl reload; what may be set while it "
            "runs is max_pool_percent, max_pool_size, accept_threshold_percent"},
           {"daily_write_limit", "1G",
            "daily_write_limit is read when zmemd starts; what may be set while it runs is "
            "max_pool_percent, max_pool_size, accept_threshold_percent"}}) {
    Config config;
    absl::Status status = ChangeConfig(refused.key, refused.value, source_, config);
    EXPECT_EQ(status, absl::InvalidArgumentError(refused.error));
    EXPECT_EQ(config.max_pool_percent, Config().max_pool_percent);
    EXPECT_EQ(config.accept_threshold_percent, Config().accept_threshold_percent);
    EXPECT_EQ(config.cold_age_ns, Config().cold_age_ns);
  }
}

TEST_F(ConfigTest, TellsWhichKeysWaitForTheNextStart) {
  Write("zmemd.conf", "[backing]\npath=/a\nsize=1G\n[pool]\nrecompress_age=1m\n");
  Config running = LoadConfig(source_).config;
  EXPECT_EQ(KeysForNextStart(running, running), Lines{});
  Write("zmemd.conf",
        "[backing]\npath=/b\nsize=1G\ndaily_write_limit=1G\n[pool]\nmax_pool_percent=3\n"
        "compressor=zstd\n[policy]\ncold_age=1s\nlimit=1G\n[program \"a\"]\nmanaged=no\n");
  EXPECT_EQ(KeysForNextStart(running, LoadConfig(source_).config),
            (Lines{"[pool] recompress_age", "[backing] path", "[backing] daily_write_limit"}));
}

TEST_F(ConfigTest, NoJunkCrashesIt) {
  constexpr unsigned kSeed = 20240607;
  SCOPED_TRACE(absl::StrCat("seed ", kSeed));
  std::mt19937 random(kSeed);
  const std::string alphabet =
      absl::StrCat("[]=#;\"\n\n \t\r", std::string("\0\x01\xff", 3), "ab1%");
  for (int round = 0; round < 500; ++round) {
    std::string text = round % 2 == 0 ? "[pool]\ncompressor=" : "";
    for (size_t i = random() % 400; i > 0; --i) {
      text += round % 3 == 0 ? static_cast<char>(random()) : alphabet[random() % alphabet.size()];
    }
    ErrorsOf(text);
  }
}

}  // namespace
}  // namespace zmem
