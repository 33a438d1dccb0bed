// CPython's own tests: each must end in a managed python3 as it ends in any other.
#include <unistd.h>

#include <fstream>
#include <regex>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tests/real_programs/program.h"

namespace zmem {
namespace {

// Debian's python3, whatever else comes first in PATH.
constexpr char kPython[] = "/usr/bin/python3.11";
constexpr char kTests[] = "/usr/lib/python3.11/test/test_mmap.py";
constexpr std::chrono::minutes kTimeout{10};

// One line per test, from the report that `-m test --junit-xml` writes: "test.test_mmap... ok".
std::string Outcomes(const std::string& report) {
  std::ifstream file(report);
  std::stringstream text;
  text << file.rdbuf();
  std::string contents = text.str();
  // A test that went well closes its tag at once; another holds what it ended with.
  static const std::regex kCase("<testcase name=\"([^\"]*)\"[^>]*?(/>|><(\\w+))");
  std::vector<std::string> lines;
  for (std::sregex_iterator at(contents.begin(), contents.end(), kCase), end; at != end; ++at) {
    std::string element = (*at)[3];
    bool good = element.empty() || absl::StartsWith(element, "system");
    lines.push_back(absl::StrCat((*at)[1].str(), " ", good ? "ok" : element));
  }
  if (lines.empty()) throw HarnessError("python3 reported no test: " + report);
  return absl::StrJoin(lines, "\n");
}

std::string RunTests(Stage& stage, const std::vector<std::string>& modules) {
  std::string report = stage.directory().File("report.xml");
  std::vector<std::string> argv = {
      kPython, "-m", "test", "--junit-xml", report, "--tempdir", stage.directory().path()};
  argv.insert(argv.end(), modules.begin(), modules.end());
  // Tests that fail make it fail; which ones is the result.
  CommandResult result = RunCommand(stage.Options(argv), kTimeout);
  if (result.status.signalled) {
    throw HarnessError(absl::StrCat("python3: ", result.status.ToString(), "\n",
                                    Tail(result.output, 20), "\n", Tail(result.errors, 20)));
  }
  return Outcomes(report);
}

Program PythonTest(const std::string& name, const std::vector<std::string>& modules, bool in_test) {
  return {.name = "python " + name,
          .what = absl::StrJoin(modules, " "),
          .packages = {"python3.11", "libpython3.11-testsuite"},
          .is_installed = [] { return access(kPython, X_OK) == 0 && access(kTests, R_OK) == 0; },
          .run = [modules](Stage& stage) { return RunTests(stage, modules); },
          .in_test = in_test};
}

}  // namespace

std::vector<Program> PythonTests() {
  return {
      // test_mmap ends before the library would attach by itself, so it comes last.
      PythonTest("memory", {"test_json", "test_zlib", "test_mmap"}, true),
      PythonTest("threads", {"test_threading"}, false),
      PythonTest("children", {"test_subprocess"}, false),
      PythonTest("workers", {"test_multiprocessing_fork"}, false),
      PythonTest("signals", {"test_signal"}, false),
  };
}

}  // namespace zmem
