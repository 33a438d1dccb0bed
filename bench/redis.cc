// Whether a busy server notices that its cold memory is gone: a stock redis-server full of
// documents, Zipfian keys, nine GETs to one SET at half the rate that it could take, and latencies
// that count from when a request was due. Side by side, each on a fresh server: left alone, zmem at
// its default settings, zmem with a limit, and the kernel's zram with a memory cgroup that makes
// the server as small as zmem did. And a server that nobody asks: how much of what may go has gone
// after a while. Every answer is checked; a wrong one ends the bench with a failure.
//   redis [--mib N] [--connections N] [--settle S] [--seconds S] [--idle S] [--clustered] [--seed
//   N]
//         [--quick] [--json FILE]
#include <CLI/CLI.hpp>
#include <cstdio>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bench/keyed_values.h"
#include "bench/machine.h"
#include "bench/redis_load.h"
#include "bench/run.h"
#include "bench/squeezed_redis.h"
#include "bench/zipf.h"
#include "libzmem/base/quantity.h"

namespace zmem {
namespace {

// The share of the highest rate that is asked, and how it is measured.
constexpr double kShareOfHighest = 0.5;
// What may be resident where there is a limit.
constexpr double kLimitShare = 0.6;
// Where memory goes at once and not by and by, it settles in this share of the time.
constexpr double kShortSettleShare = 0.25;

struct Options {
  uint64_t mib = 1024;
  int connections = 16;
  double settle_s = 120;
  double seconds = 30;
  double idle_s = 120;
  bool clustered = false;
  uint64_t seed = 1;
  std::string json_path;

  uint32_t items() const { return static_cast<uint32_t>((mib << 20) / kMeanValueBytes); }
  RedisLoad::Options load() const {
    return {.items = items(),
            .order = clustered ? ZipfOrder::kClustered : ZipfOrder::kScrambled,
            .seed = seed,
            .connections = connections};
  }
  // For trying: less than two minutes in all.
  void MakeQuick() {
    mib = 128;
    settle_s = 12;
    seconds = 3;
    idle_s = 36;
  }
};

constexpr char kPlain[] = "left alone";
constexpr char kDefaults[] = "zmem, defaults";
constexpr char kLimited[] = "zmem, limited";
constexpr char kZramAsDefaults[] = "zram, as defaults";
constexpr char kZramAsLimited[] = "zram, as limited";
constexpr const char* kRows[] = {kPlain, kDefaults, kZramAsDefaults, kLimited, kZramAsLimited};

class Bench {
 public:
  explicit Bench(const Options& options) : options_(options) {}

  void RunAll() {
    MeasurePlain();
    Try(kDefaults, [this] { MeasureDefaults(); });
    Try(kZramAsDefaults, [this] { MeasureZram(kZramAsDefaults, kDefaults); });
    Try(kLimited, [this] { MeasureLimited(); });
    Try(kZramAsLimited, [this] { MeasureZram(kZramAsLimited, kLimited); });
    Try(kIdle, [this] { MeasureIdle(); });
  }

  void Print() const {
    PrintMachine();
    std::printf(
        "input     %u documents of 512 to 1536 bytes, %s; Zipf 0.99, %s; seed %llu\n"
        "load      90 %% GET, 10 %% SET, %d connections; at most %.0f/s when left alone, asked "
        "for\n"
        "          half of that for %.0f s, after %.0f s to settle (%.0f s without zmem or with a\n"
        "          limit); latencies count from when a request was due, medians of three\n"
        "          pieces; faults: of zram major ones; CPU in %% of one\n\n",
        options_.items(), FormatBytes(options_.mib << 20).c_str(),
        options_.clustered ? "clustered" : "scrambled",
        static_cast<unsigned long long>(options_.seed), options_.connections, highest_per_s_,
        options_.seconds, options_.settle_s, short_settle_s());
    PrintLoad();
    PrintMemory();
    PrintTargets();
  }

  nlohmann::json Json() const {
    return {{"benchmark", "redis"},
            {"machine", Machine()},
            {"items", options_.items()},
            {"clustered", options_.clustered},
            {"seed", options_.seed},
            {"connections", options_.connections},
            {"settle_s", options_.settle_s},
            {"seconds", options_.seconds},
            {"idle_s", options_.idle_s},
            {"highest_per_s", highest_per_s_},
            {"rows", rows_},
            {"not_measured", failures_}};
  }

 private:
  static constexpr char kIdle[] = "idle";

  // What cannot be measured is said so, in its row. Wrong values end everything.
  void Try(const std::string& name, const std::function<void()>& measure) {
    std::fprintf(stderr, "redis: %s ...\n", name.c_str());
    try {
      measure();
    } catch (const HarnessError& error) {
      failures_[name] = error.what();
    }
  }

