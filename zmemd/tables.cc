#include "zmemd/tables.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "libzmem/base/page.h"
#include "libzmem/base/quantity.h"
#include "zmemd/json_fields.h"

namespace zmem {
namespace {

using nlohmann::json;

// A character of UTF-8 at the front of a text.
struct Character {
  uint32_t code = 0;
  size_t bytes = 0;  // 0 when what is there is not UTF-8
};

Character FirstCharacter(absl::string_view text) {
  auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  if (byte(0) < 0x80) return {byte(0), 1};
  size_t bytes = byte(0) >= 0xf0 ? 4 : byte(0) >= 0xe0 ? 3 : 2;
  if (byte(0) < 0xc2 || byte(0) > 0xf4 || text.size() < bytes) return {};
  uint32_t code = byte(0) & (0xff >> (bytes + 1));
  for (size_t i = 1; i < bytes; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return {};
    code = code << 6 | (byte(i) & 0x3f);
  }
  constexpr uint32_t kSmallest[] = {0, 0, 0x80, 0x800, 0x10000};
  bool surrogate = code >= 0xd800 && code <= 0xdfff;
  if (code < kSmallest[bytes] || code > 0x10ffff || surrogate) return {};
  return {code, bytes};
}

// Control characters (C0, DEL, C1), and those that take no place or turn the direction of text.
bool IsUnseen(uint32_t code) {
  return code < 0x20 || (code >= 0x7f && code <= 0xa0) || code == 0xad ||
         (code >= 0x200b && code <= 0x200f) || (code >= 0x2028 && code <= 0x202f) ||
         (code >= 0x2060 && code <= 0x206f) || code == 0xfeff || code >= 0xe0000;
}

// How many places `text` takes, as far as each character takes one.
size_t Width(absl::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xc0) != 0x80;
  }));
}

// For a cell of a table: "412.3 MiB" as "412.3M", "3.31 µs" as "3.31µs".
std::string Compact(absl::string_view quantity) {
  return absl::StrReplaceAll(quantity, {{" ", ""}, {"iB", ""}});
}
std::string CompactBytes(const json& object, const char* key) {
  return Compact(FormatBytes(CountAt(object, key)));
}
// "-" where nothing was measured yet.
std::string CompactLatency(const json& latency_ns, const char* key) {
  uint64_t ns = CountAt(latency_ns, key);
  return ns == 0 ? "-" : Compact(FormatDuration(ns));
}

std::string CompactLimit(const json& process) {
  return CountAt(process, "limit_bytes") == 0 ? "-" : CompactBytes(process, "limit_bytes");
}

// Of wall time, in percent: what threads wait for pages, and what they may.
std::string StallPercent(const json& process) {
  return absl::StrFormat("%.2f", static_cast<double>(CountAt(process, "stall_ppm")) / 10'000);
}
std::string StallTarget(const json& process) {
  return absl::StrFormat("%g", NumberAt(process, "stall_target_percent"));
}

size_t WidestLine(absl::string_view text) {
  size_t widest = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) widest = std::max(widest, Width(line));
  return widest;
}

std::string Ratio(uint64_t original_bytes, uint64_t held_bytes) {
  if (held_bytes == 0) return "-";
  return absl::StrFormat("%.2f",
                         static_cast<double>(original_bytes) / static_cast<double>(held_bytes));
}

std::string Percent(uint64_t part, uint64_t whole) {
  if (whole == 0) return "-";
  return absl::StrFormat("%.1f %%", 100.0 * static_cast<double>(part) / static_cast<double>(whole));
}

std::string Pages(uint64_t pages) {
  return absl::StrCat(FormatCount(pages), pages == 1 ? " page" : " pages");
}
std::string PagesAndBytes(uint64_t pages) {
  return absl::StrCat(Pages(pages), " (", FormatBytes(pages * kPageBytes), ")");
}

// Label and value, a line each, the values below one another.
class Summary {
 public:
  void Add(std::string label, std::string value) {
    width_ = std::max(width_, Width(label));
    lines_.emplace_back(std::move(label), std::move(value));
  }
  std::string Render() const {
    std::string text;
    for (const auto& [label, value] : lines_) {
      absl::StrAppend(&text, label, std::string(width_ - Width(label) + 2, ' '), value, "\n");
    }
    return text;
  }

 private:
  std::vector<std::pair<std::string, std::string>> lines_;
  size_t width_ = 0;
};

