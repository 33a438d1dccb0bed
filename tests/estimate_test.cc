// zmemctl estimate, of a program whose content and habits are known, and beside what zmemd then
// really saves of it.
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "libzmem/base/page.h"
#include "tests/system_test.h"

namespace zmem {
namespace {

using nlohmann::json;

constexpr int64_t kMib = 192;
constexpr int64_t kRegionBytes = kMib << 20;
constexpr uid_t kNobody = 65534;

class EstimateCommand : public SystemTest {
 protected:
  // Of a program, by a zmemctl without a zmemd.
  static CommandResult Run(const std::vector<std::string>& arguments, uid_t uid = 0) {
    TempDir directory;
    std::vector<std::string> argv = {directory.Share("zmemd/zmemctl"), "--socket",
                                     directory.File("none"), "estimate"};
    argv.insert(argv.end(), arguments.begin(), arguments.end());
    return RunCommand({.argv = argv, .uid = uid}, kAnswerTimeout);
  }
  static json Estimate(const Child& child, int seconds) {
    CommandResult result =
        Run({std::to_string(child.pid()), "--seconds", std::to_string(seconds), "--json"});
    EXPECT_TRUE(result.status.Succeeded()) << result.errors;
    return json::parse(result.output);
  }
  static std::vector<std::string> Habits(int touched_percent) {
    return Subject("habits", {"--mib", std::to_string(kMib), "--touched-percent",
                              std::to_string(touched_percent)});
  }
};

TEST_F(EstimateCommand, TellsContentAndHabitsOfAProgramThatIsNotManaged) {
  Child child({.argv = Habits(10)});
  ASSERT_EQ(child.ReadLine(kAnswerTimeout), "ready");
  json estimate = Estimate(child, 5);
  EXPECT_NEAR(estimate.at("same_filled_percent"), 25, 3);
  EXPECT_EQ(estimate.at("sampled_pages"), 4096);
  EXPECT_NEAR(estimate.at("eligible_bytes"), kRegionBytes, 4 << 20);
  json lz4 = estimate.at("codecs").at(0);
  EXPECT_EQ(lz4.at("codec"), "lz4");
  EXPECT_NEAR(lz4.at("incompressible_percent"), 25, 3);
  EXPECT_NEAR(lz4.at("ratio"), 2.4, 0.2);  // page_pattern.h
  ASSERT_EQ(estimate.at("ages").size(), 3u);
  for (const json& age : estimate.at("ages")) {
    double seconds = age.at("age_ns").get<double>() / 1e9;
    EXPECT_NEAR(age.at("cold_percent"), 100 - 10 * seconds, 3) << seconds;
  }
}

TEST_F(EstimateCommand, ForetellsWhatEvictingThenSaves) {
  Daemon daemon;
  Child child(Managed(daemon, Habits(0)));
  WaitReady(daemon, child);
  int64_t before = ResidentBytes(child.pid());
  json foretold = Estimate(child, 1).at("ages").back().at("savings").at(0);
  daemon.Evict(child.pid());
  json status = daemon.Status();
  json process = daemon.Process(child.pid());
  int64_t out = process.at("original_bytes");
  int64_t held = status.at("pool").at("held_bytes");
  int64_t metadata = status.at("metadata_bytes");
  auto near = [](int64_t real, const json& value, double percent) {
    EXPECT_NEAR(value.get<double>(), static_cast<double>(real),
                static_cast<double>(real) * percent / 100);
  };
  near(out, foretold.at("out_bytes"), 3);
  near(held, foretold.at("pool_bytes"), 4);
  near(metadata, foretold.at("metadata_bytes"), 30);
  int64_t net = before - ResidentBytes(child.pid()) - held - metadata;
  std::printf("net saved %ld KiB, foretold %s\n", net >> 10, foretold.dump().c_str());
  near(net, foretold.at("net_saved_bytes"), 5);
  EXPECT_LT(foretold.at("net_saved_error_bytes").get<double>(), static_cast<double>(net) * 0.05);

  // What is out now is still counted, and so nothing has changed; zmemd has to be asked for it.
  CommandResult result =
      daemon.Ctl({"estimate", std::to_string(child.pid()), "--seconds=1", "--json"});
  ASSERT_TRUE(result.status.Succeeded()) << result.errors;
  json again = json::parse(result.output);
  EXPECT_TRUE(again.at("already_out_known"));
  // A few pages the program itself may have wanted meanwhile.
  constexpr int kWantedPages = 10;
  EXPECT_NEAR(again.at("ages").at(0).at("already_out_bytes"), out, kWantedPages * kPageBytes);
  near(net, again.at("ages").at(0).at("savings").at(0).at("net_saved_bytes"), 5);
  EXPECT_LT(daemon.Process(child.pid()).at("faults_total"), kWantedPages)
      << "looking brought pages back";
  json without_daemon = Estimate(child, 1);
  EXPECT_FALSE(without_daemon.at("already_out_known"));
}

TEST_F(EstimateCommand, EndsWithTheExitCodeOfWhatWentWrong) {
  Child child({.argv = Habits(0)});
  ASSERT_EQ(child.ReadLine(kAnswerTimeout), "ready");
  std::string pid = std::to_string(child.pid());
  auto expect = [&](const CommandResult& result, const std::string& exit, const std::string& why) {
    EXPECT_EQ(result.status.ToString(), exit) << result.errors;
    EXPECT_NE(result.errors.find(why), std::string::npos) << result.errors;
    EXPECT_EQ(result.output, "");
  };
  expect(Run({"4194305"}), "exit 3", "no process 4194305");
  expect(Run({pid}, kNobody), "exit 4", "as its user or as root");
  expect(Run({pid, "--seconds", "0"}), "exit 2", "--seconds");
  expect(Run({pid, "--pages", "0"}), "exit 2", "--pages");
  expect(Run({"x"}), "exit 2", "not a process number");
  Child brief({.argv = {"sleep", "2"}});
  expect(Run({std::to_string(brief.pid()), "--seconds", "30"}), "exit 1", "ended while");
}

TEST_F(EstimateCommand, ATableForPeopleHasALineForEachAgeAndCodec) {
  Child child({.argv = Habits(0)});
  ASSERT_EQ(child.ReadLine(kAnswerTimeout), "ready");
  CommandResult result = Run({std::to_string(child.pid()), "--seconds", "2"});
  ASSERT_TRUE(result.status.Succeeded()) << result.errors;
  std::printf("%s", result.output.c_str());
  for (const char* part : {"UNTOUCHED", "NET SAVED", "   1.0 s  ", "   2.0 s  ", "zstd", " ± "}) {
    EXPECT_NE(result.output.find(part), std::string::npos) << part;
  }
  EXPECT_EQ(result.errors, "");
}

// Names in the answer, those of arrays' elements too.
void AddNames(const json& value, std::set<std::string>& names) {
  if (value.is_array()) {
    for (const json& element : value) AddNames(element, names);
  }
  if (!value.is_object()) return;
  for (const auto& [key, field] : value.items()) {
    names.insert(key);
    AddNames(field, names);
  }
}

TEST_F(EstimateCommand, EveryFigureIsDocumentedAndNoOther) {
  Child child({.argv = Habits(0)});
  ASSERT_EQ(child.ReadLine(kAnswerTimeout), "ready");
  std::set<std::string> told;
  AddNames(Estimate(child, 1), told);
  std::set<std::string> documented;
  std::ifstream file(Runfile("docs/statistics.md"));
  bool is_inside = false;
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("## ")) is_inside = line == "## estimate";
    if (!is_inside || !line.starts_with("| `")) continue;
    std::string cell = line.substr(2, line.find('|', 2) - 2);
    for (size_t at = 0; (at = cell.find('`', at)) != std::string::npos;) {
      size_t end = cell.find('`', at + 1);
      documented.insert(cell.substr(at + 1, end - at - 1));
      at = end + 1;
    }
  }
  EXPECT_EQ(told, documented);
}

}  // namespace
}  // namespace zmem
