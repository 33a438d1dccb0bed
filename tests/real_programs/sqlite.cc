// sqlite3 with a database in memory.
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/real_programs/program.h"

namespace zmem {
namespace {

std::string RunSqlite(Stage& stage) {
  CommandResult result =
      stage.Run({"sqlite3", "-batch", "-bail", "-cmd", ".parameter init", "-cmd",
                 absl::StrCat(".parameter set :rows ", stage.brief() ? 60'000 : 300'000),
                 ":memory:", ".read " + Runfile("tests/real_programs/database.sql")});
  if (!absl::StrContains(result.output, "integrity ok")) {
    throw HarnessError("sqlite3: " + result.output + result.errors);
  }
  return result.output;
}

}  // namespace

Program Sqlite() {
  return {.name = "sqlite3",
          .what = "database in memory, checksums, integrity_check",
          .packages = {"sqlite3"},
          .is_installed = [] { return IsCommand("sqlite3"); },
          .run = RunSqlite,
          .in_test = true};
}

}  // namespace zmem