// The parts of a latency object: "p50 3.31 µs, p99 10.20 µs, max 1.20 ms".
std::string Latency(const json& latency_ns) {
  std::string text;
  for (const char* part : {"p50", "p99", "max"}) {
    absl::StrAppend(&text, text.empty() ? "" : ", ", part, " ",
                    FormatDuration(CountAt(latency_ns, part)));
  }
  return text;
}

// A field of any name: its suffix says the unit.
std::string FieldText(absl::string_view key, const json& value) {
  if (value.is_number_integer() && value >= 0) {
    uint64_t number = CountOf(value);
    if (absl::EndsWith(key, "_bytes")) return FormatBytes(number);
    if (absl::EndsWith(key, "_ns")) return FormatDuration(number);
    return key == "pid" ? absl::StrCat(number) : FormatCount(number);
  }
  if (value.is_boolean()) return value.get<bool>() ? "yes" : "no";
  if (value.is_string()) return Printable(value.get_ref<const std::string&>());
  if (absl::EndsWith(key, "latency_ns")) return Latency(value);
  return Printable(value.dump(-1, ' ', false, json::error_handler_t::replace));
}

std::string FieldLabel(absl::string_view key) {
  if (!absl::ConsumeSuffix(&key, "_bytes")) absl::ConsumeSuffix(&key, "_ns");
  return absl::StrReplaceAll(Printable(key), {{"_", " "}});
}

// What the host is short of, and what was asked of programs for it.
void AddHost(const json& host, Summary& summary) {
  if (host.empty()) return;
  bool is_short = host.contains("is_short") && host["is_short"] == true;
  summary.Add("host memory",
              absl::StrCat(FormatBytes(CountAt(host, "available_bytes")), " available; ",
                           is_short ? "SHORT, until " : "short below ",
                           FormatBytes(CountAt(host, is_short ? "high_bytes" : "low_bytes"))));
  summary.Add("reclaim mode", absl::StrCat(Printable(StringAt(host, "reclaim_mode", "-")), "; ",
                                           FormatCount(CountAt(host, "squeezed_processes")),
                                           " processes give pages when the host is short"));
  summary.Add(
      "pressure",
      absl::StrCat("short ", FormatCount(CountAt(host, "shortages")), " times, stalls told ",
                   FormatCount(CountAt(host, "stall_events")), " times; ",
                   FormatCount(CountAt(host, "asked_pages")), " pages asked for, ",
                   FormatCount(CountAt(host, "wanted_pages")), " still"));
}

// What the pool did not take, and what compaction did.
void AddPoolWork(const json& pool, Summary& summary) {
  // Every refusal by the pool's limit begins one that lasts until the pool has shrunk.
  uint64_t full = CountAt(pool, "pool_full_rejects");
  uint64_t at_limit = std::min(CountAt(pool, "limit_rejects"), full);
  summary.Add("refused by pool",
              absl::StrCat(FormatCount(at_limit), " at its limit, ", FormatCount(full - at_limit),
                           " after that until it had shrunk to ",
                           FormatBytes(CountAt(pool, "accept_bytes"))));
  summary.Add("incompressible",
              absl::StrCat(Pages(CountAt(pool, "incompressible_rejects")), " left in programs"));
  summary.Add("compaction",
              absl::StrCat(FormatCount(CountAt(pool, "compaction_rounds")), " rounds gave back ",
                           FormatBytes(CountAt(pool, "compacted_bytes")), "; ",
                           FormatBytes(CountAt(pool, "reclaimable_bytes")), " to be gained now"));
  summary.Add("recompressed",
              absl::StrCat(FormatCount(CountAt(pool, "recompressed_objects")), " objects, ",
                           FormatBytes(CountAt(pool, "recompressed_bytes")), " smaller, in ",
                           FormatDuration(CountAt(pool, "recompress_cpu_ns")), " of CPU time"));
  summary.Add(
      "clean pages",
      absl::StrCat(FormatCount(CountAt(pool, "clean_pages")), " kept in ",
                   FormatBytes(CountAt(pool, "clean_bytes")), "; ",
                   FormatCount(CountAt(pool, "clean_reused_pages")), " went out again unchanged, ",
                   FormatCount(CountAt(pool, "clean_changed_pages")), " changed"));
}

