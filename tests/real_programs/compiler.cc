// g++: compiles GoogleTest's sources as Debian ships them; the objects must be the same bit for
// bit.
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "tests/real_programs/program.h"

namespace zmem {
namespace {

constexpr char kSources[] = "/usr/src/googletest/";
// Each takes seconds, since the library attaches to nothing shorter.
constexpr const char* kFiles[] = {"googletest/src/gtest-all.cc", "googlemock/src/gmock-all.cc"};
constexpr const char* kBriefFiles[] = {"googlemock/src/gmock-spec-builders.cc"};

std::string RunCompiler(Stage& stage) {
  std::string digests;
  std::vector<const char*> files(std::begin(kFiles), std::end(kFiles));
  if (stage.brief()) files.assign(std::begin(kBriefFiles), std::end(kBriefFiles));
  for (const char* file : files) {
    std::string object = stage.directory().File("out.o");
    stage.Run({"g++", "-O2", "-g", "-c", absl::StrCat(kSources, file), "-o", object,
               absl::StrCat("-I", kSources, "googletest"),
               absl::StrCat("-I", kSources, "googletest/include"),
               absl::StrCat("-I", kSources, "googlemock"),
               absl::StrCat("-I", kSources, "googlemock/include")});
    std::string digest = stage.Run({"sha256sum", object}).output.substr(0, 64);
    absl::StrAppend(&digests, file, " ", digest, "\n");
  }
  return digests;
}

}  // namespace

Program Compiler() {
  return {.name = "g++",
          .what = "GoogleTest's sources, objects bit for bit",
          .packages = {"g++", "googletest"},
          .is_installed =
              [] {
                return IsCommand("g++") &&
                       access(absl::StrCat(kSources, kFiles[0]).c_str(), R_OK) == 0;
              },
          .run = RunCompiler,
          .in_test = true};
}

}  // namespace zmem
