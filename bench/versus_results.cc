#include "bench/versus_results.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "bench/samples.h"

namespace zmem {
namespace {

const std::vector<std::string> kHeads = {"#",     "",         "unit",  "zmem", "peer",   "",
                                         "ratio", "min..max", "pairs", "bare", "target", ""};

double MedianOf(const std::vector<Pair>& pairs, bool peers) {
  std::vector<double> values;
  for (const Pair& pair : pairs) {
    if (!peers) values.push_back(pair.zmem);
    if (peers && pair.peer) values.push_back(*pair.peer);
  }
  return Median(values);
}

// As a terminal shows it: a µ is two bytes and one column.
size_t Columns(const std::string& text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char byte) {
    return (static_cast<unsigned char>(byte) & 0xc0) != 0x80;
  }));
}

std::string Target(const Row& row) {
  return absl::StrFormat("%s %gx", row.relation == Relation::kAtMost ? "<=" : ">=", row.target);
}

// Of what `figure` makes of a pair, over the peer's.
template <typename Figure>
std::optional<Spread> SpreadOver(const std::vector<Pair>& pairs, Figure figure) {
  std::vector<double> ratios;
  for (const Pair& pair : pairs) {
    std::optional<double> own = figure(pair);
    if (own && pair.peer && *pair.peer > 0) ratios.push_back(*own / *pair.peer);
  }
  if (ratios.empty()) return std::nullopt;
  auto [least, most] = std::minmax_element(ratios.begin(), ratios.end());
  return Spread{.median = Median(ratios), .least = *least, .most = *most};
}

nlohmann::json AsJson(const std::optional<Spread>& spread) {
  if (!spread) return nullptr;
  return {{"median", spread->median}, {"min", spread->least}, {"max", spread->most}};
}

}  // namespace

std::optional<Spread> RatioSpread(const std::vector<Pair>& pairs) {
  return SpreadOver(pairs, [](const Pair& pair) { return std::optional(pair.zmem); });
}

std::optional<Spread> BareRatioSpread(const std::vector<Pair>& pairs) {
  return SpreadOver(pairs, [](const Pair& pair) { return pair.bare; });
}

std::string FormatFigure(double value) {
  if (value < 100) return absl::StrFormat("%.3g", value);
  std::string digits = absl::StrFormat("%.0f", value);
  std::string grouped;
  for (size_t at = 0; at < digits.size(); ++at) {
    if (at > 0 && (digits.size() - at) % 3 == 0) grouped += ',';
    grouped += digits[at];
  }
  return grouped;
}

void VersusResults::Add(absl::string_view row, Pair pair) {
  pairs_[std::string(row)].push_back(pair);
}

void VersusResults::NotMeasured(absl::string_view row, std::string why) {
  not_measured_[std::string(row)] = std::move(why);
}

void VersusResults::AddNote(std::string note) { notes_.push_back(std::move(note)); }

const std::vector<Pair>& VersusResults::PairsOf(absl::string_view row) const {
  static const std::vector<Pair> kNone;
  auto found = pairs_.find(std::string(row));
  return found == pairs_.end() ? kNone : found->second;
}

std::string VersusResults::WhyNot(const Row& row) const {
  auto found = not_measured_.find(std::string(row.name));
  return found == not_measured_.end() ? "" : found->second;
}

std::vector<std::string> VersusResults::Cells(const Row& row) const {
  const std::vector<Pair>& pairs = PairsOf(row.name);
  std::optional<Spread> spread = RatioSpread(pairs);
  std::optional<Spread> bare = BareRatioSpread(pairs);
  std::string verdict = !spread ? "not measured" : row.Met(spread->median) ? "met" : "missed";
  return {absl::StrCat(row.number),
          std::string(row.what),
          std::string(row.unit),
          pairs.empty() ? "-" : FormatFigure(MedianOf(pairs, false)),
          spread ? FormatFigure(MedianOf(pairs, true)) : "-",
          std::string(row.peer),
          spread ? absl::StrFormat("%.2f", spread->median) : "-",
          spread ? absl::StrFormat("%.2f..%.2f", spread->least, spread->most) : "-",
          absl::StrCat(pairs.size()),
          bare ? absl::StrFormat("%.2f", bare->median) : "",
          Target(row),
          verdict};
}

