// Real programs with checks of their own, run as they are and then managed, with their pages taken
// out all the time; any difference is a failure.
//   real_programs [--only NAME]... [--short] [--json FILE]
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "tests/real_programs/comparison.h"
#include "tests/real_programs/packages.h"
#include "tests/real_programs/report.h"

namespace zmem {
namespace {

struct Arguments {
  std::vector<std::string> only;
  bool brief = false;
  std::string json_path;
};

bool IsWanted(const Program& program, const std::vector<std::string>& only) {
  return only.empty() || std::any_of(only.begin(), only.end(), [&](const std::string& name) {
           return absl::StartsWith(program.name, name);
         });
}

Comparison CompareVisibly(const Program& program, bool brief) {
  std::unique_ptr<RunLine> line;
  Comparison comparison =
      Compare(program, brief,
              {.started =
                   [&](const Stage& stage, bool managed) {
                     line = std::make_unique<RunLine>(program.name, managed, stage);
                   },
               .ended = [&] { line.reset(); }});
  std::printf("%s: %s\n", program.name.c_str(), VerdictName(comparison.verdict));
  std::fflush(stdout);
  return comparison;
}

int Main(const Arguments& arguments) {
  std::string unsupported = WhyUnsupported();
  if (!unsupported.empty()) throw HarnessError(unsupported);
  std::vector<Program> programs = RealPrograms();
  std::erase_if(programs, [&](const Program& p) { return !IsWanted(p, arguments.only); });
  if (programs.empty()) throw HarnessError("no program of that name; --help lists them");
  InstallMissing(programs);
  std::vector<Comparison> comparisons;
  for (const Program& program : programs) {
    comparisons.push_back(CompareVisibly(program, arguments.brief));
  }
  PrintTable(comparisons);
  if (!arguments.json_path.empty()) {
    WriteReport(arguments.json_path, arguments.brief, comparisons);
  }
  bool good = std::all_of(comparisons.begin(), comparisons.end(), [](const Comparison& c) {
    return c.verdict == Verdict::kEqual || c.verdict == Verdict::kSkipped;
  });
  return good ? 0 : 1;
}

std::string Names() {
  std::string names = "Programs:";
  for (const Program& program : RealPrograms()) names += "\n  " + program.name;
  return names;
}

}  // namespace
}  // namespace zmem

int main(int argc, char** argv) {
  zmem::Arguments arguments;
  CLI::App app(
      "Runs real programs as they are and then managed, with their pages taken out all the time.\n"
      "Ends with 1 if that makes any difference. Installs from Debian what is missing.");
  app.add_option("--only", arguments.only, "programs whose names start like this");
  app.add_flag("--short", arguments.brief, "less work for each, for a first look");
  app.add_option("--json", arguments.json_path, "also write the results here");
  app.footer(zmem::Names());
  CLI11_PARSE(app, argc, argv);
  try {
    return zmem::Main(arguments);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "real_programs: %s\n", error.what());
    return 1;
  }
}
