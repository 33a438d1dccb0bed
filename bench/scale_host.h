// A zmemd and the programs that it manages for bench/scale, and what is measured of them as they
// are at a moment.
// Not thread-safe. Throws HarnessError, also when a page was wrong.
#pragma once

#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "bench/scale_program.h"
#include "tests/harness.h"

namespace zmem {

struct ScaleTimes {
  double idle_scan_interval_s = 5;  // zmemd's default
  double idle_seconds = 10;         // whole intervals: as many scans are seen each time
  double busy_scan_interval_s = 1;
  double busy_seconds = 5;
  double touch_seconds = 5;
  double touches_per_s = 2000;
};

class ScaleHost {
 public:
  explicit ScaleHost(const ScaleTimes& times);

  // Starts `count` programs of `mib`, and waits until they are managed.
  void Start(size_t count, size_t mib, unsigned threads);
  // Has the programs from `first` on fill `mib` more, as far as they have it, and takes that out,
  // 256 MiB at once, so that little of it is in memory. `mib` is a multiple of that, or all that
  // they have. Returns the CPU time that zmemd took for a page, in µs.
  double FillAndTakeOut(size_t first, size_t mib);
  // Has the first program fill so much more, and leaves it in memory.
  void FillFirst(size_t mib);
  // Takes the pages of the first program out that are in.
  void TakeOutFirst();

  // What zmemd takes now: its memory, and its CPU time while nobody does anything. Figures:
  // idle_cpu_percent, scan_ms (of all programs, once), quiet_cpu_percent (without scans),
  // wake_ups_per_s, programs_wake_ups_per_s, programs_cpu_percent (of all of them), resident_bytes,
  // proportional_bytes, metadata_bytes, pool_bytes.
  nlohmann::json MeasureIdle();
  // Has the first program touch its pages at the rate given. Figures: p50_ns, p99_ns, max_ns,
  // touches_per_s, load_cpu_percent (of zmemd), fault_cpu_us (of zmemd, a fault).
  nlohmann::json MeasureTouches();
  // The same as fast as it can. Figure: flood_per_s.
  nlohmann::json MeasureFlood();

  // Has every program check its pages, and end. Stops zmemd.
  void VerifyAndEnd();

 private:
  // What was used in a stretch of time.
  struct Use {
    double seconds;
    double daemon_cpu_s;
    double programs_cpu_s;
    double daemon_wake_ups;
    double programs_wake_ups;
  };

  Use Watch(double seconds) const;
  Use Totals() const;
  // From when on every program is scanned so often is behind `scans_settled_`.
  void SetScanInterval(double seconds);
  void Ask(Child& program, const char* command) const;
  nlohmann::json AskFirst(const char* command);
  void Evict(Child& program);

  const ScaleTimes times_;
  double scan_interval_s_;
  std::chrono::steady_clock::time_point scans_settled_;
  Daemon daemon_;
  std::vector<std::unique_ptr<Child>> programs_;
};

}  // namespace zmem
