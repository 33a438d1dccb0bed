// What zmem adds to fork in a program whose memory it keeps, measured by turns in one run:
//   fork       a program most of whose memory is stored, beside programs without zmem: one that has
//              as many pages resident, one of which the kernel's zram has as much, and one that has
//              all of them resident
//   children   the ways of starting another program, from one that is managed and has all its
//              memory resident; its children run without libzmem.so (what that costs them is
//              bench/spawn's subject) and, for comparison, with it. Beside it one without zmem, and
//              one without zmem whose memory was in zram and is back
// Fork reads what the kernel knows of each page, and each page table. Memory that was out, by
// whatever means, keeps its page tables, and is scattered over the machine's memory when it is
// back: the programs over zram show how much of the difference is that. The bench runs itself again
// as these programs (--subject).
//   fork_latency [--gib N] [--rounds N] [--child-rounds N] [--json FILE]
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bench/machine.h"
#include "bench/run.h"
#include "bench/samples.h"
#include "bench/zram_swap.h"
#include "libzmem/base/clock.h"
#include "libzmem/base/kernel_figures.h"
#include "libzmem/base/sys.h"
#include "tests/harness.h"
#include "tests/programs/command_loop.h"
#include "tests/programs/pattern_region.h"

namespace zmem {
namespace {

constexpr std::chrono::seconds kAnswerTimeout{300};
constexpr size_t kWarmUpRounds = 3;
constexpr size_t kSmallMib = 64;
// The share of a region that is stored, or in a program without zmem absent: its first pages.
constexpr double kStoredShare = 0.75;
constexpr double kMostAddedToForkMs = 5;
constexpr double kMostAddedToChildUs = 100;
// By hand only, into a pool that takes all of it on a machine of any size that has the memory.
constexpr char kConfig[] =
    "[pool]\nmax_pool_percent=90\n[policy]\ncold_age=1h\nscan_interval=1h\nmin_resident=1M\n";

struct Options {
  double gib = 4;
  int rounds = 40;
  int child_rounds = 200;
  std::string json_path;
  bool subject = false;
  size_t subject_mib = 0;
};

// Times of one or more things in nanoseconds, by name.
using Times = std::map<std::string, int64_t>;

// The program that forks.
class Subject {
 public:
  explicit Subject(size_t pages) : region_(pages, PageContent::kCompressible) {
    region_.Fill(kVersion);
    stored_pages_ = static_cast<size_t>(static_cast<double>(pages) * kStoredShare);
    void* shared =
        mmap(nullptr, kPageBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) {
      std::perror("mmap");
      std::exit(2);
    }
    of_child_ = static_cast<ChildTimes*>(shared);
  }

  int Serve() {
    return ServeCommands({
        {"verify", [this] { return OkUnless(region_.Verify(kVersion)); }},
        {"touch the rest", [this] { return TouchTheRest(); }},
        {"drop the share", [this] { return DropTheShare(); }},
        {"page out", [this] { return PageOut(); }},
        {"children load nothing", [] { return Result(unsetenv("LD_PRELOAD")); }},
        {"fork", [this] { return Fork(); }},
        {"fork, exec", [] { return TimeStart(&ForkAndExec); }},
        {"vfork, exec", [] { return TimeStart(&VforkAndExec); }},
        {"posix_spawn", [] { return TimeStart(&Spawn); }},
        {"system", [] { return TimeStart([] { return system("true"); }); }},
    });
  }

 private:
  static constexpr uint64_t kVersion = 1;

  // Written by the child: when its first read of a page of the stored share began and ended.
  struct ChildTimes {
    int64_t read_start_ns;
    int64_t read_end_ns;
    bool right;
  };

  static std::string OkUnless(const std::string& wrong) { return wrong.empty() ? "ok" : wrong; }
  static std::string Result(int result) { return result == 0 ? "ok" : std::strerror(errno); }
  static std::string Json(const Times& times) { return nlohmann::json(times).dump(); }

  std::string TouchTheRest() const {
    for (size_t page = stored_pages_; page < region_.pages(); ++page) {
      if (!VerifyPage(region_.page(page), page, kVersion)) return region_.Describe(page, kVersion);
    }
    return "ok";
  }