void AddBackingTraffic(const json& file, Summary& summary) {
  summary.Add("  read", absl::StrCat(FormatBytes(CountAt(file, "bytes_read")), ", ",
                                     FormatCount(CountAt(file, "reads")), " objects"));
  std::string left;
  if (file.contains("daily_left_bytes") && !file["daily_left_bytes"].is_null()) {
    left = absl::StrCat("; ", FormatBytes(CountAt(file, "daily_left_bytes")), " left for the day");
  }
  summary.Add("  written", absl::StrCat(FormatBytes(CountAt(file, "bytes_written")), ", ",
                                        FormatCount(CountAt(file, "writes")), " objects", left));
  summary.Add("  came as",
              absl::StrCat(Pages(CountAt(file, "fat_pages")), " too fat, ",
                           FormatCount(CountAt(file, "spilled_pages")), " past a full pool, ",
                           FormatCount(CountAt(file, "written_back_pages")), " from the pool"));
  summary.Add("  refused",
              absl::StrCat(FormatCount(CountAt(file, "busy_rejects")), " busy, ",
                           FormatCount(CountAt(file, "full_rejects")), " full, ",
                           FormatCount(CountAt(file, "limit_rejects")), " over the daily limit, ",
                           FormatCount(CountAt(file, "suspended_rejects")), " suspended"));
  summary.Add("  errors",
              absl::StrCat(FormatCount(CountAt(file, "read_errors")), " reading, ",
                           FormatCount(CountAt(file, "write_errors")), " writing, ",
                           FormatCount(CountAt(file, "checksum_errors")), " wrong checksums"));
}

void AddBacking(const json& status, Summary& summary) {
  json file = ObjectAt(status, "backing");
  if (file.empty()) return summary.Add("backing file", "none");
  auto suspended = file.find("suspended");
  bool is_suspended = suspended != file.end() && *suspended == json(true);
  summary.Add("backing file", absl::StrCat(Printable(StringAt(file, "path", "-")),
                                           is_suspended ? "  WRITING IS SUSPENDED" : ""));
  uint64_t size = CountAt(file, "size_bytes");
  uint64_t held = CountAt(file, "held_bytes");
  summary.Add("  size", FormatBytes(size));
  summary.Add("  used", absl::StrCat(FormatBytes(held), ", ", Percent(held, size)));
  summary.Add("  live", absl::StrCat(FormatBytes(CountAt(file, "live_bytes")), " in ",
                                     FormatCount(CountAt(file, "objects")), " objects"));
  AddBackingTraffic(file, summary);
}

uint64_t Sum(const json& counts) {
  uint64_t sum = 0;
  if (counts.is_array()) {
    for (const json& count : counts) sum += CountOf(count);
  }
  return sum;
}

// A bar for each row of a histogram, the longest of kBarPlaces; a row that is not empty has one
// place at least. `all` is what shares are of.
std::string Bars(const json& pages, uint64_t row_bytes, uint64_t all) {
  constexpr uint64_t kBarPlaces = 40;
  if (!pages.is_array()) return "";
  uint64_t most = 1;
  for (const json& count : pages) most = std::max(most, CountOf(count));
  Table table({{"BYTES"}, {"PAGES"}, {"SHARE"}, {"", Table::Align::kLeft}});
  for (size_t row = 0; row < pages.size(); ++row) {
    uint64_t count = CountOf(pages[row]);
    double part = static_cast<double>(count) / static_cast<double>(most);
    auto places = static_cast<size_t>(std::ceil(part * kBarPlaces));
    table.AddRow({absl::StrCat(row * row_bytes + 1, "-", (row + 1) * row_bytes), FormatCount(count),
                  Percent(count, all), std::string(places, '#')});
  }
  return table.Render();
}

}  // namespace

void Table::Drop(absl::string_view title) {
  for (size_t i = columns_.size(); i-- > 0;) {
    if (columns_[i].title != title) continue;
    columns_.erase(columns_.begin() + static_cast<ptrdiff_t>(i));
    for (auto& row : rows_) {
      if (i < row.size()) row.erase(row.begin() + static_cast<ptrdiff_t>(i));
    }
  }
}

std::string Table::Render() const {
  std::vector<size_t> widths;
  for (const Column& column : columns_) widths.push_back(Width(column.title));
  for (const auto& row : rows_) {
    for (size_t i = 0; i < std::min(row.size(), widths.size()); ++i) {
      widths[i] = std::max(widths[i], Width(row[i]));
    }
  }
  std::string text;
  auto append = [&](auto&& cell_at) {
    std::string line;
    for (size_t i = 0; i < columns_.size(); ++i) {
      std::string cell = cell_at(i);
      std::string blanks(widths[i] - Width(cell), ' ');
      bool right = columns_[i].align == Align::kRight;
      absl::StrAppend(&line, i == 0 ? "" : "  ", right ? blanks : "", cell, right ? "" : blanks);
    }
    absl::StrAppend(&text, absl::StripTrailingAsciiWhitespace(line), "\n");
  };
  append([&](size_t i) { return columns_[i].title; });
  for (const auto& row : rows_) append([&](size_t i) { return i < row.size() ? row[i] : ""; });
  return text;
}

