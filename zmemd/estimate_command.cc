#include "zmemd/estimate_command.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "libzmem/base/clock.h"
#include "libzmem/base/quantity.h"
#include "libzmem/base/sys.h"
#include "libzmem/codec/compressor.h"
#include "libzmem/estimate/estimate.h"
#include "zmemd/json_fields.h"
#include "zmemd/tables.h"

namespace zmem {
namespace {

using nlohmann::json;

constexpr int64_t kSecondNs = 1'000'000'000;
// A zmemd at work answers at once; a look must not come late for one that does not.
constexpr int kDaemonSilenceMs = 1'000;

// Those that are shorter than the whole time, and the whole time.
std::vector<int64_t> AgesNs(int64_t seconds) {
  std::vector<int64_t> ages_ns;
  for (int64_t age : {1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 21600}) {
    if (age < seconds) ages_ns.push_back(age * kSecondNs);
  }
  ages_ns.push_back(seconds * kSecondNs);
  return ages_ns;
}

// What zmemd says of the process; an empty object if it does not manage it. Errors: none answers.
absl::StatusOr<json> AskDaemon(const EstimateRequest& request) {
  absl::StatusOr<UniqueFd> connection = ConnectControl(request.socket);
  if (!connection.ok()) return connection.status();
  absl::StatusOr<json> answer =
      CallControl(connection->get(), {.command = ControlCommand::kShow, .pid = request.pid}, {},
                  kDaemonSilenceMs);
  if (absl::IsNotFound(answer.status())) return json::object();
  return answer;
}

// For people and programs that read on: whole bytes, percent with two digits behind the point.
int64_t Whole(double bytes) { return std::llround(bytes); }
double Rounded(double value) { return std::round(value * 100) / 100; }
double Percent(double share) { return Rounded(share * 100); }

json DescribeAge(const EstimatedAge& age) {
  auto all_bytes = static_cast<double>(age.resident_bytes + age.out.original_bytes);
  auto eligible_bytes = static_cast<double>(age.eligible_bytes + age.out.original_bytes);
  auto share = [](double part, double whole) { return whole == 0 ? 0 : Percent(part / whole); };
  json codecs = json::array();
  for (size_t i = 0; i < age.codecs.size(); ++i) {
    const EstimatedAge::OfCodec& codec = age.codecs[i];
    codecs.push_back({{"codec", CodecNames()[i]},
                      {"out_bytes", Whole(codec.out_bytes)},
                      {"pool_bytes", Whole(codec.pool_bytes)},
                      {"metadata_bytes", codec.metadata_bytes},
                      {"net_saved_bytes", Whole(codec.net_bytes.value)},
                      {"net_saved_error_bytes", Whole(codec.net_bytes.error)},
                      {"net_saved_percent", share(codec.net_bytes.value, all_bytes)}});
  }
  return {{"age_ns", age.age_ns},
          {"resident_bytes", age.resident_bytes},
          {"eligible_bytes", age.eligible_bytes},
          {"already_out_bytes", age.out.original_bytes},
          {"cold_bytes", Whole(age.cold_bytes)},
          {"cold_percent", share(age.cold_bytes, eligible_bytes)},
          {"savings", codecs}};
}

json Describe(const EstimateRequest& request, const Estimate& estimate, bool out_is_known) {
  json codecs = json::array();
  for (size_t i = 0; i < estimate.codecs.size(); ++i) {
    const CodecResult& codec = estimate.codecs[i];
    codecs.push_back({{"codec", CodecNames()[i]},
                      {"ratio", Rounded(codec.ratio.value)},
                      {"ratio_error", Rounded(codec.ratio.error)},
                      {"incompressible_percent", Percent(codec.incompressible_share.value)},
                      {"incompressible_error_percent", Percent(codec.incompressible_share.error)}});
  }
  json ages = json::array();
  for (const EstimatedAge& age : estimate.ages) ages.push_back(DescribeAge(age));
  std::string comm;
  sys::ReadFile(absl::StrCat("/proc/", request.pid, "/comm"), comm).IgnoreError();
  absl::StripTrailingAsciiWhitespace(&comm);
  return {{"schema", 1},
          {"pid", request.pid},
          {"comm", comm},
          {"resident_bytes", estimate.resident_bytes},
          {"eligible_bytes", estimate.eligible_bytes},
          {"huge_page_bytes", estimate.huge_bytes},
          {"already_out_known", out_is_known},
          {"eligible_pages", estimate.eligible_pages},
          {"sampled_pages", estimate.sampled_pages},
          {"same_filled_percent", Percent(estimate.same_filled_share.value)},
          {"same_filled_error_percent", Percent(estimate.same_filled_share.error)},
          {"codecs", codecs},
          {"ages", ages}};
}

// The rest is for RenderEstimate.

json ArrayAt(const json& object, const char* key) {
  if (!object.is_object()) return json::array();
  auto field = object.find(key);
  return field != object.end() && field->is_array() ? *field : json::array();
}

std::string PercentAt(const json& object, const char* key) {
  return absl::StrFormat("%.1f %%", NumberAt(object, key));
}

// "-1.20M".
std::string CompactBytes(int64_t bytes) {
  std::string text = FormatBytes(static_cast<uint64_t>(std::abs(bytes)));
  return absl::StrCat(bytes < 0 ? "-" : "", absl::StrReplaceAll(text, {{" ", ""}, {"iB", ""}}));
}
std::string CompactBytesAt(const json& object, const char* key) {
  return CompactBytes(IntegerAt(object, key, 0));
}

std::string RenderHead(const json& estimate) {
  auto bytes = [&](const char* key) { return FormatBytes(CountAt(estimate, key)); };
  auto count = [&](const char* key) { return FormatCount(CountAt(estimate, key)); };
  return absl::StrCat(
      "process      ", CountAt(estimate, "pid"), " ", Printable(StringAt(estimate, "comm", "")),
      "\nresident     ", bytes("resident_bytes"), ", ", bytes("eligible_bytes"),
      " of it may be managed\nsample       ", count("sampled_pages"), " of ",
      count("eligible_pages"), " pages\nsame-filled  ", PercentAt(estimate, "same_filled_percent"),
      " ± ", PercentAt(estimate, "same_filled_error_percent"), "\n");
}

std::string RenderCodecs(const json& estimate) {
  Table table({{"CODEC", Table::Align::kLeft}, {"RATIO"}, {"±"}, {"INCOMPRESSIBLE"}, {"±"}});
  for (const json& codec : ArrayAt(estimate, "codecs")) {
    double ratio = NumberAt(codec, "ratio");
    table.AddRow({Printable(StringAt(codec, "codec", "?")),
                  ratio == 0 ? "-" : absl::StrFormat("%.2f", ratio),
                  ratio == 0 ? "-" : absl::StrFormat("%.2f", NumberAt(codec, "ratio_error")),
                  PercentAt(codec, "incompressible_percent"),
                  PercentAt(codec, "incompressible_error_percent")});
  }
  return table.Render();
}

std::string RenderAges(const json& estimate) {
  Table table({{"UNTOUCHED"},
               {"COLD"},
               {"COLD%"},
               {"CODEC", Table::Align::kLeft},
               {"OUT"},
               {"POOL"},
               {"METADATA"},
               {"NET SAVED"},
               {"±"},
               {"NET%"}});
  for (const json& age : ArrayAt(estimate, "ages")) {
    std::vector<std::string> cells = {
        absl::StrFormat("%.1f s", NumberAt(age, "age_ns") / kSecondNs),
        CompactBytesAt(age, "cold_bytes"), PercentAt(age, "cold_percent")};
    for (const json& saving : ArrayAt(age, "savings")) {
      cells.insert(cells.end(),
                   {Printable(StringAt(saving, "codec", "?")), CompactBytesAt(saving, "out_bytes"),
                    CompactBytesAt(saving, "pool_bytes"), CompactBytesAt(saving, "metadata_bytes"),
                    CompactBytesAt(saving, "net_saved_bytes"),
                    CompactBytesAt(saving, "net_saved_error_bytes"),
                    PercentAt(saving, "net_saved_percent")});
      table.AddRow(cells);
      cells.assign(3, "");
    }
  }
  return table.Render();
}

std::string RenderNotes(const json& estimate) {
  std::string text;
  uint64_t huge_bytes = CountAt(estimate, "huge_page_bytes");
  if (huge_bytes > CountAt(estimate, "eligible_bytes") / 100) {
    absl::StrAppend(&text, FormatBytes(huge_bytes),
                    " in huge pages, which look touched as a whole: more may be cold.\n");
  }
  json ages = ArrayAt(estimate, "ages");
  if (uint64_t out = ages.empty() ? 0 : CountAt(ages.back(), "already_out_bytes"); out > 0) {
    absl::StrAppend(&text, FormatBytes(out),
                    " are out already: counted as cold, and NET% is of all as it was.\n");
  }
  if (estimate.is_object() && estimate.contains("already_out_known") &&
      estimate["already_out_known"] == false) {
    absl::StrAppend(&text,
                    "It seems to be managed, but no zmemd answers: what is out already is not "
                    "counted.\n");
  }
  return text.empty() ? "" : "\n" + text;
}

}  // namespace

absl::StatusOr<json> AnswerEstimate(const EstimateRequest& request,
                                    const ControlProgressFn& progress) {
  bool daemon_answers = true;
  EstimateOptions options;
  options.ages_ns = AgesNs(request.seconds);
  options.sample_pages = request.pages;
  options.seed = std::random_device()();
  options.pages_out = [&] {
    absl::StatusOr<json> process = AskDaemon(request);
    daemon_answers = process.ok();
    if (!process.ok()) return PagesOut();
    return PagesOut{.original_bytes = CountAt(*process, "original_bytes"),
                    .held_bytes = CountAt(*process, "held_bytes")};
  };
  options.progress = [&](int64_t elapsed_ns, int64_t total_ns) {
    progress({.done = static_cast<uint64_t>(elapsed_ns / kSecondNs),
              .total = static_cast<uint64_t>(total_ns / kSecondNs),
              .unit = "s"});
  };
  MonotonicClock clock;
  absl::StatusOr<Estimate> estimate = EstimateProcess(request.pid, options, clock);
  if (!estimate.ok()) return estimate.status();
  return Describe(request, *estimate, daemon_answers || !estimate->any_registered);
}

std::string RenderEstimate(const json& estimate) {
  return absl::StrCat(RenderHead(estimate), "\n", RenderCodecs(estimate), "\n",
                      RenderAges(estimate), RenderNotes(estimate));
}

}  // namespace zmem
