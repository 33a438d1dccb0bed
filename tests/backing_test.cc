// Programs whose memory goes to a backing file, by the real daemon and library.
#include <gmock/gmock.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/harness.h"
#include "tests/system_test.h"

namespace zmem {
namespace {

using std::chrono::seconds;

constexpr seconds kAnswerTimeout{120};

// A directory on a disk, gone with the test.
class DiskDirectory {
 public:
  DiskDirectory() {
    const char* parent = std::getenv("TEST_TMPDIR");
    path_ = absl::StrCat(parent != nullptr ? parent : "/var/tmp", "/zmem-backing.XXXXXX");
    if (mkdtemp(path_.data()) == nullptr) throw HarnessError("cannot make " + path_);
  }
  ~DiskDirectory() { std::filesystem::remove_all(path_); }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

class Backing : public SystemTest {
 protected:
  std::string Config(const std::string& pool) const {
    return absl::StrCat("[pool]\n", pool, kEvictByHand, "[backing]\npath=", directory_ / "file",
                        "\nsize=256M\n");
  }
  DiskDirectory directory_;
};

TEST_F(Backing, WhatThePoolHasNoRoomForGoesToTheFileAndComesBack) {
  Daemon daemon({.config = Config("max_pool_size=4M\n")});
  Child child(Managed(daemon, Subject("pages", {"--mib", "48"})));
  WaitReady(daemon, child);
  EvictAtLeast(daemon, child, 10000);
  nlohmann::json status = daemon.Status();
  EXPECT_GT(status.at("backing").at("objects").get<int64_t>(), 4000);
  EXPECT_LE(status.at("pool").at("held_bytes").get<int64_t>(), 4 << 20);
  EXPECT_EQ(child.Ask("verify", kAnswerTimeout), "ok 12288");
  EXPECT_GT(daemon.Process(child.pid()).at("disk_faults").get<int64_t>(), 0);
  EvictAtLeast(daemon, child, 10000);
  daemon.Stop();  // brings back all that is in the file
  EXPECT_EQ(child.Ask("verify", kAnswerTimeout), "ok 12288");
  child.CloseInput();
  EXPECT_TRUE(child.Wait(kAnswerTimeout).Succeeded()) << child.errors();
}

TEST_F(Backing, TheFileIsPrivateAndHoldsNothingUnderItsName) {
  Daemon daemon({.config = Config("max_pool_size=4M\n")});
  Child child(Managed(daemon, Subject("pages", {"--mib", "48"})));
  WaitReady(daemon, child);
  EvictAtLeast(daemon, child, 10000);
  struct stat info {};
  ASSERT_EQ(stat((directory_ / "file").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0600u);
  EXPECT_EQ(info.st_size, 0);
  daemon.Stop();
}

TEST_F(Backing, ADaemonThatCannotHaveItsFileSaysSoAndEnds) {
  std::string config = directory_ / "zmemd.conf";
  std::ofstream(config) << "[backing]\npath=" << directory_ / "missing/file"
                        << "\nsize=1G\n";
  CommandResult result = RunCommand(
      {.argv = {Runfile("zmemd/zmemd"), "--config", config, "--socket", directory_ / "socket"}},
      kAnswerTimeout);
  EXPECT_EQ(result.status.ToString(), "exit 1");
  EXPECT_THAT(result.errors, testing::HasSubstr("missing"));
  EXPECT_THAT(result.errors, testing::HasSubstr("required=no"));
}

TEST_F(Backing, ADaemonThatNeedsNoFileStartsWithoutIt) {
  Daemon daemon({.config = absl::StrCat(kEvictByHand, "[backing]\npath=",
                                        directory_ / "missing/file", "\nsize=1G\nrequired=no\n")});
  EXPECT_TRUE(daemon.Status().at("backing").is_null());
  daemon.Stop();
}

}  // namespace
}  // namespace zmem