std::string Printable(absl::string_view text) {
  std::string printable;
  while (!text.empty()) {
    Character first = FirstCharacter(text);
    size_t bytes = std::max<size_t>(first.bytes, 1);
    bool seen = first.bytes > 0 && !IsUnseen(first.code);
    for (char c : text.substr(0, bytes)) {
      if (seen) {
        printable += c;
      } else {
        absl::StrAppendFormat(&printable, "\\x%02x", static_cast<unsigned char>(c));
      }
    }
    text.remove_prefix(bytes);
  }
  return printable;
}

std::string FormatCount(uint64_t count) {
  std::string digits = absl::StrCat(count);
  for (size_t i = digits.size(); i > 3; i -= 3) digits.insert(i - 3, 1, ',');
  return digits;
}

std::string RenderStatus(const json& status) {
  json pool = ObjectAt(status, "pool");
  uint64_t held = CountAt(pool, "held_bytes");
  uint64_t limit = CountAt(pool, "limit_bytes");
  uint64_t original = CountAt(pool, "original_bytes");
  auto processes = status.find("processes");
  size_t managed = processes != status.end() && processes->is_array() ? processes->size() : 0;
  Summary summary;
  summary.Add("processes", managed == 0 ? "none managed" : absl::StrCat(managed, " managed"));
  summary.Add("compressor", Printable(StringAt(pool, "compressor", "-")));
  summary.Add("stored", absl::StrCat(FormatBytes(original), " of program memory in ",
                                     FormatCount(CountAt(pool, "objects")), " objects"));
  summary.Add("compressed", FormatBytes(CountAt(pool, "compressed_bytes")));
  summary.Add("held", absl::StrCat(FormatBytes(held), ", ", Percent(held, limit),
                                   " of the pool's limit of ", FormatBytes(limit)));
  summary.Add("metadata", FormatBytes(CountAt(status, "metadata_bytes")));
  // What is on disk is stored too, but is none of the pool's merit.
  uint64_t on_disk = CountAt(ObjectAt(status, "backing"), "disk_pages") * kPageBytes;
  summary.Add("ratio", absl::StrCat(Ratio(original - std::min(on_disk, original), held),
                                    " (stored in memory to held)"));
  summary.Add("same-filled", PagesAndBytes(CountAt(pool, "same_filled_pages")));
  summary.Add("faults", FormatCount(CountAt(status, "faults_total")));
  summary.Add("fault latency", Latency(ObjectAt(status, "fault_latency_ns")));
  AddPoolWork(pool, summary);
  AddBacking(status, summary);
  AddHost(ObjectAt(status, "host"), summary);
  return summary.Render();
}

std::string RenderProcesses(const json& processes, size_t columns) {
  if (!processes.is_array() || processes.empty()) {
    return "no managed process; start one with LD_PRELOAD=libzmem.so PROGRAM\n";
  }
  constexpr auto kLeft = Table::Align::kLeft;
  Table table({{"PID"},
               {"COMM", kLeft},
               {"ALGORITHM", kLeft},
               {"RSS"},
               {"LIMIT"},
               {"DATA"},
               {"COMPR"},
               {"TOTAL"},
               {"RATIO"},
               {"SAME"},
               {"DISK"},
               {"FAULTS"},
               {"P50"},
               {"P99"},
               {"STALL"}});
  for (const json& process : processes) {
    json latency_ns = ObjectAt(process, "fault_latency_ns");
    table.AddRow({absl::StrCat(CountAt(process, "pid")), Printable(StringAt(process, "comm", "-")),
                  Printable(StringAt(process, "algorithm", "-")),
                  CompactBytes(process, "resident_bytes"), CompactLimit(process),
                  CompactBytes(process, "original_bytes"),
                  CompactBytes(process, "compressed_bytes"), CompactBytes(process, "held_bytes"),
                  Ratio(CountAt(process, "original_bytes"), CountAt(process, "held_bytes")),
                  absl::StrCat(CountAt(process, "same_filled_pages")),
                  absl::StrCat(CountAt(process, "disk_pages")),
                  absl::StrCat(CountAt(process, "faults_total")), CompactLatency(latency_ns, "p50"),
                  CompactLatency(latency_ns, "p99"),
                  absl::StrCat(StallPercent(process), "/", StallTarget(process))});
  }
  std::string text = table.Render();
  if (columns != 0 && WidestLine(text) > columns) {
    table.Drop("STALL");
    text = table.Render();
  }
  return text;
}

