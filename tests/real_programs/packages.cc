#include "tests/real_programs/packages.h"

#include <cstdio>
#include <set>
#include <string>

#include "absl/strings/str_join.h"

namespace zmem {
namespace {

constexpr std::chrono::minutes kInstallTimeout{15};

bool AptGet(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {"apt-get", "-y", "-qq"});
  CommandResult result = RunCommand(
      {.argv = arguments, .env = {{"DEBIAN_FRONTEND", "noninteractive"}, {"RUNLEVEL", "1"}}},
      kInstallTimeout);
  if (!result.status.Succeeded()) {
    std::fprintf(stderr, "%s: %s\n", absl::StrJoin(arguments, " ").c_str(),
                 Tail(result.errors, 5).c_str());
  }
  return result.status.Succeeded();
}

}  // namespace

void InstallMissing(const std::vector<Program>& programs) {
  std::set<std::string> packages;
  for (const Program& program : programs) {
    if (!program.is_installed()) {
      packages.insert(program.packages.begin(), program.packages.end());
    }
  }
  if (packages.empty()) return;
  std::fprintf(stderr, "installing with apt-get: %s\n", absl::StrJoin(packages, " ").c_str());
  if (!IsCommand("apt-get")) {
    std::fprintf(stderr, "this system has no apt-get; what is missing is skipped\n");
    return;
  }
  std::vector<std::string> install = {"install", "--no-install-recommends"};
  install.insert(install.end(), packages.begin(), packages.end());
  if (AptGet({"update"})) AptGet(install);
}

}  // namespace zmem