  std::string DropTheShare() {
    dropped_ = true;
    return Result(madvise(region_.page(0), stored_pages_ * kPageBytes, MADV_DONTNEED));
  }

  std::string PageOut() const {
    return Result(madvise(region_.page(0), region_.pages() * kPageBytes, MADV_PAGEOUT));
  }

  // The page that the child reads: of the stored share, or where that was dropped, a resident one.
  size_t FirstRead() const { return dropped_ ? region_.pages() - 1 : stored_pages_ / 2; }

  std::string Fork() {
    MonotonicClock clock;
    int64_t start_ns = clock.now_ns();
    pid_t pid = fork();
    if (pid == 0) {
      size_t page = FirstRead();
      of_child_->read_start_ns = clock.now_ns();
      static_cast<void>(*const_cast<volatile std::byte*>(region_.page(page)));
      of_child_->read_end_ns = clock.now_ns();
      of_child_->right = VerifyPage(region_.page(page), page, kVersion);
      _exit(0);
    }
    int64_t forked_ns = clock.now_ns();
    int status = -1;
    if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0) return "fork failed";
    if (!of_child_->right) return "WRONG page in the child";
    return Json({{"fork() in the parent", forked_ns - start_ns},
                 {"fork() to child's first read", of_child_->read_end_ns - start_ns},
                 {"child's first read alone", of_child_->read_end_ns - of_child_->read_start_ns}});
  }

  // `start` runs /bin/true and returns its wait status.
  static std::string TimeStart(const std::function<int()>& start) {
    MonotonicClock clock;
    int64_t start_ns = clock.now_ns();
    if (start() != 0) return "/bin/true failed";
    return Json({{"", clock.now_ns() - start_ns}});
  }

  static int Await(pid_t pid) {
    int status = -1;
    return pid > 0 && waitpid(pid, &status, 0) == pid ? status : -1;
  }
  static int ForkAndExec() {
    pid_t pid = fork();
    if (pid == 0) ExecTrue();
    return Await(pid);
  }
  static int VforkAndExec() {
    pid_t pid = vfork();
    if (pid == 0) ExecTrue();
    return Await(pid);
  }
  [[noreturn]] static void ExecTrue() {
    execl("/bin/true", "true", nullptr);
    _exit(127);
  }
  static int Spawn() {
    char path[] = "/bin/true";
    char* argv[] = {path, nullptr};
    pid_t pid = -1;
    return posix_spawn(&pid, path, nullptr, nullptr, argv, environ) == 0 ? Await(pid) : -1;
  }

  PatternRegion region_;
  size_t stored_pages_;
  bool dropped_ = false;
  ChildTimes* of_child_;
};

// A subject, and what it measured.
struct Program {
  std::string name;
  std::unique_ptr<Child> child;
  std::map<std::string, std::vector<int64_t>> taken_ns;
};

void Command(const Program& program, const std::string& command) {
  std::string answer = program.child->Ask(command, kAnswerTimeout);
  if (answer != "ok") throw HarnessError(program.name + ": " + command + ": " + answer);
}

// Has each of `programs` do `operation`, by turns: another one goes first each time, and the
// direction changes, so that none always follows the same one.
void Measure(const std::string& operation, int rounds, std::vector<Program>& programs) {
  size_t count = programs.size();
  for (size_t round = 0; round < kWarmUpRounds + static_cast<size_t>(rounds); ++round) {
    size_t step = round / count % 2 == 0 ? 1 : count - 1;
    for (size_t i = 0; i < count; ++i) {
      Program& program = programs[(round + i * step) % count];
      std::string answer = program.child->Ask(operation, kAnswerTimeout);
      nlohmann::json times = nlohmann::json::parse(answer, nullptr, false);
      if (times.is_discarded()) throw HarnessError(program.name + " says: " + answer);
      if (round < kWarmUpRounds) continue;
      for (const auto& [name, ns] : times.get<Times>()) {
        program.taken_ns[name.empty() ? operation : name].push_back(ns);
      }
    }
  }
  for (Program& program : programs) {
    for (auto& [name, taken_ns] : program.taken_ns) std::sort(taken_ns.begin(), taken_ns.end());
  }
}

int64_t AvailableBytes() {
  std::string text;
  sys::ReadFile("/proc/meminfo", text).IgnoreError();  // else nothing is found in it
  if (auto bytes = BytesFigure(text, "MemAvailable")) return static_cast<int64_t>(*bytes);
  throw HarnessError("/proc/meminfo has no MemAvailable");
}

class Bench {
 public:
  explicit Bench(const Options& options)
      : options_(options), mib_(static_cast<size_t>(options.gib * 1024)) {}

