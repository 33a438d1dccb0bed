// Subject program: starts very many short programs in every way there is, most of which end at
// once, while some live long enough to be managed themselves and are then killed or become other
// programs.
//   starter [--mib N] [--count N] [--parallel N] [--seed N]
//   starter --live-ms N [--then-exec]      (it runs itself as these programs)
#include <signal.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "tests/programs/command_loop.h"
#include "tests/programs/pattern_region.h"

namespace zmem {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr uint64_t kVersion = 1;

struct Options {
  size_t mib = 32;
  size_t count = 1500;
  size_t parallel = 16;
  uint64_t seed = 1;
  std::optional<int> live_ms;
  bool then_exec = false;
};

enum class Kind {
  kExit,         // forked, ends at once
  kReadAndExit,  // forked, reads pages that its parent's were stored when it forked, ends
  kKilled,       // forked, reads such pages until it is killed
  kVfork,        // vfork and exec of /bin/true
  kSpawn,        // posix_spawn of /bin/true
  kManaged,      // another program, which is managed as soon as it starts, ends after a while
  kManagedKilled,
  kManagedExec,  // becomes itself once more in the middle
  kCount,
};

// How many of 32 programs are of each kind: the managed ones cost most.
constexpr std::array<int, static_cast<size_t>(Kind::kCount)> kShares = {9, 6, 4, 4, 4, 2, 2, 1};

constexpr const char* kNames[] = {"exit",  "read and exit", "killed",         "vfork",
                                  "spawn", "managed",       "managed killed", "managed exec"};
static_assert(std::size(kNames) == static_cast<size_t>(Kind::kCount));

// A program that was started and has not been waited for.
struct Running {
  Kind kind;
  std::optional<Clock::time_point> kill_at;
};

class Subject {
 public:
  explicit Subject(const Options& options)
      : options_(options),
        random_(options.seed),
        region_(options.mib << 20 >> kPageShift, PageContent::kCompressible) {
    region_.Fill(kVersion);
  }

  std::string Verify() const {
    std::string wrong = region_.Verify(kVersion);
    return wrong.empty() ? "ok" : wrong;
  }

  // Starts all of them, some at a time. Answers how many of each kind there were.
  std::string RunAll() {
    std::array<size_t, static_cast<size_t>(Kind::kCount)> counts{};
    for (size_t started = 0; started < options_.count; ++started) {
      Kind kind = Choose();
      ++counts[static_cast<size_t>(kind)];
      std::string wrong = Start(kind);
      while (wrong.empty() && running_.size() >= options_.parallel) wrong = Reap();
      if (!wrong.empty()) return wrong;
    }
    while (!running_.empty()) {
      std::string wrong = Reap();
      if (!wrong.empty()) return wrong;
    }
    std::string answer = "ok";
    for (size_t i = 0; i < counts.size(); ++i) {
      answer += std::string(i == 0 ? " " : ", ") + std::to_string(counts[i]) + " " + kNames[i];
    }
    return answer;
  }

 private:
  uint64_t Below(uint64_t bound) { return random_() % bound; }

  Kind Choose() {
    auto left = static_cast<int>(Below(32));
    size_t kind = 0;
    while (left >= kShares[kind]) left -= kShares[kind++];
    return static_cast<Kind>(kind);
  }

  std::string Start(Kind kind) {
    uint64_t first = Below(region_.pages());
    pid_t pid = StartProcess(kind, first);
    if (pid < 0) return std::string("cannot start: ") + kNames[static_cast<size_t>(kind)];
    Running running{kind, std::nullopt};
    if (kind == Kind::kKilled || kind == Kind::kManagedKilled) {
      uint64_t longest_ms = kind == Kind::kKilled ? 10 : 200;
      running.kill_at = Clock::now() + milliseconds(Below(longest_ms));
    }
    running_[pid] = running;
    return "";
  }

  pid_t StartProcess(Kind kind, uint64_t first_page) {
    switch (kind) {
      case Kind::kVfork: {
        pid_t pid = vfork();
        if (pid == 0) {
          execl("/bin/true", "true", nullptr);
          _exit(127);
        }
        return pid;
      }
      case Kind::kSpawn:
        return Spawn({"/bin/true"}, false);
      case Kind::kManaged:
      case Kind::kManagedKilled:
        return Spawn({"/proc/self/exe", "--live-ms", std::to_string(Below(300))}, true);
      case Kind::kManagedExec:
        return Spawn({"/proc/self/exe", "--live-ms", std::to_string(Below(150)), "--then-exec"},
                     true);
      default:
        return Fork(kind, first_page);
    }
  }

