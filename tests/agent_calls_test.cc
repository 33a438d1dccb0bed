// Each system call of libzmem.so's agent fails once, and each is once the program's last. A program
// whose agent fails before it is managed runs on as if there were no zmem; one that is managed
// loses no page and waits for nothing; and what dies in between leaves nothing behind in the
// daemon. The calls of a life without bad luck are listed first; then lives are led in which one of
// them, by its number, goes wrong. By default a random sample of them.
//   --sample=N (of each test's lives)   --full   --seed=N   --at=NUMBER [--errno=K]
#include <gtest/gtest.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <random>
#include <set>
#include <sstream>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "tests/holdings.h"
#include "tests/page_pattern.h"
#include "tests/system_test.h"

namespace zmem {
namespace {

size_t sample_count = 8;
bool full = false;
uint64_t seed = 20250301;
std::optional<size_t> only_at;  // no other call
size_t only_error = 0;

using std::chrono::milliseconds;
using std::chrono::seconds;

// Everything is taken out as soon as it is looked at, but stays in the staging area at first.
constexpr char kEvictAlways[] = "[policy]\ncold_age=1ms\nscan_interval=10ms\nmin_resident=64K\n";
// What a program waits for in vain it would wait for much longer.
constexpr milliseconds kPrompt = seconds(10);

// What goes wrong in a life.
struct Mishap {
  std::optional<size_t> fail;  // the call that fails, with which of its errors
  size_t error = 0;
  std::optional<size_t> kill;      // the call at which the process is killed
  std::vector<std::string> where;  // failing_calls' arguments that say which calls are counted

  bool verbose() const { return fail.has_value() && *fail % 2 == 1; }
  std::vector<std::string> Arguments() const {
    std::vector<std::string> arguments;
    if (fail) arguments = {"--fail", absl::StrCat(*fail), "--errno", absl::StrCat(error)};
    if (kill) arguments = {"--kill", absl::StrCat(*kill)};
    arguments.insert(arguments.end(), where.begin(), where.end());
    return arguments;
  }
};

// A program under failing_calls.
class Life {
 public:
  Life(ChildOptions options, const Mishap& mishap, const std::string& report)
      : mishap_(mishap), report_(report), may_say_(mishap.verbose()) {
    std::vector<std::string> argv = Subject("failing_calls", {"--report", report});
    for (const std::string& argument : mishap.Arguments()) argv.push_back(argument);
    argv.push_back("--");
    argv.insert(argv.end(), options.argv.begin(), options.argv.end());
    options.argv = argv;
    options.env["ZMEM"] = "0";  // until the program itself is started
    options.env["ZMEM_VERBOSE"] = mishap.verbose() ? "1" : "0";
    child_ = std::make_unique<Child>(options);
  }

  Child& child() { return *child_; }
  pid_t pid() const { return child_->pid(); }
  // So far.
  std::string report() const {
    std::stringstream text;
    text << std::ifstream(report_).rdbuf();
    return text.str();
  }

  // Ends are successes, and most programs say nothing unless they are asked to.
  void MayEndWith(std::function<bool(const ExitStatus&)> accepts) { accepts_ = std::move(accepts); }
  void MaySay() { may_say_ = true; }

  void Do(const std::string& command) {
    std::string answer = child_->Ask(command, kPrompt);
    if (!answer.starts_with("ok")) throw HarnessError(absl::StrCat(command, ": ", answer));
  }

  // Ends the program, if it has not ended, and checks how it went.
  void Finish() {
    child_->CloseInput();
    ExitStatus status = child_->Wait(kPrompt);
    WaitUntil("the report to be complete", kPrompt, [&] { return report().ends_with("end\n"); });
    if (!killed() && !accepts_(status)) {
      throw HarnessError(absl::StrCat("ended with ", status.ToString()));
    }
    std::string errors = child_->errors();
    if (killed()) return;
    int64_t lines = std::count(errors.begin(), errors.end(), '\n');
    if (lines > (may_say_ ? 1 : 0) || (lines == 1 && !errors.starts_with("zmem: "))) {
      throw HarnessError("said " + errors);
    }
  }

