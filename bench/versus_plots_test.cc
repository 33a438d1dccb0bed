#include "bench/versus_plots.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace zmem {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(PlotScript, DrawsWhatIsBeyondALatencyInMicroseconds) {
  std::string script = PlotScript(
      {{"refault_ns", {{"zmem", {{50, 9000}, {99, 20500}}}, {"zram", {{50, 6000}}}}}}, "/folder");
  EXPECT_THAT(script, HasSubstr("$latency_zmem << END\n50 9\n1 20.5\nEND\n"));
  EXPECT_THAT(script, HasSubstr("$latency_zram << END\n50 6\nEND\n"));
  EXPECT_THAT(script, HasSubstr("set output '/folder/refault_latency.svg'"));
  EXPECT_THAT(script, Not(HasSubstr("throughput.svg")));
}

TEST(PlotScript, DrawsZmemAloneWhereThereIsNoZram) {
  std::string script = PlotScript(
      {{"random_per_s", {{{"share", 90}, {"zmem", 5e5}}, {{"share", 50}, {"zmem", 1e5}}}}},
      "/folder");
  EXPECT_THAT(script, HasSubstr("$rate_zmem << END\n90 500000\n50 100000\nEND\n"));
  EXPECT_THAT(script, HasSubstr("set output '/folder/throughput.svg'"));
  EXPECT_THAT(script, Not(HasSubstr("rate_zram")));
}

TEST(PlotScript, IsEmptyWithoutData) {
  EXPECT_EQ(PlotScript(nlohmann::json::object(), "/folder"), "");
}

}  // namespace
}  // namespace zmem
