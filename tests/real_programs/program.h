// Programs as Debian ships them, each with a workload that checks itself.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "tests/real_programs/stage.h"

namespace zmem {

struct Program {
  std::string name;
  std::string what;                   // what is run, for people
  std::vector<std::string> packages;  // Debian packages that hold it
  std::function<bool()> is_installed;
  // Runs the workload on a stage and returns its result, some lines that must be the same managed
  // or not. Throws HarnessError when the program's own checks fail.
  std::function<std::string(Stage&)> run;
  bool in_test = false;  // part of the short selection that the test runs
};

// All of them, in the order in which they run.
std::vector<Program> RealPrograms();

// Each file next to this one makes its own.
Program Redis();
Program Memcached();
Program Postgres();
Program Sqlite();
Program Node();
Program Compiler();
std::vector<Program> PythonTests();
std::vector<Program> JavaCollectors();

// Whether `command` is found in PATH.
bool IsCommand(const std::string& command);

}  // namespace zmem