  bool killed() const { return report().find("killed at") != std::string::npos; }
  // What went wrong: for messages.
  std::string Summary() const {
    std::string summary = absl::StrJoin(mishap_.Arguments(), " ");
    for (absl::string_view line : absl::StrSplit(report(), '\n')) {
      bool is_call = line.empty() || absl::ascii_isdigit(static_cast<unsigned char>(line[0]));
      if (!is_call) absl::StrAppend(&summary, "; ", line);
    }
    return absl::StrCat(summary, "; stderr: ", child_->errors());
  }

 private:
  const Mishap mishap_;
  const std::string report_;
  bool may_say_;
  std::function<bool(const ExitStatus&)> accepts_ = [](const ExitStatus& status) {
    return status.Succeeded();
  };
  std::unique_ptr<Child> child_;
};

// A call of a life, as its report has it.
struct Call {
  std::string name;
  size_t errors;
};

std::vector<Call> Calls(const std::string& report) {
  std::vector<Call> calls;
  for (const std::string& line : std::vector<std::string>(absl::StrSplit(report, '\n'))) {
    size_t first = line.find(' ');
    size_t last = line.rfind(' ');
    size_t number;
    size_t errors;
    if (first == last || !absl::SimpleAtoi(line.substr(0, first), &number)) continue;
    if (!absl::SimpleAtoi(line.substr(last + 1), &errors)) continue;
    calls.push_back({line.substr(first + 1, last - first - 1), errors});
  }
  return calls;
}

// All that can go wrong in a life with these calls. Of a run of the same call, made for page after
// page, the first ones stand for all.
std::vector<Mishap> Mishaps(const std::vector<Call>& calls, bool kill) {
  constexpr size_t kOfRun = 3;
  std::vector<Mishap> mishaps;
  size_t run = 0;
  for (size_t number = 0; number < calls.size(); ++number) {
    run = number > 0 && calls[number].name == calls[number - 1].name ? run + 1 : 0;
    if (run >= kOfRun || (only_at && number != *only_at)) continue;
    if (kill) {
      mishaps.push_back({.kill = number});
      continue;
    }
    for (size_t error = 0; error < calls[number].errors; ++error) {
      if (!only_at || error == only_error) mishaps.push_back({.fail = number, .error = error});
    }
  }
  return mishaps;
}

// With it, or without it, the program may have ended.
bool AgentHasEnded(pid_t pid) {
  try {
    return CountEntries(absl::StrCat("/proc/", pid, "/task")) < 2;
  } catch (const std::filesystem::filesystem_error&) {
    return true;
  }
}

class AgentCalls : public SystemTest {
 protected:
  using Script = std::function<void(Life&)>;
  // What starts and ends with each life.
  using MakeProgram = std::function<ChildOptions()>;
  using Where = std::vector<std::string>;

  // Leads a life to its end. What it waits for in vain, or finds wrong, is a failure.
  std::string Lead(const ChildOptions& program, const Mishap& mishap, const Script& script) {
    std::string path = directory_.File(absl::StrCat("report", lives_++));
    Life life(program, mishap, path);
    try {
      try {
        script(life);
      } catch (const HarnessError& error) {
        bool ended_too_soon = absl::StrContains(error.what(), "ended") ||
                              absl::StrContains(error.what(), "cannot send") ||
                              absl::StrContains(error.what(), "wait status is 9");
        if (!life.killed() || !ended_too_soon) throw;
      }
      life.Finish();
    } catch (const HarnessError& error) {
      ADD_FAILURE() << error.what() << "\n" << life.Summary();
    }
    EXPECT_FALSE(absl::StrContains(life.report(), "unknown")) << life.Summary();
    return life.report();
  }