std::string VersusResults::Table(const std::vector<const Row*>& selected) const {
  std::vector<std::vector<std::string>> lines = {kHeads};
  for (const Row* row : selected) lines.push_back(Cells(*row));
  std::vector<size_t> widths(kHeads.size());
  for (const auto& line : lines) {
    for (size_t at = 0; at < line.size(); ++at) {
      widths[at] = std::max(widths[at], Columns(line[at]));
    }
  }
  std::string table;
  for (const auto& line : lines) {
    for (size_t at = 0; at < line.size(); ++at) {
      std::string padding(widths[at] - Columns(line[at]), ' ');
      // Words to the left, figures to the right.
      bool is_figure = (at >= 3 && at <= 4) || (at >= 6 && at <= 9);
      absl::StrAppend(&table, at == 0 ? "" : "  ", is_figure ? padding : "", line[at],
                      is_figure || at + 1 == line.size() ? "" : padding);
    }
    absl::StrAppend(&table, "\n");
  }
  for (const Row* row : selected) {
    std::string why = WhyNot(*row);
    if (!why.empty()) absl::StrAppend(&table, row->number, " ", row->what, ": ", why, "\n");
  }
  for (const std::string& note : notes_) absl::StrAppend(&table, note, "\n");
  return table;
}

std::string VersusResults::Markdown(const std::vector<const Row*>& selected) const {
  std::string text = absl::StrCat("| ", absl::StrJoin(kHeads, " | "), " |\n|");
  for (size_t at = 0; at < kHeads.size(); ++at) absl::StrAppend(&text, "---|");
  absl::StrAppend(&text, "\n");
  for (const Row* row : selected) {
    absl::StrAppend(&text, "| ", absl::StrJoin(Cells(*row), " | "), " |\n");
  }
  absl::StrAppend(&text, "\n");
  for (const Row* row : selected) {
    std::string why = WhyNot(*row);
    if (!why.empty()) absl::StrAppend(&text, "* ", row->number, " ", row->what, ": ", why, "\n");
  }
  for (const std::string& note : notes_) absl::StrAppend(&text, "* ", note, "\n");
  return text;
}

nlohmann::json VersusResults::Json(const std::vector<const Row*>& selected) const {
  nlohmann::json rows = nlohmann::json::array();
  for (const Row* row : selected) {
    nlohmann::json zmem = nlohmann::json::array();
    nlohmann::json peers = nlohmann::json::array();
    nlohmann::json bare = nlohmann::json::array();
    for (const Pair& pair : PairsOf(row->name)) {
      zmem.push_back(pair.zmem);
      if (pair.peer) peers.push_back(*pair.peer);
      if (pair.bare) bare.push_back(*pair.bare);
    }
    nlohmann::json entry = {{"case", row->number},
                            {"name", std::string(row->name)},
                            {"what", std::string(row->what)},
                            {"unit", std::string(row->unit)},
                            {"peer", std::string(row->peer)},
                            {"relation", row->relation == Relation::kAtMost ? "<=" : ">="},
                            {"target", row->target},
                            {"zmem", zmem},
                            {"peers", peers},
                            {"bare", bare},
                            {"ratio", nullptr},
                            {"bare_ratio", AsJson(BareRatioSpread(PairsOf(row->name)))},
                            {"met", nullptr},
                            {"not_measured", nullptr}};
    if (std::optional<Spread> spread = RatioSpread(PairsOf(row->name))) {
      entry["ratio"] = AsJson(spread);
      entry["met"] = row->Met(spread->median);
    }
    if (std::string why = WhyNot(*row); !why.empty()) entry["not_measured"] = why;
    rows.push_back(entry);
  }
  return {{"rows", rows}, {"notes", notes_}, {"details", details_}};
}

}  // namespace zmem
