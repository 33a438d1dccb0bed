// The main job, to be watched: a stock redis-server under libzmem.so holds 400 MiB of documents,
// goes cold, gives most of its memory back, and then returns every byte. Everything happens in a
// private directory; the system's configuration is neither read nor changed.
// Exits with 1, saying why in one line, when a byte is wrong or less than half was saved.
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <numeric>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "libzmem/base/page.h"
#include "tests/demo/terminal.h"
#include "tests/documents.h"
#include "tests/harness.h"
#include "tests/redis.h"

namespace zmem {
namespace {

using std::chrono::seconds;
using std::chrono::steady_clock;

constexpr int64_t kTargetBytes = int64_t{400} << 20;
constexpr double kPromisedNetSaved = 0.5;
constexpr uint64_t kShuffleSeed = 4;
constexpr uint64_t kBatch = 512;  // documents between two looks at the progress bar
// redis is managed once it is nearly full, so that little goes out before it was measured.
constexpr char kConfig[] =
    "[pool]\ncompressor=lz4\n[policy]\ncold_age=3s\nscan_interval=1s\nmin_resident=384M\n";
// Cold is when nothing more goes out for a while; with cold_age=3s everything has had its turn.
constexpr seconds kQuiet{6};
constexpr seconds kColdTimeout{180};
// Between two looks at what is stored: often enough for the bar, seldom enough to keep the machine
// quiet.
constexpr std::chrono::milliseconds kLook{100};

volatile std::sig_atomic_t interrupted = 0;

void ThrowIfInterrupted() {
  if (interrupted != 0) throw HarnessError("interrupted");
}

struct Measured {
  int64_t resident_before = 0;
  int64_t resident_after = 0;
  int64_t daemon_resident = 0;
  nlohmann::json status;
  nlohmann::json process;

  int64_t held() const { return status.at("pool").at("held_bytes"); }
  int64_t metadata() const { return status.at("metadata_bytes"); }
  int64_t saved() const { return resident_before - resident_after - held() - metadata(); }
  double net_saved() const {
    return static_cast<double>(saved()) / static_cast<double>(resident_before);
  }
};

class Demo {
 public:
  Demo() : daemon_({.config = kConfig}), redis_(daemon_), client_(redis_.socket()) {}

  void Run() {
    Load();
    Attach();
    GoCold();
    PrintTable();
    ReadBack();
    PrintLatency();
    Stop();
    if (measured_.net_saved() < kPromisedNetSaved) {
      throw HarnessError(absl::StrFormat("only %.1f %% net saved, %.0f %% were promised",
                                         measured_.net_saved() * 100, kPromisedNetSaved * 100));
    }
  }

  const Daemon& daemon() const { return daemon_; }

 private:
  pid_t redis_pid() { return redis_.child().pid(); }

  void Load();
  void Attach();
  void GoCold();
  void PrintTable() const;
  void ReadBack();
  void PrintLatency() const;
  void Stop();