  void Run() {
    CheckMemory();
    why_no_zram_ = ZramSwap::WhyUnavailable();
    if (why_no_zram_.empty()) zram_.emplace(uint64_t{mib_} << 21);  // twice a program
    MeasureForks();
    MeasureChildren();
    zram_.reset();
    daemon_.Stop();
  }

  nlohmann::json Report() const {
    PrintMachine();
    if (!why_no_zram_.empty()) std::printf("no zram   %s\n", why_no_zram_.c_str());
    std::printf(
        "input     programs of %zu MiB, %.0f MiB of it stored, %d forks each; then of %zu "
        "MiB,\n          all resident, %d starts of /bin/true each; all by turns\n\n",
        mib_, stored_mib_, options_.rounds, kSmallMib, options_.child_rounds);
    nlohmann::json result = {{"benchmark", "fork_latency"},
                             {"machine", Machine()},
                             {"mib", mib_},
                             {"stored_mib", stored_mib_},
                             {"rounds", options_.rounds},
                             {"child_rounds", options_.child_rounds}};
    std::printf("%-30s %-34s %12s %12s %12s  %s\n", "", "", "median µs", "p99 µs", "added µs",
                "target");
    for (const char* row :
         {"fork() in the parent", "fork() to child's first read", "child's first read alone"}) {
      bool has_target = std::string(row) == "fork() in the parent";
      PrintRow(row, forks_, has_target ? kMostAddedToForkMs * 1e3 : 0, result["forks"]);
    }
    for (const char* row : kStarts) {
      PrintRow(row, children_, kMostAddedToChildUs, result["children"]);
    }
    return result;
  }

 private:
  static constexpr const char* kStarts[] = {"fork, exec", "vfork, exec", "posix_spawn", "system"};

  // All programs at their final sizes.
  void CheckMemory() const {
    double share_left = 1 - kStoredShare;
    double stored_bytes_per_byte = kStoredShare / 2;  // compressed at 2.4 to 1
    double needed =
        static_cast<double>(mib_ << 20) *
        (std::max(2 * (share_left + stored_bytes_per_byte) + share_left + 1, 1.5) + 0.25);
    if (static_cast<double>(AvailableBytes()) >= needed) return;
    throw HarnessError(
        absl::StrFormat("this takes %.1f GiB of memory, and %.1f are available; "
                        "take a smaller --gib",
                        needed / (1 << 30), static_cast<double>(AvailableBytes()) / (1 << 30)));
  }

  ChildOptions Argv(size_t mib, bool managed) const {
    std::vector<std::string> argv = {"/proc/self/exe", "--subject", "--subject-mib",
                                     absl::StrCat(mib)};
    return managed ? Managed(daemon_, argv) : ChildOptions{.argv = argv};
  }

  Program Start(const std::string& name, size_t mib, bool managed) const {
    Program program{name, std::make_unique<Child>(Argv(mib, managed)), {}};
    program.child->ReadLine(kAnswerTimeout);
    if (managed) {
      WaitAttached(daemon_, *program.child);
      daemon_.Evict(program.child->pid());
    }
    return program;
  }

  // One after the other, each down to its final size before the next one grows.
  void MeasureForks() {
    forks_.push_back(Start("without zmem, as many resident", mib_, false));
    Command(forks_.back(), "drop the share");
    forks_.push_back(Start("with zmem", mib_, true));
    Command(forks_.back(), "touch the rest");
    if (zram_) {
      forks_.push_back(Start("without zmem, over zram", mib_, false));
      Command(forks_.back(), "page out");
      Command(forks_.back(), "touch the rest");
    }
    forks_.push_back(Start("without zmem, all resident", mib_, false));
    CheckStored(*forks_[1].child);
    Measure("fork", options_.rounds, forks_);
    CheckStored(*forks_[1].child);
    for (Program& program : forks_) program.child.reset();
  }