  double asked_per_s() const { return highest_per_s_ * kShareOfHighest; }
  double short_settle_s() const { return options_.settle_s * kShortSettleShare; }
  SqueezedRedis Server(Means means) const { return {means, values_, options_.load()}; }

  void MeasurePlain() {
    std::fprintf(stderr, "redis: %s ...\n", kPlain);
    SqueezedRedis server = Server(Means::kNone);
    server.load().AskAsFastAsPossible(options_.seconds * kShortSettleShare);
    highest_per_s_ =
        server.load().AskAsFastAsPossible(options_.seconds * kShortSettleShare).reached_per_s;
    server.Settle(asked_per_s(), short_settle_s());
    Measure(server, kPlain);
  }

  void MeasureDefaults() {
    SqueezedRedis server = Server(Means::kZmem);
    server.Settle(asked_per_s(), options_.settle_s);
    Measure(server, kDefaults);
  }

  void MeasureLimited() {
    SqueezedRedis server = Server(Means::kZmem);
    server.LimitResident(
        static_cast<uint64_t>(static_cast<double>(server.Use().program_bytes()) * kLimitShare));
    server.Settle(asked_per_s(), short_settle_s());
    Measure(server, kLimited);
  }

  // As small as another was at its end, again after the load has changed what is out.
  void MeasureZram(const char* name, const char* as) {
    if (!rows_.contains(as)) throw HarnessError(absl::StrCat(as, " was not measured"));
    uint64_t footprint_bytes = rows_.at(as).at("footprint_bytes");
    SqueezedRedis server = Server(Means::kZram);
    server.SqueezeTo(footprint_bytes);
    server.Settle(asked_per_s(), short_settle_s());
    server.SqueezeTo(footprint_bytes);
    Measure(server, name);
  }

  void Measure(SqueezedRedis& server, const char* name) {
    nlohmann::json row = server.Measure(asked_per_s(), options_.seconds);
    server.load().VerifyAll();
    server.Stop();
    rows_[name] = row;
  }

  void MeasureIdle() {
    SqueezedRedis server = Server(Means::kZmem);
    std::this_thread::sleep_for(std::chrono::duration<double>(options_.idle_s));
    MemoryUse left_alone = server.Use();
    server.Evict();
    MemoryUse evicted = server.Use();
    server.load().VerifyAll();
    server.Stop();
    rows_[kIdle] = {{"out_bytes", left_alone.out_bytes},
                    {"may_go_bytes", evicted.out_bytes},
                    {"net_saved", left_alone.net_saved()},
                    {"may_be_saved", evicted.net_saved()},
                    {"out_share", static_cast<double>(left_alone.out_bytes) /
                                      static_cast<double>(evicted.out_bytes)}};
  }

  // Prints the name of a row, and why there is none.
  bool PrintName(const char* name) const {
    std::printf("%-20s", name);
    if (rows_.contains(name)) return true;
    std::printf(" not measured: %s\n", failures_.at(name).c_str());
    return false;
  }

  double Over(const char* name, const char* field) const {
    return Value(name, field) / Value(kPlain, field);
  }
  double Value(const char* name, const char* field) const { return rows_.at(name).at(field); }

  void PrintLoad() const {
    // A µ is two bytes to printf.
    std::printf("%-20s %9s %9s %8s %9s %9s %9s %10s %10s %9s %9s\n", "", "asked/s", "reached/s",
                "p50 µs", "p90 µs", "p99 µs", "p99 x", "p99.9 µs", "max ms", "redis %", "zmemd %");
    for (const char* name : kRows) {
      if (!PrintName(name)) continue;
      std::printf(" %9.0f %9.0f %7.0f %8.0f %8.0f %9.2f %9.0f %10.1f %9.0f %9.1f\n",
                  Value(name, "asked_per_s"), Value(name, "reached_per_s"),
                  Value(name, "p50_ns") / 1e3, Value(name, "p90_ns") / 1e3,
                  Value(name, "p99_ns") / 1e3, Over(name, "p99_ns"), Value(name, "p99.9_ns") / 1e3,
                  Value(name, "max_ns") / 1e6, Value(name, "redis_cpu") * 100,
                  Value(name, "zmemd_cpu") * 100);
      if (Value(name, "dropped") > 0) {
        std::printf("%-20s   fell behind: %.0f requests were never sent\n", "",
                    Value(name, "dropped"));
      }
    }
    std::printf("\n");
  }

