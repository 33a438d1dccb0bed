// java: a program that checks its own heap, under every collector that the virtual machine has.
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/real_programs/program.h"

namespace zmem {
namespace {

std::string RunHeap(Stage& stage, const std::string& collector) {
  CommandResult result =
      stage.Run({"java", absl::StrCat("-XX:+Use", collector, "GC"), "-Xmx320m",
                 Runfile("tests/real_programs/Heap.java"), stage.brief() ? "3" : "6"});
  if (!absl::StrContains(result.output, "all right")) {
    throw HarnessError("java: " + result.output + result.errors);
  }
  return result.output;
}

bool HasCollector(const std::string& collector) {
  if (!IsCommand("java")) return false;
  return RunCommand({.argv = {"java", absl::StrCat("-XX:+Use", collector, "GC"), "-version"}},
                    std::chrono::seconds(60))
      .status.Succeeded();
}

}  // namespace

std::vector<Program> JavaCollectors() {
  std::vector<Program> programs;
  for (const char* collector : {"Serial", "Parallel", "G1", "Z", "Shenandoah"}) {
    programs.push_back({.name = absl::StrCat("java ", collector),
                        .what = "threads build, drop and check a heap of objects",
                        .packages = {"default-jdk-headless"},
                        .is_installed = [collector] { return HasCollector(collector); },
                        .run = [collector](Stage& stage) { return RunHeap(stage, collector); },
                        .in_test = absl::string_view(collector) == "G1"});
  }
  return programs;
}

}  // namespace zmem
