// What a benchmark ran on, for its first lines and its JSON: figures without it mean nothing.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace zmem {

// {"cpu", "cpus", "memory_bytes", "kernel"}
nlohmann::json Machine();

// The same as two lines for people.
void PrintMachine();

// Writes `result` to `path`; does nothing when it is empty. Throws HarnessError.
void WriteJson(const std::string& path, const nlohmann::json& result);

}  // namespace zmem
