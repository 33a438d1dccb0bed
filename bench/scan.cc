// What it saves to keep the stored forms of pages that came back: a program reads its memory in
// order again and again, and all of it is taken out after each time. With and without
// clean_pages_percent in one run, by turns, with the pool alone and with a backing file; and with a
// program that writes to every page, where the forms are of no use.
// The bench runs itself again as the program (--subject).
//   scan [--mib N] [--rounds N] [--compressor NAME] [--directory DIR] [--json FILE]
#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/cpu_time.h"
#include "bench/machine.h"
#include "bench/run.h"
#include "bench/samples.h"
#include "libzmem/base/clock.h"
#include "libzmem/base/quantity.h"
#include "tests/harness.h"
#include "tests/programs/command_loop.h"
#include "tests/programs/pattern_region.h"

namespace zmem {
namespace {

constexpr std::chrono::seconds kAnswerTimeout{300};

struct Options {
  size_t mib = 256;
  int rounds = 6;
  std::string compressor = "lz4";
  std::string directory = "/var/tmp";
  std::string json_path;
  bool subject = false;
};

// The program: reads every page, or writes a new version of it.
class Subject {
 public:
  explicit Subject(size_t pages) : region_(pages, PageContent::kCompressible) {
    region_.Fill(version_);
  }
  int Serve() {
    return ServeCommands({{"read", [this] { return Timed([this] { Read(); }); }},
                          {"write", [this] { return Timed([this] { region_.Fill(++version_); }); }},
                          {"verify", [this] {
                             std::string wrong = region_.Verify(version_);
                             return wrong.empty() ? "ok" : wrong;
                           }}});
  }

 private:
  template <typename Work>
  static std::string Timed(Work work) {
    MonotonicClock clock;
    int64_t start_ns = clock.now_ns();
    work();
    return absl::StrCat(clock.now_ns() - start_ns);
  }
  void Read() const {
    for (size_t page = 0; page < region_.pages(); ++page) {
      static_cast<void>(*const_cast<volatile std::byte*>(region_.page(page)));
    }
  }

  PatternRegion region_;
  uint64_t version_ = 1;
};

// One program over a daemon of its own.
class Side {
 public:
  Side(const Options& options, std::string what, bool keeps, bool on_disk)
      : what_(std::move(what)), keeps_(keeps), mib_(options.mib) {
    std::string config =
        absl::StrCat(kEvictByHand, "[pool]\nmax_pool_percent=50\ncompressor=", options.compressor,
                     "\nclean_pages_percent=", keeps ? 100 : 0, "\n");
    if (on_disk) {
      file_ = absl::StrCat(options.directory, "/zmem-scan-", getpid(), keeps ? "-clean" : "");
      absl::StrAppend(&config, "max_pool_size=1M\n[backing]\nsize=", 4 * options.mib,
                      "M\npath=", file_, "\n");
    }
    daemon_ = std::make_unique<Daemon>(DaemonOptions{.config = config});
    child_ = std::make_unique<Child>(
        Managed(*daemon_, {"/proc/self/exe", "--subject", "--mib", absl::StrCat(options.mib)}));
    child_->ReadLine(kAnswerTimeout);
    WaitAttached(*daemon_, *child_);
    Evict();
  }
  ~Side() {
    child_.reset();
    daemon_.reset();
    if (!file_.empty()) std::filesystem::remove(file_);
  }

  // Brings everything back, and takes it out again.
  void Round(const char* command) {
    nlohmann::json before = daemon_->Status();
    double cpu_s = CpuSeconds(daemon_->pid());
    std::string answer = child_->Ask(command, kAnswerTimeout);
    int64_t pass_ns = 0;
    if (!absl::SimpleAtoi(answer, &pass_ns)) throw HarnessError("the subject says: " + answer);
    kept_bytes_.push_back(daemon_->Status().at("pool").at("clean_bytes"));
    int64_t start_ns = clock_.now_ns();
    Evict();
    evict_s_.push_back(static_cast<double>(clock_.now_ns() - start_ns) / 1e9);
    pass_s_.push_back(static_cast<double>(pass_ns) / 1e9);
    cpu_s_.push_back(CpuSeconds(daemon_->pid()) - cpu_s);
    nlohmann::json after = daemon_->Status();
    auto grown = [&](const char* part, const char* name) {
      return after.at(part).at(name).get<double>() - before.at(part).at(name).get<double>();
    };
    reused_.push_back(grown("pool", "clean_reused_pages"));
    if (!file_.empty()) written_bytes_.push_back(grown("backing", "bytes_written"));
  }
  void Verify() {
    std::string wrong = child_->Ask("verify", kAnswerTimeout);
    if (wrong != "ok") throw HarnessError(wrong);
    Evict();
  }

