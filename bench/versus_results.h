// What bench/versus_kernel has measured, and how it is written: pairs of runs by turns, their
// ratios, and the tables. Pure but for the recording; not thread-safe.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "bench/versus_rows.h"

namespace zmem {

// One repetition of both sides, one right after the other.
struct Pair {
  double zmem = 0;
  std::optional<double> peer;  // none where there is no peer
  std::optional<double> bare;  // of the bare system calls that zmem rests on, where measured
};

// Of the pairs' ratios zmem / peer, or bare / peer.
struct Spread {
  double median = 0;
  double least = 0;
  double most = 0;
};

// Over the pairs that have both figures, the peer's above 0; none if there is no such pair.
std::optional<Spread> RatioSpread(const std::vector<Pair>& pairs);
std::optional<Spread> BareRatioSpread(const std::vector<Pair>& pairs);

// Three digits, or all before the point, for 0 and more: "312,345", "12.3", "0.457".
std::string FormatFigure(double value);

class VersusResults {
 public:
  void Add(absl::string_view row, Pair pair);
  // Why a row, or a part of it, was not measured. The last word counts.
  void NotMeasured(absl::string_view row, std::string why);
  // What the tables do not say, below them.
  void AddNote(std::string note);
  // What else was measured, for the JSON and the plots.
  nlohmann::json& details() { return details_; }
  const nlohmann::json& details() const { return details_; }

  const std::vector<Pair>& PairsOf(absl::string_view row) const;

  // For a terminal: one line a row that is one of `selected`.
  std::string Table(const std::vector<const Row*>& selected) const;
  std::string Markdown(const std::vector<const Row*>& selected) const;
  // {"rows": [{"case", "name", "what", "unit", "peer", "relation", "target", "zmem": [..],
  //   "peers": [..], "bare": [..], "ratio": {"median", "min", "max"} or null, the same as
  //   "bare_ratio", "met": true, false or null, "not_measured": text or null}], "notes": [..],
  //   "details": {..}}
  nlohmann::json Json(const std::vector<const Row*>& selected) const;

 private:
  // The cells of a row's line.
  std::vector<std::string> Cells(const Row& row) const;
  std::string WhyNot(const Row& row) const;

  std::map<std::string, std::vector<Pair>> pairs_;
  std::map<std::string, std::string> not_measured_;
  std::vector<std::string> notes_;
  nlohmann::json details_ = nlohmann::json::object();
};

}  // namespace zmem
