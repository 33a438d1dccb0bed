// A short selection of `./bazelw run //tests:real_programs`: programs that are evicted all the time
// end as they end unmanaged. Those that are not installed are skipped.
#include <cctype>

#include "tests/real_programs/comparison.h"
#include "tests/system_test.h"

namespace zmem {
namespace {

std::vector<Program> ShortSelection() {
  std::vector<Program> programs = RealPrograms();
  std::erase_if(programs, [](const Program& program) { return !program.in_test; });
  return programs;
}

class RealProgram : public testing::TestWithParam<Program> {
 protected:
  void SetUp() override {
    std::string why = WhyUnsupported();
    if (!why.empty()) GTEST_SKIP() << why;
  }
};

TEST_P(RealProgram, EndsManagedAsItEndsUnmanaged) {
  Comparison comparison = Compare(GetParam(), true);
  if (comparison.verdict == Verdict::kSkipped) GTEST_SKIP() << comparison.reason;
  EXPECT_EQ(comparison.verdict, Verdict::kEqual) << comparison.reason;
  std::printf("%.1f s unmanaged, %.1f s managed, %ld pages evicted, %ld faults\n",
              comparison.unmanaged_s, comparison.managed_s, comparison.totals.evicted_pages,
              comparison.totals.faults);
}

// What the comparison itself is worth: programs that are known to be wrong.
class RealProgramComparison : public SystemTest {
 protected:
  static Comparison CompareRun(std::function<std::string(Stage&)> run) {
    return Compare({.name = "wrong", .is_installed = [] { return true; }, .run = std::move(run)},
                   true);
  }
};

TEST_F(RealProgramComparison, TellsResultsThatDiffer) {
  Comparison comparison = CompareRun([](Stage& stage) {
    stage.Run({"/usr/bin/python3", "-c",
               "import time\nx = [b'%d' % i * 4096 for i in range(2000)]\n"
               "for i in range(100): [y.count(b'7') for y in x[i::20]]; time.sleep(.02)"});
    return stage.Run({"/bin/sh", "-c", "echo preloaded: $LD_PRELOAD"}).output;
  });
  EXPECT_EQ(comparison.verdict, Verdict::kDifferent);
  EXPECT_NE(comparison.reason.find("managed:   preloaded: /"), std::string::npos)
      << comparison.reason;
}

TEST_F(RealProgramComparison, FailsWhenNothingWasTakenOut) {
  Comparison comparison = CompareRun([](Stage& stage) { return stage.Run({"true"}).output; });
  EXPECT_EQ(comparison.verdict, Verdict::kFailed);
  EXPECT_EQ(comparison.reason, "managed: no page was taken out");
}

TEST_F(RealProgramComparison, FailsWithAProgramThatFails) {
  Comparison comparison = CompareRun([](Stage& stage) { return stage.Run({"false"}).output; });
  EXPECT_EQ(comparison.verdict, Verdict::kFailed);
  EXPECT_NE(comparison.reason.find("false: exit 1"), std::string::npos) << comparison.reason;
}

INSTANTIATE_TEST_SUITE_P(All, RealProgram, testing::ValuesIn(ShortSelection()),
                         [](const testing::TestParamInfo<Program>& info) {
                           std::string name = info.param.name;
                           std::erase_if(name, [](unsigned char c) { return !std::isalnum(c); });
                           return name;
                         });

}  // namespace
}  // namespace zmem
