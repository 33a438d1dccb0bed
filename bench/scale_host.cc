#include "bench/scale_host.h"

#include <algorithm>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "bench/cpu_time.h"
#include "bench/process_use.h"

namespace zmem {
namespace {

using std::chrono::steady_clock;

constexpr std::chrono::seconds kAnswerTimeout{300};
constexpr std::chrono::seconds kAttachTimeout{60};
// What of one program is filled and taken out at once.
constexpr size_t kSliceMib = 256;

// Nothing goes out unasked, and nothing is compressed again.
std::string ConfigWith(double scan_interval_s) {
  return absl::StrCat("[policy]\ncold_age=1h\nmin_resident=1M\nscan_interval=",
                      static_cast<int64_t>(scan_interval_s * 1000),
                      "ms\n[pool]\nmax_pool_percent=50\nrecompress_age=0s\n");
}

std::chrono::nanoseconds Seconds(double seconds) {
  return std::chrono::nanoseconds(static_cast<int64_t>(seconds * 1e9));
}

}  // namespace

ScaleHost::ScaleHost(const ScaleTimes& times)
    : times_(times),
      scan_interval_s_(times.busy_scan_interval_s),
      daemon_({.config = ConfigWith(times.busy_scan_interval_s)}) {}

void ScaleHost::Start(size_t count, size_t mib, unsigned threads) {
  size_t first = programs_.size();
  std::vector<std::string> argv = {"/proc/self/exe", "--subject",
                                   "--pages",        absl::StrCat(mib << 20 >> kPageShift),
                                   "--slice-pages",  absl::StrCat(kSliceMib << 20 >> kPageShift),
                                   "--threads",      absl::StrCat(threads),
                                   "--rate",         absl::StrCat(times_.touches_per_s),
                                   "--seconds",      absl::StrCat(times_.touch_seconds)};
  for (size_t i = 0; i < count; ++i) {
    programs_.push_back(std::make_unique<Child>(Managed(daemon_, argv)));
  }
  for (size_t i = first; i < programs_.size(); ++i) programs_[i]->ReadLine(kAnswerTimeout);
  WaitUntil("all programs to be attached", kAttachTimeout, [this] {
    nlohmann::json processes = daemon_.CtlJson({"ps", "--json"});
    auto attached = std::count_if(processes.begin(), processes.end(), [](const auto& process) {
      return process.at("state") == "attached";
    });
    return static_cast<size_t>(attached) == programs_.size();
  });
}

double ScaleHost::FillAndTakeOut(size_t first, size_t mib) {
  double cpu_s = 0;
  uint64_t pages = 0;
  for (size_t i = first; i < programs_.size(); ++i) {
    for (size_t filled_mib = 0; filled_mib < mib; filled_mib += kSliceMib) {
      Ask(*programs_[i], "fill");
      double before_s = CpuSeconds(daemon_.pid());
      Evict(*programs_[i]);
      cpu_s += CpuSeconds(daemon_.pid()) - before_s;
    }
    pages += mib << 20 >> kPageShift;
  }
  return cpu_s * 1e6 / static_cast<double>(pages);
}

void ScaleHost::FillFirst(size_t mib) {
  for (size_t filled_mib = 0; filled_mib < mib; filled_mib += kSliceMib) {
    Ask(*programs_.front(), "fill");
  }
}

void ScaleHost::TakeOutFirst() { Evict(*programs_.front()); }

void ScaleHost::SetScanInterval(double seconds) {
  daemon_.directory().Write("zmemd.conf", ConfigWith(seconds));
  CommandResult result = daemon_.Ctl({"reload"});
  if (!result.status.Succeeded()) throw HarnessError("zmemctl reload: " + result.errors);
  // The next scan is still due when it was.
  scans_settled_ = steady_clock::now() + Seconds(scan_interval_s_);
  scan_interval_s_ = seconds;
}

ScaleHost::Use ScaleHost::Totals() const {
  Use use{};
  use.daemon_cpu_s = CpuSeconds(daemon_.pid());
  use.daemon_wake_ups = static_cast<double>(WakeUps(daemon_.pid()));
  for (const std::unique_ptr<Child>& program : programs_) {
    use.programs_cpu_s += CpuSeconds(program->pid());
    use.programs_wake_ups += static_cast<double>(WakeUps(program->pid()));
  }
  return use;
}

ScaleHost::Use ScaleHost::Watch(double seconds) const {
  std::this_thread::sleep_until(scans_settled_);
  auto start = steady_clock::now();
  Use before = Totals();
  std::this_thread::sleep_until(start + Seconds(seconds));
  Use after = Totals();
  return {seconds, after.daemon_cpu_s - before.daemon_cpu_s,
          after.programs_cpu_s - before.programs_cpu_s,
          after.daemon_wake_ups - before.daemon_wake_ups,
          after.programs_wake_ups - before.programs_wake_ups};
}

nlohmann::json ScaleHost::MeasureIdle() {
  if (scan_interval_s_ != times_.busy_scan_interval_s) SetScanInterval(times_.busy_scan_interval_s);
  Use busy = Watch(times_.busy_seconds);
  SetScanInterval(times_.idle_scan_interval_s);
  Use idle = Watch(times_.idle_seconds);
  double busy_share = busy.daemon_cpu_s / busy.seconds;
  double idle_share = idle.daemon_cpu_s / idle.seconds;
  // Both have the same besides the scans.
  double scan_s = (busy_share - idle_share) /
                  (1 / times_.busy_scan_interval_s - 1 / times_.idle_scan_interval_s);
  MemoryUse memory = MemoryOf(daemon_.pid());
  nlohmann::json status = daemon_.Status();
  return {{"idle_cpu_percent", idle_share * 100},
          {"scan_ms", scan_s * 1e3},
          {"quiet_cpu_percent", (idle_share - scan_s / times_.idle_scan_interval_s) * 100},
          {"wake_ups_per_s", idle.daemon_wake_ups / idle.seconds},
          {"programs_wake_ups_per_s", idle.programs_wake_ups / idle.seconds},
          {"programs_cpu_percent", idle.programs_cpu_s / idle.seconds * 100},
          {"resident_bytes", memory.resident_bytes},
          {"proportional_bytes", memory.proportional_bytes},
          {"metadata_bytes", status.at("metadata_bytes")},
          {"pool_bytes", status.at("pool").at("held_bytes")}};
}

nlohmann::json ScaleHost::AskFirst(const char* command) {
  std::string answer = programs_.front()->Ask(command, kAnswerTimeout);
  nlohmann::json result = nlohmann::json::parse(answer, nullptr, false);
  if (result.is_discarded()) throw HarnessError("the program says: " + answer);
  return result;
}

nlohmann::json ScaleHost::MeasureTouches() {
  Child& program = *programs_.front();
  uint64_t faults_before = daemon_.Process(program.pid()).at("faults_total");
  double cpu_before_s = CpuSeconds(daemon_.pid());
  nlohmann::json touched = AskFirst("touch");
  double cpu_s = CpuSeconds(daemon_.pid()) - cpu_before_s;
  double touches = touched.at("touches");
  uint64_t faults = daemon_.Process(program.pid()).at("faults_total");
  // Else it was not faults that were measured.
  constexpr double kLeast = 0.9;
  if (static_cast<double>(faults - faults_before) < kLeast * touches) {
    throw HarnessError(absl::StrCat(faults - faults_before, " faults for ", touches, " touches"));
  }
  double elapsed_s = touched.at("elapsed_s");
  return {{"p50_ns", touched.at("p50_ns")},
          {"p99_ns", touched.at("p99_ns")},
          {"max_ns", touched.at("max_ns")},
          {"touches_per_s", touches / elapsed_s},
          {"load_cpu_percent", cpu_s / elapsed_s * 100},
          {"fault_cpu_us", cpu_s * 1e6 / touches}};
}

nlohmann::json ScaleHost::MeasureFlood() {
  nlohmann::json touched = AskFirst("flood");
  return {
      {"flood_per_s", touched.at("touches").get<double>() / touched.at("elapsed_s").get<double>()}};
}

void ScaleHost::VerifyAndEnd() {
  for (std::unique_ptr<Child>& program : programs_) {
    Ask(*program, "verify");
    program.reset();
  }
  programs_.clear();
  daemon_.Stop();
}

void ScaleHost::Ask(Child& program, const char* command) const {
  std::string answer = program.Ask(command, kAnswerTimeout);
  if (answer != "ok") throw HarnessError("the program says: " + answer);
}

void ScaleHost::Evict(Child& program) { daemon_.Evict(program.pid()); }

}  // namespace zmem