namespace {

// What is promised of the process, and how it is kept: each line is made of the fields that
// `shown` then names.
void AddPolicy(const json& process, Summary& summary, std::set<absl::string_view>& shown) {
  if (!process.is_object() || !process.contains("stall_target_percent")) return;
  uint64_t limit = CountAt(process, "limit_bytes");
  std::string source = StringAt(process, "limit_source", "none");
  std::string by = source == "none" ? "" : absl::StrCat(", set by ", Printable(source));
  summary.Add("limit", absl::StrCat(limit == 0 ? "none" : FormatBytes(limit), by));
  summary.Add("  overshoot", absl::StrCat(FormatBytes(CountAt(process, "max_overshoot_bytes")),
                                          " at most so far"));
  summary.Add("mode", Printable(StringAt(process, "mode", "-")));
  summary.Add("stall",
              absl::StrCat(StallPercent(process), " % of the time, target ", StallTarget(process),
                           " %; ", FormatDuration(CountAt(process, "stall_ns")), " in all"));
  summary.Add("  rate",
              absl::StrCat(FormatCount(CountAt(process, "rate_pages_per_s")), " pages/s, raised ",
                           FormatCount(CountAt(process, "rate_raises")), " times, cut ",
                           FormatCount(CountAt(process, "rate_cuts")), " times"));
  summary.Add("  probes",
              absl::StrCat(FormatCount(CountAt(process, "probe_faults")), " faults, which cost ",
                           FormatDuration(CountAt(process, "probe_cost_ns"))));
  summary.Add("cold pages",
              absl::StrCat(PagesAndBytes(CountAt(process, "cold_pages")), ", unwanted for ",
                           FormatDuration(CountAt(process, "cold_age_ns"))));
  shown.insert({"limit_bytes", "limit_source", "max_overshoot_bytes", "mode",
                "stall_target_percent", "stall_ppm", "stall_ns", "rate_pages_per_s", "rate_raises",
                "rate_cuts", "probe_faults", "probe_cost_ns", "cold_pages", "cold_age_ns"});
}

}  // namespace

std::string RenderProcess(const json& process) {
  // What a reader looks for comes first; whatever else the daemon tells follows.
  constexpr const char* kFirst[] = {"pid",
                                    "comm",
                                    "state",
                                    "algorithm",
                                    "resident_bytes",
                                    "original_bytes",
                                    "compressed_bytes",
                                    "held_bytes",
                                    "stored_pages",
                                    "staged_pages",
                                    "same_filled_pages",
                                    "disk_pages",
                                    "disk_bytes",
                                    "faults_total",
                                    "disk_faults",
                                    "fault_latency_ns"};
  Summary summary;
  std::set<absl::string_view> shown(std::begin(kFirst), std::end(kFirst));
  for (const char* key : kFirst) {
    if (process.contains(key)) summary.Add(FieldLabel(key), FieldText(key, process[key]));
    if (key == absl::string_view("held_bytes")) {
      summary.Add("ratio",
                  Ratio(CountAt(process, "original_bytes"), CountAt(process, "held_bytes")));
    }
  }
  if (!process.is_object()) return summary.Render();
  AddPolicy(process, summary, shown);
  for (const auto& [key, value] : process.items()) {
    if (shown.contains(key)) continue;
    summary.Add(FieldLabel(key), FieldText(key, value));
  }
  return summary.Render();
}

std::string RenderEvicted(pid_t pid, const json& result) {
  return absl::StrCat(pid, ": ", PagesAndBytes(CountAt(result, "evicted_pages")), " taken out, ",
                      FormatCount(CountAt(result, "skipped_pages")), " skipped; now ",
                      FormatCount(CountAt(result, "stored_pages")), " stored, ",
                      FormatCount(CountAt(result, "staged_pages")), " staged, ",
                      FormatBytes(CountAt(result, "resident_bytes")), " resident\n");
}

std::string RenderDrained(pid_t pid, const json& result) {
  return absl::StrCat(pid, ": ", PagesAndBytes(CountAt(result, "restored_pages")),
                      " put back; it is no longer managed\n");
}