  // Leads a life in which nothing goes wrong, and then one for each mishap, or for some.
  void Walk(const MakeProgram& make_program, const Script& script, bool kill, const Where& where,
            const std::function<void()>& after) {
    std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
    std::vector<Call> calls = Calls(Lead(make_program(), {.where = where}, script));
    std::vector<Mishap> mishaps = Mishaps(calls, kill);
    ASSERT_FALSE(mishaps.empty());
    size_t all = mishaps.size();
    std::mt19937_64 random(seed);
    std::shuffle(mishaps.begin(), mishaps.end(), random);
    if (!full && !only_at) mishaps.resize(std::min(all, sample_count));
    std::printf("%zu calls, %zu mishaps, %zu lives\n", calls.size(), all, mishaps.size());
    after();
    size_t met = 0;
    for (Mishap mishap : mishaps) {
      mishap.where = where;
      std::string report = Lead(make_program(), mishap, script);
      met += absl::StrContains(report, kill ? "killed at" : "failed") ? 1 : 0;
      try {
        after();
      } catch (const HarnessError& error) {
        ADD_FAILURE() << error.what() << "\n" << absl::StrJoin(mishap.Arguments(), " ");
        return;  // what it keeps it keeps
      }
      if (HasFailure() && !full) return;
    }
    std::printf("%zu lives met their mishap\n", met);
    // No two lives are quite the same: a short one ends before it.
    EXPECT_GE(met, mishaps.size() / 2);
  }

  void WalkManaged(bool kill) {
    Daemon daemon({.config = kEvictAlways});
    ChildOptions program = Quick(Managed(daemon, Subject("pages", {"--mib", "4"})));
    WalkWith(daemon, program, [&](Life& life) { LiveManaged(daemon, life); }, kill, {});
  }
  void WalkForked(bool kill) {
    Daemon daemon({.config = kEvictAlways});
    ChildOptions program = Quick(Managed(daemon, Subject("forks", {"--mib", "4"})));
    WalkWith(daemon, program, [&](Life& life) { LiveInChild(daemon, life); }, kill, {"--in-child"});
  }
  void WalkWith(const Daemon& daemon, const ChildOptions& program, const Script& script, bool kill,
                const Where& where) {
    Lead(program, {.where = where}, script);  // a daemon has more after its first program
    WaitPoolEmpty(daemon);
    Holdings before = Holdings::Of(daemon);
    Walk([&] { return program; }, script, kill, where, [&] { AwaitNoMoreThan(daemon, before); });
  }
  // Of calls after Begin().
  void WalkFromThen(const MakeProgram& make_program, const Script& script) {
    auto make = [&] {
      std::filesystem::remove(begin());
      return make_program();
    };
    Walk(make, script, false, {"--begin", begin()}, [] {});
  }
  void WalkStart(bool required) {
    Daemon daemon;
    ChildOptions program = Managed(daemon, Subject("pages", {"--mib", "4"}));
    if (required) program.env["ZMEM_REQUIRED"] = "1";
    auto script = [&](Life& life) {
      if (required) AcceptUnavailable(life);
      WaitUntil("the program to start, or end", kPrompt,
                [&] { return !life.child().output().empty() || !life.child().Running(); });
      if (required && life.child().output().empty()) return;
      EXPECT_EQ(life.child().ReadLine(kPrompt), "ready");
      life.Do("verify");
      life.Do("fork");
      bool managed = BecomesManaged(daemon, life.pid());
      if (managed) daemon.Ctl({"evict", absl::StrCat(life.pid())});
      EXPECT_TRUE(managed || !required) << life.Summary();
      life.Do("verify");
    };
    WalkWith(daemon, program, script, false, {"--start-up"});
  }

  // ZMEM_REQUIRED's end for a program that cannot be managed: it says why.
  static void AcceptUnavailable(Life& life) {
    constexpr int kUnavailable = 69;
    life.MaySay();
    life.MayEndWith([&life](const ExitStatus& status) {
      bool told = !life.child().errors().empty();
      return status.Succeeded() || (!status.signalled && status.number == kUnavailable && told);
    });
  }

  std::string begin() const { return directory_.File("begin"); }
  void Begin() const { directory_.Write("begin", ""); }

  static ChildOptions Quick(ChildOptions program) {
    program.env["ZMEM_DAEMON_TIMEOUT"] = "5";
    return program;
  }

