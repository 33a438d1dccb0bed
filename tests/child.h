// A process under the control of the one that started it: its input is a pipe, its output is kept
// (and still there after its death), every wait is bounded, and it never outlives its owner.
// Not thread-safe. Start children from a thread that lives as long as they do: the kernel ends a
// child when the thread that made it ends (PR_SET_PDEATHSIG).
#pragma once

#include <sys/types.h>

#include <chrono>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "libzmem/base/sys.h"
#include "tests/error.h"

namespace zmem {

// How a process ended.
struct ExitStatus {
  bool signalled = false;
  int number = 0;  // the signal if signalled, else the exit code

  bool Succeeded() const { return !signalled && number == 0; }
  // "exit 3" or "signal 9 (Killed)".
  std::string ToString() const;
};

struct ChildOptions {
  std::vector<std::string> argv;           // argv[0] is looked up in PATH
  std::map<std::string, std::string> env;  // set on top of our own environment
  std::optional<uid_t> uid;                // run as this user, and as the group of the same number
  bool show_errors = false;                // leave stderr as ours instead of keeping it
};

class Child {
 public:
  // Starts it. Throws if the program cannot be executed.
  explicit Child(const ChildOptions& options);
  // Kills and reaps it if it still runs.
  ~Child();
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  pid_t pid() const { return pid_; }
  const std::string& name() const { return name_; }

  // What it has written so far to stdout and to stderr.
  std::string output() const;
  std::string errors() const;

  // Writes `line` and a newline to its stdin.
  void Send(const std::string& line);
  // The next line of its stdout, without the newline. Throws if it ends first or takes longer.
  std::string ReadLine(std::chrono::milliseconds timeout);
  // Send and ReadLine.
  std::string Ask(const std::string& line, std::chrono::milliseconds timeout);
  void CloseInput();

  void Signal(int signal);
  bool Running();
  // Waits for its end. Throws if it takes longer than `timeout`.
  ExitStatus Wait(std::chrono::milliseconds timeout);

 private:
  bool WaitFor(std::chrono::milliseconds timeout);

  std::string name_;
  pid_t pid_ = -1;
  UniqueFd pidfd_;
  UniqueFd input_;
  UniqueFd output_;
  UniqueFd errors_;
  size_t lines_read_bytes_ = 0;  // how far ReadLine has come in the output
  std::optional<ExitStatus> ended_;
};

struct CommandResult {
  ExitStatus status;
  std::string output;
  std::string errors;
};

// Runs a command to its end, with an empty stdin.
CommandResult RunCommand(const ChildOptions& options, std::chrono::milliseconds timeout);

}  // namespace zmem