  void CheckStored(const Child& child) {
    stored_mib_ = daemon_.Process(child.pid()).at("stored_pages").get<double>() / 256;
    if (stored_mib_ < static_cast<double>(mib_) * kStoredShare * 0.98) {
      throw HarnessError(absl::StrFormat("only %.0f MiB are stored", stored_mib_));
    }
  }

  // Everything was taken out once, so that all of it is registered, and is back.
  void MeasureChildren() {
    children_.push_back(Start("without zmem", kSmallMib, false));
    children_.push_back(Start("with zmem", kSmallMib, true));
    Command(children_.back(), "children load nothing");
    if (zram_) {
      children_.push_back(Start("without zmem, over zram", kSmallMib, false));
      Command(children_.back(), "page out");
    }
    children_.push_back(Start("with zmem, its children too", kSmallMib, true));
    for (const Program& program : children_) Command(program, "verify");
    for (const char* start : kStarts) Measure(start, options_.child_rounds, children_);
    for (Program& program : children_) program.child.reset();
  }

  // One measurement of all `programs`, the first of which is what the others are compared with.
  // `most_added_us` is the target for the second, 0 if there is none.
  static void PrintRow(const std::string& row, const std::vector<Program>& programs,
                       double most_added_us, nlohmann::json& result) {
    double plain_us = 0;
    for (size_t i = 0; i < programs.size(); ++i) {
      const std::vector<int64_t>& taken_ns = programs[i].taken_ns.at(row);
      double median_us = static_cast<double>(Percentile(taken_ns, 50)) / 1e3;
      double p99_us = static_cast<double>(Percentile(taken_ns, 99)) / 1e3;
      if (i == 0) plain_us = median_us;
      double added_us = median_us - plain_us;
      std::string target;
      if (i == 1 && most_added_us > 0) {
        target = absl::StrFormat("%.0f, %s", most_added_us,
                                 added_us <= most_added_us ? "met" : "missed");
      }
      std::printf("%-30s %-34s %12.1f %12.1f %12s  %s\n", i == 0 ? row.c_str() : "",
                  programs[i].name.c_str(), median_us, p99_us,
                  i == 0 ? "" : absl::StrFormat("%+.1f", added_us).c_str(), target.c_str());
      result.push_back({{"row", row},
                        {"program", programs[i].name},
                        {"median_us", median_us},
                        {"p99_us", p99_us},
                        {"added_us", added_us}});
    }
    std::printf("\n");
  }

  const Options options_;
  const size_t mib_;
  Daemon daemon_{{.config = kConfig}};
  std::vector<Program> forks_;
  std::vector<Program> children_;
  double stored_mib_ = 0;
  std::string why_no_zram_;
  std::optional<ZramSwap> zram_;
};

int Main(const Options& options) {
  if (options.subject) return Subject(options.subject_mib << 20 >> kPageShift).Serve();
  return RunBench("fork_latency", [&] {
    Bench bench(options);
    bench.Run();
    WriteJson(options.json_path, bench.Report());
  });
}

}  // namespace
}  // namespace zmem

int main(int argc, char** argv) {
  zmem::Options options;
  CLI::App app("Measures what zmem adds to fork, and to starting programs.");
  app.add_option("--gib", options.gib, "size of the programs that fork")
      ->check(CLI::Range(0.0625, 1024.0));
  app.add_option("--rounds", options.rounds, "forks of each program")->check(CLI::Range(1, 10'000));
  app.add_option("--child-rounds", options.child_rounds, "starts of each kind from each program")
      ->check(CLI::Range(1, 100'000));
  app.add_option("--json", options.json_path, "also write the results here");
  app.add_flag("--subject", options.subject, "be a program that is measured")->group("");
  app.add_option("--subject-mib", options.subject_mib, "its size")->group("");
  CLI11_PARSE(app, argc, argv);
  return zmem::Main(options);
}
