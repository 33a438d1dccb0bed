// What a user gets to see when he calls zmemd and zmemctl: exit codes that scripts rely on, and
// messages that say what, where and what to do.
#include "tests/system_test.h"

namespace zmem {
namespace {

using ZmemctlCommand = SystemTest;

CommandResult RunZmemctl(const std::vector<std::string>& arguments) {
  std::vector<std::string> argv = {Runfile("zmemd/zmemctl")};
  argv.insert(argv.end(), arguments.begin(), arguments.end());
  return RunCommand({.argv = argv}, kAnswerTimeout);
}

TEST_F(ZmemctlCommand, WrongUsageExitsWith2) {
  Daemon daemon;
  for (const std::vector<std::string>& arguments : std::vector<std::vector<std::string>>{
           {}, {"frobnicate"}, {"evict"}, {"evict", "abc"}, {"drain", "-1"}, {"status", "--bad"}}) {
    CommandResult result = daemon.Ctl(arguments);
    EXPECT_EQ(result.status.ToString(), "exit 2") << (arguments.empty() ? "" : arguments[0]);
    EXPECT_NE(result.errors, "");
  }
}

TEST_F(ZmemctlCommand, UnknownAndUnmanagedProcessesExitWith3) {
  Daemon daemon;
  std::string unmanaged = std::to_string(getpid());
  std::string unknown = "4194305";  // above PID_MAX_LIMIT
  for (const std::string& pid : {unmanaged, unknown}) {
    for (const char* command : {"show", "evict", "drain"}) {
      CommandResult result = daemon.Ctl({command, pid});
      EXPECT_EQ(result.status.ToString(), "exit 3") << command << " " << pid;
      EXPECT_NE(result.errors.find(pid), std::string::npos) << result.errors;
    }
  }
}

TEST_F(ZmemctlCommand, WithoutADaemonExitsWith7) {
  TempDir directory;
  for (const char* command : {"status", "ps"}) {
    CommandResult result = RunZmemctl({"--socket", directory.File("zmemd.sock"), command});
    EXPECT_EQ(result.status.ToString(), "exit 7") << command;
    EXPECT_NE(result.errors.find(directory.path()), std::string::npos) << result.errors;
  }
}

TEST_F(ZmemctlCommand, ReadingCommandsPrintTheDocumentedFields) {
  Daemon daemon;
  Child child(Managed(daemon, Subject("pages", {"--mib", "128"})));
  WaitReady(daemon, child);
  EvictAtLeast(daemon, child, 128 * 256 * 9 / 10);
  ExpectOk(child, "verify");
  nlohmann::json status = daemon.Status();
  EXPECT_EQ(status.at("schema"), 1);
  for (const char* field : {"compressor", "held_bytes", "compressed_bytes", "original_bytes",
                            "limit_bytes", "objects", "same_filled_pages"}) {
    EXPECT_TRUE(status.at("pool").contains(field)) << field;
  }
  EXPECT_GT(status.at("metadata_bytes"), 0);
  EXPECT_GT(status.at("faults_total"), 0);
  nlohmann::json process = status.at("processes").at(0);
  EXPECT_EQ(process, daemon.Process(child.pid()));
  for (const char* field :
       {"pid", "comm", "state", "resident_bytes", "stored_pages", "staged_pages", "original_bytes",
        "compressed_bytes", "held_bytes", "same_filled_pages", "faults_total"}) {
    EXPECT_TRUE(process.contains(field)) << field;
  }
  for (const nlohmann::json& latency :
       {status.at("fault_latency_ns"), process.at("fault_latency_ns")}) {
    EXPECT_GT(latency.at("p50"), 0);
    EXPECT_GE(latency.at("p99"), latency.at("p50"));
    EXPECT_GE(latency.at("max"), latency.at("p99"));
  }
  CommandResult table = daemon.Ctl({"ps"});
  for (const char* column : {"PID", "COMM", "ALGORITHM", "RSS", "DATA", "COMPR", "TOTAL", "RATIO",
                             "SAME", "FAULTS", "P50", "P99"}) {
    EXPECT_NE(table.output.find(column), std::string::npos) << column;
  }
  for (const char* command : {"status", "version"}) {
    EXPECT_TRUE(daemon.Ctl({command}).status.Succeeded()) << command;
  }
  EXPECT_TRUE(daemon.Ctl({"show", std::to_string(child.pid())}).status.Succeeded());
}

struct BadConfig {
  const char* name;
  const char* text;
  int line;
  const char* hint;
};

class ZmemdConfiguration : public SystemTest, public testing::WithParamInterface<BadConfig> {};

CommandResult CheckConfig(const std::string& path) {
  return RunCommand({.argv = {Runfile("zmemd/zmemd"), "--config", path, "--check-config"}},
                    kAnswerTimeout);
}

TEST_P(ZmemdConfiguration, IsRefusedWithFileLineAndHint) {
  TempDir directory;
  std::string path = directory.Write("bad.conf", GetParam().text);
  CommandResult result = CheckConfig(path);
  EXPECT_EQ(result.status.ToString(), "exit 6") << result.errors;
  EXPECT_NE(result.errors.find(path + ":" + std::to_string(GetParam().line)), std::string::npos)
      << result.errors;
  EXPECT_NE(result.errors.find(GetParam().hint), std::string::npos) << result.errors;
  // It does not start with it either.
  CommandResult started = RunCommand({.argv = {Runfile("zmemd/zmemd"), "--config", path, "--socket",
                                               directory.File("zmemd.sock")}},
                                     kAnswerTimeout);
  EXPECT_EQ(started.status.ToString(), "exit 6") << started.errors;
}

INSTANTIATE_TEST_SUITE_P(
    All, ZmemdConfiguration,
    testing::Values(
        BadConfig{"MisspeltKey", "[pool]\nmax_pool_precent=20\n", 2, "max_pool_percent"},
        BadConfig{"KeyOfAnotherSection", "[pool]\ncold_age=5s\n", 2, "cold_age"},
        BadConfig{"MisspeltSection", "\n[polcy]\ncold_age=5s\n", 2, "policy"},
        BadConfig{"NotANumber", "[pool]\ncompressor=lz4\nmax_pool_percent=lots\n", 3,
                  "max_pool_percent"},
        BadConfig{"OutOfRange", "[pool]\nmax_pool_percent=101\n", 2, "max_pool_percent"},
        BadConfig{"UnknownCompressor", "[pool]\ncompressor=lz5\n", 2, "lz4"},
        BadConfig{"UnknownUnit", "[policy]\ncold_age=5 parsecs\n", 2, "cold_age"},
        BadConfig{"UnknownSize", "[policy]\nmin_resident=16Q\n", 2, "min_resident"},
        BadConfig{"NotABoolean", "[pool]\nsame_filled_pages_enabled=maybe\n", 2,
                  "same_filled_pages_enabled"}),
    [](const testing::TestParamInfo<BadConfig>& info) { return info.param.name; });

using ZmemdCommand = SystemTest;

TEST_F(ZmemdCommand, ChecksAGoodConfiguration) {
  TempDir directory;
  CommandResult result = CheckConfig(
      directory.Write("good.conf",
                      "# all there is\n[pool]\nmax_pool_percent=20\ncompressor=zstd\n"
                      "same_filled_pages_enabled=yes\n[policy]\ncold_age=30s\nscan_interval=5s\n"
                      "min_resident=1%\n"));
  EXPECT_TRUE(result.status.Succeeded()) << result.errors;
}

TEST_F(ZmemdCommand, AMissingConfigurationIsNamed) {
  TempDir directory;
  CommandResult result = CheckConfig(directory.File("none.conf"));
  EXPECT_EQ(result.status.ToString(), "exit 6");
  EXPECT_NE(result.errors.find("none.conf"), std::string::npos) << result.errors;
}

TEST_F(ZmemdCommand, WrongUsageExitsWith2) {
  EXPECT_EQ(
      RunCommand({.argv = {Runfile("zmemd/zmemd"), "--frobnicate"}}, kAnswerTimeout).status.number,
      2);
}

}  // namespace
}  // namespace zmem