std::string RenderThawed(pid_t pid, const json& result) {
  return absl::StrCat(pid, ": ", PagesAndBytes(CountAt(result, "restored_pages")),
                      " put back; nothing is taken out until zmemctl freeze ", pid, "\n");
}

std::string RenderFrozen(pid_t pid) { return absl::StrCat(pid, ": pages are taken out again\n"); }

std::string RenderHistogram(const json& histogram) {
  json none = json::array();
  const json& in_pool =
      histogram.is_object() && histogram.contains("pool_pages") ? histogram["pool_pages"] : none;
  const json& on_disk =
      histogram.is_object() && histogram.contains("disk_pages") ? histogram["disk_pages"] : none;
  uint64_t row_bytes = CountAt(histogram, "row_bytes");
  uint64_t same_filled = CountAt(histogram, "same_filled_pages");
  uint64_t pool_pages = Sum(in_pool);
  uint64_t disk_pages = Sum(on_disk);
  uint64_t all = same_filled + pool_pages + disk_pages;
  auto share = [all](uint64_t pages) {
    return absl::StrCat(PagesAndBytes(pages), all == 0 ? "" : ", ",
                        all == 0 ? "" : Percent(pages, all));
  };
  Summary summary;
  summary.Add("stored", PagesAndBytes(all));
  summary.Add("same-filled", share(same_filled));
  summary.Add("in the pool", share(pool_pages));
  summary.Add("on disk", share(disk_pages));
  std::string text = summary.Render();
  if (pool_pages > 0) {
    absl::StrAppend(&text, "\nin the pool, by compressed size\n", Bars(in_pool, row_bytes, all));
  }
  if (disk_pages > 0) {
    absl::StrAppend(&text, "\non disk, by compressed size\n", Bars(on_disk, row_bytes, all));
  }
  return text;
}

std::string RenderLimit(pid_t pid, const json& result) {
  uint64_t limit = CountAt(result, "limit_bytes");
  return absl::StrCat(
      pid, ": ", limit == 0 ? "no limit" : absl::StrCat("limit ", FormatBytes(limit)),
      " from now on, ", FormatBytes(CountAt(result, "resident_bytes")), " resident; ",
      FormatBytes(CountAt(result, "must_stay_bytes")), " must stay\n");
}

std::string RenderSet(const json& result) {
  uint64_t held = CountAt(result, "held_bytes");
  uint64_t limit = CountAt(result, "limit_bytes");
  std::string how = StringAt(result, "shrinks_by", "nothing");
  std::string shrinks;
  if (how == "writeback") {
    shrinks = "; what is above it is being written back to the backing file";
  } else if (how == "suspended writeback") {
    shrinks = "; writing to the backing file is suspended, what is above it waits for that";
  } else if (how == "refaults") {
    shrinks = "; there is no backing file, so it shrinks as pages are wanted back";
  }
  return absl::StrCat(
      Printable(StringAt(result, "key", "?")), "=", Printable(StringAt(result, "value", "?")),
      ": the pool holds ", FormatBytes(held), " of its limit of ", FormatBytes(limit), shrinks,
      "; once full it accepts pages again at ", FormatBytes(CountAt(result, "accept_bytes")), "\n");
}

std::string RenderReloaded(const json& result) {
  auto list = [&result](const char* key) {
    std::vector<std::string> words;
    auto found = result.is_object() ? result.find(key) : result.end();
    if (found == result.end() || !found->is_array()) return std::string();
    for (const json& word : *found) words.push_back(FieldText("pid", word));
    return absl::StrJoin(words, ", ");
  };
  Summary summary;
  std::string files = list("files");
  summary.Add("read", files.empty() ? "no file: everything has its default" : files);
  summary.Add("processes", absl::StrCat(FormatCount(CountAt(result, "processes")), " managed"));
  for (auto [key, label] : {std::pair("let_go", "let go, not to be managed"),
                            std::pair("overwritten", "no longer as zmemctl set them"),
                            std::pair("needs_restart", "needs a restart of zmemd")}) {
    std::string words = list(key);
    if (!words.empty()) summary.Add(label, words);
  }
  return summary.Render();
}

std::string RenderVersion(const json& version) {
  return absl::StrCat("zmemd ", Printable(StringAt(version, "version", "of unknown version")),
                      ", protocol ", IntegerAt(version, "protocol", 0), "\n");
}

}  // namespace zmem