  Daemon daemon_;
  RedisServer redis_;
  RedisClient client_;
  uint64_t documents_ = 0;
  Measured measured_;
};

void Demo::Load() {
  Progress progress("loading documents");
  int64_t bytes = 0;
  while (bytes < kTargetBytes) {
    ThrowIfInterrupted();
    bytes += LoadDocuments(client_, documents_, documents_ + kBatch);
    documents_ += kBatch;
    progress.Update(static_cast<double>(bytes) / kTargetBytes, Mib(bytes));
  }
  progress.Finish(absl::StrCat(WithCommas(static_cast<int64_t>(documents_)), " documents, ",
                               Mib(bytes), ": customers, orders, logs, letters, pictures"));
}

// The agent looks at the program's size every few seconds and then calls the daemon.
void Demo::Attach() {
  Progress progress("attaching by itself");
  // On a slow machine the first pages may be out before the last document is in.
  std::optional<nlohmann::json> managed = daemon_.FindProcess(redis_pid());
  int64_t out_already = managed ? managed->at("stored_pages").get<int64_t>() * kPageBytes : 0;
  measured_.resident_before = ResidentBytes(redis_pid()) + out_already;
  WaitAttached(daemon_, redis_.child());
  progress.Finish(absl::StrFormat("redis-server, PID %d, %s resident", redis_pid(),
                                  Mib(measured_.resident_before)));
}

void Demo::GoCold() {
  Progress progress("going cold");
  int64_t stored = 0;
  auto last_growth = steady_clock::now();
  WaitUntil(
      "redis-server's cold pages to be stored", kColdTimeout,
      [&] {
        ThrowIfInterrupted();
        measured_.process = daemon_.Process(redis_pid());
        int64_t now_stored = measured_.process.at("stored_pages").get<int64_t>() * kPageBytes;
        if (now_stored > stored) last_growth = steady_clock::now();
        stored = std::max(stored, now_stored);
        progress.Update(static_cast<double>(stored) / measured_.resident_before,
                        Mib(stored) + " taken out");
        return stored > 0 && steady_clock::now() - last_growth > kQuiet;
      },
      kLook);
  measured_.resident_after = ResidentBytes(redis_pid());
  measured_.daemon_resident = ResidentBytes(daemon_.pid());
  measured_.status = daemon_.Status();
  measured_.process = daemon_.Process(redis_pid());
  progress.Finish(Mib(stored) + " taken out, nothing more for " + absl::StrCat(kQuiet.count()) +
                  " s");
}

void Demo::PrintTable() const {
  auto row = [](const char* name, int64_t bytes, const std::string& note) {
    std::printf("      %-28s %12s   %s\n", name, Mib(bytes).c_str(), note.c_str());
  };
  const nlohmann::json& pool = measured_.status.at("pool");
  int64_t original = pool.at("original_bytes");
  int64_t compressed = pool.at("compressed_bytes");
  std::printf("\n");
  row("resident before", measured_.resident_before, "");
  row("resident after", -measured_.resident_after, "");
  row("pool held", -measured_.held(),
      absl::StrFormat(
          "%s in %s, ratio %.2f, %s", Mib(original), Mib(compressed),
          static_cast<double>(original) / static_cast<double>(std::max<int64_t>(compressed, 1)),
          pool.at("compressor").get<std::string>()));
  row("metadata", -measured_.metadata(),
      absl::StrFormat("%s same-filled pages take no room in the pool",
                      WithCommas(pool.at("same_filled_pages"))));
  std::string line = absl::StrFormat("      %-28s %12s   %.1f %%", "net saved",
                                     Mib(measured_.saved()), measured_.net_saved() * 100);
  std::printf("%s\n", Bold(line).c_str());
  std::printf("      (zmemd itself, pool and all, is resident with %s)\n\n",
              Mib(measured_.daemon_resident).c_str());
}

void Demo::ReadBack() {
  Progress progress("reading every key back");
  std::vector<uint64_t> order(documents_);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), std::mt19937_64(kShuffleSeed));
  for (uint64_t start = 0; start < documents_; start += kBatch) {
    ThrowIfInterrupted();
    std::vector<std::string> wrong =
        WrongDocuments(client_, {order.begin() + static_cast<ptrdiff_t>(start),
                                 order.begin() + static_cast<ptrdiff_t>(start + kBatch)});
    if (!wrong.empty()) {
      throw HarnessError("document " + wrong[0] + " came back wrong");
    }
    progress.Update(static_cast<double>(start) / static_cast<double>(documents_),
                    WithCommas(static_cast<int64_t>(start)) + " right");
  }
  progress.Finish(absl::StrCat(WithCommas(static_cast<int64_t>(documents_)),
                               " documents in random order, every byte right"));
  measured_.process = daemon_.Process(redis_pid());
}

void Demo::PrintLatency() const {
  const nlohmann::json& latency = measured_.process.at("fault_latency_ns");
  std::printf("\n      fault latency   p50 %s   p99 %s   max %s   of %s faults\n\n",
              Bold(Duration(latency.at("p50"))).c_str(), Bold(Duration(latency.at("p99"))).c_str(),
              Bold(Duration(latency.at("max"))).c_str(),
              WithCommas(measured_.process.at("faults_total")).c_str());
}

// zmemd first, so that it has to put everything back; redis then shows that it did.
void Demo::Stop() {
  Progress progress("stopping");
  daemon_.Stop();
  progress.Update(0.5, "zmemd stopped");
  std::vector<std::string> wrong = WrongDocuments(client_, {0, 1, documents_ / 2, documents_ - 1});
  if (!wrong.empty()) throw HarnessError("document " + wrong[0] + " is wrong without zmemd");
  redis_.Stop();
  progress.Finish("zmemd put every page back; redis-server went on, and ended cleanly");
}

int Main() {
  std::printf("%s\n\n", Bold("zmem: a stock redis-server gives its cold memory back").c_str());
  std::string unsupported = WhyUnsupported();
  if (!unsupported.empty()) {
    std::fprintf(stderr, "demo: %s\n", unsupported.c_str());
    return 1;
  }
  std::signal(SIGINT, [](int) { interrupted = 1; });
  std::signal(SIGTERM, [](int) { interrupted = 1; });
  try {
    Demo demo;
    demo.Run();
  } catch (const std::exception& error) {
    std::fflush(stdout);
    std::fprintf(stderr, "\n%s %s\n", Bad("demo failed:").c_str(), error.what());
    return 1;
  }
  std::printf("\n%s\n", Good("Every byte came back.").c_str());
  return 0;
}

}  // namespace
}  // namespace zmem

int main() { return zmem::Main(); }