  // Waits until it is clear whether the process is managed. What fails early is tried again soon.
  static bool BecomesManaged(const Daemon& daemon, pid_t pid) {
    bool attached = false;
    WaitUntil("the program to be managed, or left alone", kPrompt, [&] {
      attached = daemon.Attached(pid);
      return attached || AgentHasEnded(pid);
    });
    return attached;
  }

  // Everything that makes an agent do something: pages go out, are staged, come back, are
  // discarded; a fork empties the staging area; and the program wants to be alone.
  void LiveManaged(const Daemon& daemon, Life& life) {
    EXPECT_EQ(life.child().ReadLine(kPrompt), "ready");
    life.Do("verify");
    if (BecomesManaged(daemon, life.pid())) daemon.Ctl({"evict", absl::StrCat(life.pid())});
    life.Do("verify");
    life.Do("rewrite");
    if (daemon.Attached(life.pid())) {
      WaitUntil("pages to be out", kPrompt, [&] {
        auto process = daemon.FindProcess(life.pid());
        return !process || process->at("staged_pages") > 0 || process->at("stored_pages") > 0;
      });
    }
    life.Do("fork");
    life.Do("verify");
    life.Do("unshare user");
    life.Do("verify");
  }

  // The daemon is killed while it has the program's pages, and one is touched.
  void LiveAsOrphan(Daemon& daemon, Life& life) {
    WaitReady(daemon, life.child());
    EvictAtLeast(daemon, life.child(), 900);  // of 1,024
    Begin();
    daemon.child().Signal(SIGKILL);
    daemon.child().Wait(kPrompt);
    life.child().Send("verify");
    life.MayEndWith([](const ExitStatus& status) { return status.number == SIGKILL; });
    life.MaySay();
    life.child().Wait(kPrompt);
    EXPECT_EQ(life.child().output(), "ready\n") << life.Summary();
    bool voiceless = absl::StrContains(life.report(), "failed pidfd_getfd") ||
                     absl::StrContains(life.report(), "failed write");
    EXPECT_NE(absl::StrContains(life.child().errors(), "zmemd died"), voiceless) << life.Summary();
  }

  // Everything is out when the program dumps core.
  void LiveUntilCoreDump(const Daemon& daemon, Life& life, const std::string& directory) {
    WaitReady(daemon, life.child());
    EvictAtLeast(daemon, life.child(), 900);
    Begin();
    life.child().Send("abort");
    life.MayEndWith([](const ExitStatus& status) { return status.number == SIGABRT; });
    life.child().Wait(kPrompt);
    EXPECT_EQ(TakePagesOfCore(directory), 1024U) << life.Summary();
  }

  // Removes the core dump in this directory. Returns how many of the program's pages were in it.
  static size_t TakePagesOfCore(const std::string& directory) {
    std::set<uint64_t> numbers;
    for (const auto& entry : std::filesystem::directory_iterator(directory)) {
      if (!entry.path().filename().string().starts_with("core")) continue;
      std::ifstream core(entry.path(), std::ios::binary);
      alignas(8) std::byte page[kPageBytes];
      while (core.read(reinterpret_cast<char*>(page), sizeof page)) {
        PageFinding found = InspectPage(page);
        if (found.intact && !found.all_zero && found.version == 1) numbers.insert(found.number);
      }
      std::filesystem::remove(entry.path());
    }
    return numbers.size();
  }

  void LiveInChild(const Daemon& daemon, Life& life) {
    EXPECT_EQ(life.child().ReadLine(kPrompt), "ready");
    if (BecomesManaged(daemon, life.pid())) daemon.Ctl({"evict", absl::StrCat(life.pid())});
    life.Do("live on in a child");
    std::string who = life.child().Ask("who", kPrompt);
    pid_t child = 0;
    if (!absl::SimpleAtoi(who, &child)) throw HarnessError("who: " + who);
    if (child == life.pid()) throw HarnessError("the child has ended");
    if (BecomesManaged(daemon, child)) daemon.Ctl({"evict", absl::StrCat(child)});
    life.Do("verify");
    life.Do("rewrite");
    if (daemon.Attached(child)) daemon.Ctl({"evict", absl::StrCat(child)});
    life.Do("fork");
    life.Do("verify");
    life.Do("end");
  }