  pid_t Fork(Kind kind, uint64_t first_page) const {
    pid_t pid = fork();
    if (pid != 0) return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (kind == Kind::kExit) _exit(0);
    constexpr uint64_t kReadPages = 64;
    for (uint64_t step = 0; kind == Kind::kKilled || step < kReadPages; ++step) {
      uint64_t page = (first_page + step * 5) % region_.pages();
      if (!VerifyPage(region_.page(page), page, kVersion)) _exit(1);
    }
    _exit(0);
  }

  // `managed` programs are attached at once, or end with an exit code.
  static pid_t Spawn(std::vector<std::string> arguments, bool managed) {
    std::vector<std::string> variables;
    for (char** variable = environ; *variable != nullptr; ++variable) {
      if (!managed || std::strncmp(*variable, "ZMEM_MIN_RESIDENT=", 18) != 0) {
        variables.emplace_back(*variable);
      }
    }
    if (managed) {
      variables.insert(variables.end(), {"ZMEM_MIN_RESIDENT=64K", "ZMEM_REQUIRED=1"});
    }
    std::vector<char*> argv = Pointers(arguments);
    std::vector<char*> env = Pointers(variables);
    pid_t pid = -1;
    return posix_spawn(&pid, argv[0], nullptr, nullptr, argv.data(), env.data()) == 0 ? pid : -1;
  }

  static std::vector<char*> Pointers(std::vector<std::string>& strings) {
    std::vector<char*> pointers;
    for (std::string& text : strings) pointers.push_back(text.data());
    pointers.push_back(nullptr);
    return pointers;
  }

  // Kills those whose time has come, and waits for one that has ended; none is no error.
  std::string Reap() {
    for (auto& [pid, running] : running_) {
      if (!running.kill_at.has_value() || Clock::now() < *running.kill_at) continue;
      kill(pid, SIGKILL);
      running.kill_at.reset();
    }
    int status = 0;
    pid_t pid = waitpid(-1, &status, WNOHANG);
    if (pid == 0) {
      std::this_thread::sleep_for(std::chrono::microseconds(500));
      return "";
    }
    if (pid < 0) return std::string("waitpid: ") + std::strerror(errno);
    Kind kind = running_.at(pid).kind;
    running_.erase(pid);
    bool to_be_killed = kind == Kind::kKilled || kind == Kind::kManagedKilled;
    if (status == 0 || (to_be_killed && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)) {
      return "";
    }
    return std::string("WRONG wait status ") + std::to_string(status) + " of one that was " +
           kNames[static_cast<size_t>(kind)];
  }

  const Options options_;
  std::mt19937_64 random_;
  PatternRegion region_;
  std::map<pid_t, Running> running_;
};

// One of the programs that are managed: looks at its memory until its time is up.
int Live(const Options& options, char** argv) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  PatternRegion region(512, PageContent::kCompressible);
  region.Fill(kVersion);
  auto deadline = Clock::now() + milliseconds(*options.live_ms);
  do {
    std::this_thread::sleep_for(milliseconds(20));  // time to be taken out
    std::string wrong = region.Verify(kVersion);
    if (!wrong.empty()) {
      std::fprintf(stderr, "%s\n", wrong.c_str());
      return 1;
    }
  } while (Clock::now() < deadline);
  if (!options.then_exec) return 0;
  argv[3] = nullptr;  // without --then-exec
  execv("/proc/self/exe", argv);
  return 127;
}

}  // namespace
}  // namespace zmem

int main(int argc, char** argv) {
  zmem::Options options;
  CLI::App app("Starts short programs when told to on stdin.");
  app.add_option("--mib", options.mib, "size of the region");
  app.add_option("--count", options.count, "programs to start");
  app.add_option("--parallel", options.parallel, "programs at a time");
  app.add_option("--seed", options.seed, "of all choices");
  app.add_option("--live-ms", options.live_ms, "be one of the programs");
  app.add_flag("--then-exec", options.then_exec, "and then the same again");
  CLI11_PARSE(app, argc, argv);
  if (options.live_ms.has_value()) return zmem::Live(options, argv);

  zmem::Subject subject(options);
  return zmem::ServeCommands({
      {"verify", [&] { return subject.Verify(); }},
      {"run", [&] { return subject.RunAll(); }},
  });
}
