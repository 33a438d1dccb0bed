// What zmemctl tells of a daemon at work: that docs/statistics.md names every figure and no other,
// and that the histogram of sizes counts every stored page.
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "tests/system_test.h"

namespace zmem {
namespace {

using nlohmann::json;
using Names = std::set<std::string>;

constexpr int64_t kMib = 48;
constexpr int64_t kPages = kMib * 256;

// Every name in `value`, those of objects within it as "outer.inner". An array has one name.
void AddNames(const json& value, const std::string& prefix, Names& names) {
  for (const auto& [key, field] : value.items()) {
    bool has_own_row = key == "backing";
    if (!field.is_object() || has_own_row) names.insert(prefix + key);
    if (field.is_object()) AddNames(field, prefix + key + ".", names);
  }
}

Names NamesIn(const json& value) {
  Names names;
  AddNames(value, "", names);
  return names;
}

// The cells of the tables' rows in a section of docs/statistics.md.
std::vector<std::vector<std::string>> RowsOf(const std::string& section) {
  std::vector<std::vector<std::string>> rows;
  std::ifstream file(Runfile("docs/statistics.md"));
  bool is_inside = false;
  for (std::string line; std::getline(file, line);) {
    if (absl::StartsWith(line, "## ")) is_inside = line == "## " + section;
    bool is_row = absl::StartsWith(line, "| ") && !absl::StartsWith(line, "| name |") &&
                  !absl::StartsWith(line, "| there |");
    if (is_inside && is_row) rows.push_back(absl::StrSplit(line, '|'));
  }
  return rows;
}

// What stands between backticks in a cell.
Names QuotedIn(const std::string& cell) {
  Names names;
  std::vector<std::string> parts = absl::StrSplit(cell, '`');
  for (size_t i = 1; i < parts.size(); i += 2) names.insert(parts[i]);
  return names;
}

Names DocumentedIn(const std::string& section) {
  Names names;
  for (const auto& row : RowsOf(section)) names.merge(QuotedIn(row.at(1)));
  return names;
}

class Statistics : public SystemTest {
 protected:
  void SetUp() override {
    SystemTest::SetUp();
    if (IsSkipped()) return;
    daemon_ = std::make_unique<Daemon>(DaemonOptions{
        .config = std::string(kEvictByHand) + "[pool]\nmax_pool_size=8M\n[backing]\npath=" +
                  directory_.File("backing") + "\nsize=128M\n"});
    child_ = std::make_unique<Child>(
        Managed(*daemon_, Subject("pages", {"--mib", std::to_string(kMib)})));
    WaitReady(*daemon_, *child_);
    daemon_->Evict(child_->pid());
    ASSERT_GT(Stored(*daemon_, *child_), kPages / 4);
  }
  void TearDown() override { child_.reset(); }

  TempDir directory_;
  std::unique_ptr<Daemon> daemon_;
  std::unique_ptr<Child> child_;
};

TEST_F(Statistics, EveryFigureIsDocumentedAndNoOther) {
  json status = daemon_->Status();
  EXPECT_EQ(NamesIn(status), DocumentedIn("status"));
  json process = daemon_->CtlJson({"show", std::to_string(child_->pid()), "--json"});
  EXPECT_EQ(NamesIn(process), NamesIn(status.at("processes").at(0)));
  Names documented = DocumentedIn("ps and show");
  documented.erase("room_bytes");  // only with a limit
  Names real = NamesIn(process);
  real.erase("room_bytes");
  EXPECT_EQ(real, documented);
}

TEST_F(Statistics, TheWayBackFromZramAndZswapNamesRealFigures) {
  Names known = DocumentedIn("status");
  known.merge(DocumentedIn("ps and show"));
  known.insert("zmemctl histogram");
  auto rows = RowsOf("From zram and zswap");
  EXPECT_GT(rows.size(), 20u);
  for (const auto& row : rows) {
    for (const std::string& name : QuotedIn(row.at(2))) {
      EXPECT_TRUE(known.contains(name)) << name << " for" << row.at(1);
    }
  }
}

TEST_F(Statistics, TheHistogramCountsEveryStoredPage) {
  json histogram = daemon_->CtlJson({"histogram", std::to_string(child_->pid()), "--json"});
  json process = daemon_->Process(child_->pid());
  auto sum = [&](const char* tier) {
    int64_t pages = 0;
    for (int64_t count : histogram.at(tier)) pages += count;
    return pages;
  };
  // Upkeep may move a page from the pool to the file between the two looks, but none is lost.
  EXPECT_EQ(
      sum("pool_pages") + sum("disk_pages") + histogram.at("same_filled_pages").get<int64_t>(),
      process.at("stored_pages"));
  EXPECT_GT(sum("pool_pages"), 0);
  EXPECT_GT(sum("disk_pages"), 0);
  EXPECT_EQ(daemon_->Ctl({"histogram"}).status.ToString(), "exit 0");
  EXPECT_EQ(daemon_->Ctl({"histogram", std::to_string(getpid())}).status.ToString(), "exit 3");
}

}  // namespace
}  // namespace zmem