  TempDir directory_;
  int lives_ = 0;
};

TEST_F(AgentCalls, AManagedProgramLosesNothingWhenOneFails) { WalkManaged(false); }
TEST_F(AgentCalls, AProgramThatIsKilledAtOneLeavesNothingBehind) { WalkManaged(true); }
TEST_F(AgentCalls, AForkedChildLosesNothingWhenOneFails) { WalkForked(false); }
TEST_F(AgentCalls, AForkedChildThatIsKilledAtOneLeavesNothingBehind) { WalkForked(true); }

TEST_F(AgentCalls, AnOrphanIsToldWhenOneFails) {
  std::unique_ptr<Daemon> daemon;
  auto make_program = [&] {
    daemon = std::make_unique<Daemon>();
    ChildOptions program = Managed(*daemon, Subject("pages", {"--mib", "4"}));
    program.env["ZMEM_DAEMON_TIMEOUT"] = "1";
    return program;
  };
  WalkFromThen(make_program, [&](Life& life) { LiveAsOrphan(*daemon, life); });
}

TEST_F(AgentCalls, AnOrphanThatWantsToBeAloneIsRefusedSoon) {
  Daemon daemon;
  Child child(Managed(daemon, Subject("pages", {"--mib", "4"})));
  WaitReady(daemon, child);
  daemon.child().Signal(SIGKILL);
  daemon.child().Wait(kPrompt);
  EXPECT_EQ(child.Ask("unshare user", kPrompt), "unshare failed");
}

TEST_F(AgentCalls, ACoreDumpIsWholeWhenOneFails) {
  std::string pattern;
  std::getline(std::ifstream("/proc/sys/kernel/core_pattern"), pattern);
  if (pattern.empty() || pattern[0] == '|' || pattern[0] == '/') {
    GTEST_SKIP() << "core dumps go to " << pattern;
  }
  Daemon daemon;
  std::string directory = directory_.path();
  ChildOptions program =
      Managed(daemon, Subject("pages", {"--mib", "4", "--dump-core", directory}));
  program.env["ZMEM_CORE_DUMPS"] = "1";
  WalkFromThen([&] { return program; },
               [&](Life& life) { LiveUntilCoreDump(daemon, life, directory); });
}

TEST_F(AgentCalls, AProgramStartsWhenOneOfTheStartFails) { WalkStart(false); }
TEST_F(AgentCalls, AProgramThatMustBeManagedIsOrEnds) { WalkStart(true); }

TEST_F(AgentCalls, WithoutAZmemdAProgramRunsOnWhenOneFails) {
  ChildOptions program = {
      .argv = Subject("pages", {"--mib", "4"}),
      .env = ManagedEnvironment(directory_.File("s"), Runfile("preload/libzmem.so"))};
  auto script = [](Life& life) {
    EXPECT_EQ(life.child().ReadLine(kPrompt), "ready");
    // It has been tried in vain, and again.
    WaitUntil("the agent to try again", kPrompt, [&] {
      std::string report = life.report();
      return AgentHasEnded(life.pid()) || report.find(" connect ") != report.rfind(" connect ");
    });
    life.Do("verify");
    life.Do("unshare user");
    life.Do("verify");
  };
  Walk([&] { return program; }, script, false, {}, [] {});
}

}  // namespace
}  // namespace zmem

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  CLI::App app("Makes each system call of the agent fail once.");
  app.add_option("--sample", zmem::sample_count, "lives led in each test");
  app.add_flag("--full", zmem::full, "as many as there are calls and errors");
  app.add_option("--seed", zmem::seed, "of the sample");
  app.add_option("--at", zmem::only_at, "the number of the only call that fails");
  app.add_option("--errno", zmem::only_error, "which of its errors");
  CLI11_PARSE(app, argc, argv);
  return RUN_ALL_TESTS();
}
