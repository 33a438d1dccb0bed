#include "bench/versus_results.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace zmem {
namespace {

using ::testing::HasSubstr;

TEST(RatioSpread, IsOfThePairsRatiosAndNotOfTheMedians) {
  auto spread = RatioSpread({{1, 2}, {10, 10}, {9, 3}});
  ASSERT_TRUE(spread.has_value());
  EXPECT_DOUBLE_EQ(spread->median, 1);
  EXPECT_DOUBLE_EQ(spread->least, 0.5);
  EXPECT_DOUBLE_EQ(spread->most, 3);
}

TEST(RatioSpread, LeavesOutPairsWithoutAPeer) {
  EXPECT_DOUBLE_EQ(RatioSpread({{8, 2}, {1, std::nullopt}, {1, 0}})->most, 4);
  EXPECT_FALSE(RatioSpread({{1, std::nullopt}}).has_value());
  EXPECT_FALSE(RatioSpread({}).has_value());
}

TEST(Row, IsMetAtItsTarget) {
  const Row& most = RowOf("refault.p50");
  EXPECT_TRUE(most.Met(1.0));
  EXPECT_FALSE(most.Met(1.01));
  const Row& least = RowOf("scan.rate");
  EXPECT_TRUE(least.Met(4));
  EXPECT_FALSE(least.Met(3.99));
  EXPECT_EQ(most.case_name(), "refault");
}

TEST(FormatFigure, KeepsThreeDigitsAndGroupsThousands) {
  EXPECT_EQ(FormatFigure(0.4567), "0.457");
  EXPECT_EQ(FormatFigure(12.34), "12.3");
  EXPECT_EQ(FormatFigure(345.6), "346");
  EXPECT_EQ(FormatFigure(1234.5), "1,234");
  EXPECT_EQ(FormatFigure(1234567), "1,234,567");
}

class VersusResultsTest : public ::testing::Test {
 protected:
  VersusResultsTest() {
    results_.Add("scan.rate", {800, 100, 700});
    results_.Add("scan.rate", {300, 100, 900});
    results_.Add("scan.rate", {500, 100, std::nullopt});
    results_.Add("refault.p50", {10, 5});
    results_.NotMeasured("growth.rate", "there is no zram");
  }
  const std::vector<const Row*> selected_ = {&RowOf("scan.rate"), &RowOf("refault.p50"),
                                             &RowOf("growth.rate")};
  VersusResults results_;
};

TEST_F(VersusResultsTest, AMarkdownLineHasRatioSpreadTargetAndVerdict) {
  std::string text = results_.Markdown(selected_);
  EXPECT_THAT(text,
              HasSubstr("| 500 | 100 | zram | 5.00 | 3.00..8.00 | 3 | 8.00 | >= 4x | met |\n"));
  EXPECT_THAT(text, HasSubstr("| 10 | 5 | zram | 2.00 | 2.00..2.00 | 1 |  | <= 1x | missed |\n"));
  EXPECT_THAT(text, HasSubstr("| - | - | zram | - | - | 0 |  | >= 1.5x | not measured |\n"));
  EXPECT_THAT(text, HasSubstr("* 7 filling twice what may be resident: there is no zram\n"));
}

TEST_F(VersusResultsTest, TheTablesColumnsAreAligned) {
  std::string table = results_.Table(selected_);
  size_t first_line = table.find('\n');
  size_t ratio = table.find("ratio") + 5;
  size_t value = table.find("5.00") + 4;
  EXPECT_EQ(ratio, value - (first_line + 1));
}

TEST_F(VersusResultsTest, TheJsonHasEveryPairAndNullForWhatIsMissing) {
  results_.AddNote("a note");
  results_.details()["latency"] = {1, 2};
  nlohmann::json json = results_.Json(selected_);
  nlohmann::json scan = json.at("rows").at(0);
  EXPECT_EQ(scan.at("zmem"), nlohmann::json({800.0, 300.0, 500.0}));
  EXPECT_EQ(scan.at("peers"), nlohmann::json({100.0, 100.0, 100.0}));
  EXPECT_EQ(scan.at("ratio").at("median"), 5);
  EXPECT_EQ(scan.at("bare"), nlohmann::json({700.0, 900.0}));
  EXPECT_EQ(scan.at("bare_ratio").at("median"), 8);
  EXPECT_EQ(scan.at("met"), true);
  EXPECT_EQ(json.at("rows").at(1).at("met"), false);
  EXPECT_TRUE(json.at("rows").at(1).at("bare_ratio").is_null());
  nlohmann::json growth = json.at("rows").at(2);
  EXPECT_TRUE(growth.at("ratio").is_null());
  EXPECT_TRUE(growth.at("met").is_null());
  EXPECT_EQ(growth.at("not_measured"), "there is no zram");
  EXPECT_EQ(json.at("notes"), nlohmann::json({"a note"}));
  EXPECT_EQ(json.at("details").at("latency"), nlohmann::json({1, 2}));
}

}  // namespace
}  // namespace zmem
