// How a test talks to its subject program: commands on stdin, one a line, each answered by one line
// on stdout. "ready" comes first; the program ends when its input does.
#pragma once

#include <cstdio>
#include <functional>
#include <iostream>
#include <map>
#include <string>

namespace zmem {

// Answers a command; "ok" (with whatever the test wants to know after it) is success.
using Command = std::function<std::string()>;

inline void Answer(const std::string& line) {
  std::printf("%s\n", line.c_str());
  std::fflush(stdout);
}

// Serves `commands` until end of input. Returns the program's exit code.
inline int ServeCommands(const std::map<std::string, Command>& commands) {
  Answer("ready");
  std::string line;
  while (std::getline(std::cin, line)) {
    auto command = commands.find(line);
    Answer(command == commands.end() ? "unknown command " + line : command->second());
  }
  return 0;
}

}  // namespace zmem