  double cpu_s() const { return Median(cpu_s_); }
  nlohmann::json Print() const {
    double mib = static_cast<double>(mib_);
    double pages = mib * 256;
    std::string written =
        written_bytes_.empty() ? "-" : FormatBytes(static_cast<uint64_t>(Median(written_bytes_)));
    std::printf("%-28s %-5s %9.0f %9.0f %10.2f %9.1f %9s %11s\n", what_.c_str(),
                keeps_ ? "yes" : "no", mib / Median(pass_s_), mib / Median(evict_s_),
                cpu_s() * 1e6 / pages, Median(reused_) / pages * 100,
                FormatBytes(static_cast<uint64_t>(Median(kept_bytes_))).c_str(), written.c_str());
    return {{"case", what_},
            {"kept", keeps_},
            {"pass_mib_per_s", mib / Median(pass_s_)},
            {"evict_mib_per_s", mib / Median(evict_s_)},
            {"daemon_cpu_us_per_page", cpu_s() * 1e6 / pages},
            {"reused_share", Median(reused_) / pages},
            {"kept_bytes", Median(kept_bytes_)},
            {"written_bytes", written_bytes_.empty() ? 0 : Median(written_bytes_)}};
  }

 private:
  void Evict() { daemon_->Evict(child_->pid()); }

  const std::string what_;
  const bool keeps_;
  const size_t mib_;
  MonotonicClock clock_;
  std::string file_;
  std::unique_ptr<Daemon> daemon_;
  std::unique_ptr<Child> child_;
  std::vector<double> pass_s_;
  std::vector<double> evict_s_;
  std::vector<double> cpu_s_;
  std::vector<double> reused_;
  std::vector<double> kept_bytes_;
  std::vector<double> written_bytes_;
};

// One pair of rows: without and with the forms kept.
nlohmann::json Compare(const Options& options, const std::string& what, const char* command,
                       bool on_disk) {
  Side without(options, what, false, on_disk);
  Side with(options, what, true, on_disk);
  for (int round = 0; round < options.rounds; ++round) {
    Side& first = round % 2 == 0 ? without : with;
    Side& second = round % 2 == 0 ? with : without;
    first.Round(command);
    second.Round(command);
  }
  without.Verify();
  with.Verify();
  nlohmann::json rows = {without.Print(), with.Print()};
  std::printf("%-28s %-5s %9s %9s %9.2fx\n\n", "", "", "", "", with.cpu_s() / without.cpu_s());
  return rows;
}

void Run(const Options& options) {
  PrintMachine();
  std::printf(
      "input     %zu MiB, %s; each round all of it is brought back in order, and taken out; "
      "medians of %d\n\n%-28s %-5s %9s %9s %10s %9s %9s %11s\n",
      options.mib, options.compressor.c_str(), options.rounds, "", "kept", "back", "out",
      "zmemd CPU", "unchanged", "kept", "written");
  std::printf("%-28s %-5s %9s %9s %10s %9s %9s %11s\n", "", "", "MiB/s", "MiB/s", "µs/page", "%",
              "", "a round");
  nlohmann::json result = {{"benchmark", "scan"},
                           {"machine", Machine()},
                           {"mib", options.mib},
                           {"rounds", options.rounds},
                           {"compressor", options.compressor},
                           {"rows", nlohmann::json::array()}};
  for (const nlohmann::json& rows : {Compare(options, "read, pool", "read", false),
                                     Compare(options, "written, pool", "write", false),
                                     Compare(options, "read, backing file", "read", true),
                                     Compare(options, "written, backing file", "write", true)}) {
    for (const nlohmann::json& row : rows) result["rows"].push_back(row);
  }
  WriteJson(options.json_path, result);
}

}  // namespace
}  // namespace zmem

int main(int argc, char** argv) {
  zmem::Options options;
  CLI::App app("Measures what keeping the stored forms of clean pages saves.");
  app.add_option("--mib", options.mib, "size of the program")->check(CLI::Range(16, 65536));
  app.add_option("--rounds", options.rounds, "of each side")->check(CLI::Range(1, 1000));
  app.add_option("--compressor", options.compressor, "lz4, lzo or zstd");
  app.add_option("--directory", options.directory, "of the backing file, on a disk")
      ->check(CLI::ExistingDirectory);
  app.add_option("--json", options.json_path, "also write the results here");
  app.add_flag("--subject", options.subject, "be the program that is measured")->group("");
  CLI11_PARSE(app, argc, argv);
  if (options.subject) {
    return zmem::Subject(options.mib << 20 >> zmem::kPageShift).Serve();
  }
  return zmem::RunBench("scan", [&] { zmem::Run(options); });
}
