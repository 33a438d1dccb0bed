// What zmemctl prints for people, made of the daemon's JSON: summaries, tables, one-line results.
// Thread-safe: no state. Never fails: a field that is missing or odd reads as zero or "-", and no
// byte that a program chose (its name) reaches the terminal unescaped.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

namespace zmem {

// Rows of cells under a header, columns two blanks apart.
class Table {
 public:
  enum class Align { kLeft, kRight };
  struct Column {
    std::string title;
    Align align = Align::kRight;
  };

  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}
  // `cells` has as many as there are columns; missing ones are empty.
  void AddRow(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  // Leaves out the columns of this title.
  void Drop(absl::string_view title);
  // Lines without trailing blanks, each with its line feed.
  std::string Render() const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

// `text` with what could steer a terminal or mislead a reader as \xNN: control characters, bytes
// that are not UTF-8, invisible and direction-changing characters.
std::string Printable(absl::string_view text);

// "1,234,567".
std::string FormatCount(uint64_t count);

// The answers to the commands, as text with line feeds.
std::string RenderStatus(const nlohmann::json& status);
// A table no wider than `columns` if that can be had by leaving STALL out; 0 is any width.
std::string RenderProcesses(const nlohmann::json& processes, size_t columns = 0);
std::string RenderProcess(const nlohmann::json& process);
std::string RenderEvicted(pid_t pid, const nlohmann::json& result);
std::string RenderDrained(pid_t pid, const nlohmann::json& result);
std::string RenderThawed(pid_t pid, const nlohmann::json& result);
std::string RenderFrozen(pid_t pid);
std::string RenderHistogram(const nlohmann::json& histogram);
std::string RenderLimit(pid_t pid, const nlohmann::json& result);
std::string RenderSet(const nlohmann::json& result);
std::string RenderReloaded(const nlohmann::json& result);
std::string RenderVersion(const nlohmann::json& version);

}  // namespace zmem