  void PrintMemory() const {
    std::printf("%-20s %9s %9s %9s %9s %9s %9s %9s\n", "MiB", "resident", "out", "pool", "metadata",
                "saved %", "stall %", "faults/s");
    for (const char* name : kRows) {
      if (!PrintName(name)) continue;
      for (const char* field : {"resident_bytes", "out_bytes", "held_bytes", "metadata_bytes"}) {
        std::printf(" %9.1f", Value(name, field) / (1 << 20));
      }
      const nlohmann::json& row = rows_.at(name);
      std::string stall =
          row.contains("stall") ? absl::StrFormat("%.2f", Value(name, "stall") * 100) : "-";
      std::printf(" %9.1f %9s %9.0f\n", Value(name, "net_saved") * 100, stall.c_str(),
                  Value(name, "faults_per_s"));
    }
    if (PrintName(kIdle)) {
      std::printf(
          " %.1f MiB out after %.0f s, %.1f %% saved; %.1f MiB, %.1f %% saved, once told to\n",
          Value(kIdle, "out_bytes") / (1 << 20), options_.idle_s, Value(kIdle, "net_saved") * 100,
          Value(kIdle, "may_go_bytes") / (1 << 20), Value(kIdle, "may_be_saved") * 100);
    }
    std::printf("\n");
  }

  void PrintTargets() const {
    std::printf("%-44s %10s %10s\n", "", "target", "measured");
    PrintTarget("defaults: net saved", ">= 40 %", kDefaults, [this] {
      double saved = Value(kDefaults, "net_saved");
      return std::pair(absl::StrFormat("%.1f %%", saved * 100), saved >= 0.4);
    });
    PrintTarget("defaults: throughput of left alone", ">= 98 %", kDefaults, [this] {
      double share = Over(kDefaults, "reached_per_s");
      return std::pair(absl::StrFormat("%.1f %%", share * 100), share >= 0.98);
    });
    PrintTarget("defaults: p99 over left alone", "<= 1.5", kDefaults, [this] {
      double times = Over(kDefaults, "p99_ns");
      return std::pair(absl::StrFormat("%.2f", times), times <= 1.5);
    });
    PrintTarget("limited to 60 %: throughput of left alone", ">= 90 %", kLimited, [this] {
      double share = Over(kLimited, "reached_per_s");
      return std::pair(absl::StrFormat("%.1f %%", share * 100), share >= 0.9);
    });
    std::string idle = absl::StrFormat("out of what may go, idle for %.0f s", options_.idle_s);
    PrintTarget(idle.c_str(), ">= 90 %", kIdle, [this] {
      double share = Value(kIdle, "out_share");
      return std::pair(absl::StrFormat("%.1f %%", share * 100), share >= 0.9);
    });
  }

  void PrintTarget(const char* what, const char* target, const char* row,
                   const std::function<std::pair<std::string, bool>()>& measured) const {
    std::printf("%-44s %10s", what, target);
    if (!rows_.contains(row)) {
      std::printf(" %10s  missed\n", "none");
      return;
    }
    auto [value, met] = measured();
    std::printf(" %10s  %s\n", value.c_str(), met ? "met" : "missed");
  }

  const Options options_;
  const KeyedValues values_;
  double highest_per_s_ = 0;
  std::map<std::string, nlohmann::json> rows_;
  std::map<std::string, std::string> failures_;
};

}  // namespace
}  // namespace zmem

int main(int argc, char** argv) {
  zmem::Options options;
  CLI::App app("Measures a busy redis-server whose cold memory is taken out.");
  app.add_option("--mib", options.mib, "of documents")
      ->capture_default_str()
      ->check(CLI::Range(16, 3072));
  app.add_option("--connections", options.connections, "to the server")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000));
  app.add_option("--settle", options.settle_s, "seconds of load before those that are measured")
      ->capture_default_str()
      ->check(CLI::Range(1.0, 86'400.0));
  app.add_option("--seconds", options.seconds, "how long each is measured")
      ->capture_default_str()
      ->check(CLI::Range(1.0, 86'400.0));
  app.add_option("--idle", options.idle_s, "seconds for which a server is left idle")
      ->capture_default_str()
      ->check(CLI::Range(1.0, 86'400.0));
  app.add_flag("--clustered", options.clustered, "popular documents lie next to each other");
  app.add_option("--seed", options.seed, "of the requests")->capture_default_str();
  app.add_option("--json", options.json_path, "also write the results here");
  app.add_flag_callback(
         "--quick", [&options] { options.MakeQuick(); }, "little, for less than two minutes")
      ->excludes("--mib")
      ->excludes("--settle")
      ->excludes("--seconds")
      ->excludes("--idle");
  CLI11_PARSE(app, argc, argv);
  return zmem::RunBench("redis", [&] {
    zmem::Bench bench(options);
    bench.RunAll();
    bench.Print();
    zmem::WriteJson(options.json_path, bench.Json());
  });
}
