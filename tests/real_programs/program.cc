#include "tests/real_programs/program.h"

#include <unistd.h>

#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace zmem {

std::vector<Program> RealPrograms() {
  std::vector<Program> programs = {Redis()};
  for (Program& program : PythonTests()) programs.push_back(std::move(program));
  programs.push_back(Sqlite());
  for (Program& program : JavaCollectors()) programs.push_back(std::move(program));
  programs.push_back(Postgres());
  programs.push_back(Node());
  programs.push_back(Compiler());
  programs.push_back(Memcached());
  return programs;
}

bool IsCommand(const std::string& command) {
  const char* path = getenv("PATH");
  for (absl::string_view directory : absl::StrSplit(path == nullptr ? "" : path, ':')) {
    if (access(absl::StrCat(directory, "/", command).c_str(), X_OK) == 0) return true;
  }
  return false;
}

}  // namespace zmem
