// node: worker threads and forked processes check what they allocate, with forced collections.
#include "absl/strings/match.h"
#include "tests/real_programs/program.h"

namespace zmem {
namespace {

std::string RunNode(Stage& stage) {
  CommandResult result = stage.Run(
      {"node", "--expose-gc", Runfile("tests/real_programs/heap.js"), stage.brief() ? "4" : "16"});
  if (!absl::StrContains(result.output, "all right")) {
    throw HarnessError("node: " + result.output + result.errors);
  }
  return result.output;
}

}  // namespace

Program Node() {
  return {.name = "node",
          .what = "workers and child processes check a heap, forced GC",
          .packages = {"nodejs"},
          .is_installed = [] { return IsCommand("node"); },
          .run = RunNode,
          .in_test = true};
}

}  // namespace zmem
