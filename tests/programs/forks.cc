// Subject program: forks, with its memory stored, in every way that C programs do, and checks that
// every generation sees every page.
//   forks --mib N
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <functional>
#include <string>

#include "tests/programs/command_loop.h"
#include "tests/programs/pattern_region.h"

namespace zmem {
namespace {

// Runs `body` in a forked child, and `meanwhile` here. Both answer "" or what is wrong.
std::string InChild(const std::function<std::string()>& body,
                    const std::function<std::string()>& meanwhile) {
  pid_t pid = fork();
  if (pid < 0) return "fork failed";
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);  // nothing stays behind when a test ends us
    std::string wrong = body();
    if (!wrong.empty()) std::fprintf(stderr, "child %d: %s\n", getpid(), wrong.c_str());
    _exit(wrong.empty() ? 0 : 1);
  }
  std::string wrong = meanwhile();
  int status = 0;
  if (waitpid(pid, &status, 0) != pid) return "waitpid failed";
  if (!wrong.empty()) return "parent: " + wrong;
  return status == 0 ? "" : "child's wait status is " + std::to_string(status);
}

class Subject {
 public:
  explicit Subject(size_t pages) : region_(pages, PageContent::kCompressible) {
    region_.Fill(version_);
  }

  std::string Verify() const { return region_.Verify(version_); }

  // Parent and child read everything at the same time.
  std::string Fork() {
    return InChild([this] { return Verify(); }, [this] { return Verify(); });
  }

  // The child touches nothing itself before its own child reads everything.
  std::string Generations() {
    return InChild(
        [this] {
          return InChild([this] { return InChild([this] { return Verify(); }, [] { return ""; }); },
                         [this] { return Verify(); });
        },
        [this] { return Verify(); });
  }

  // As redis' BGSAVE: the child writes out what was, while the parent goes on changing it.
  std::string Snapshot() {
    uint64_t before = version_++;
    std::string wrong = InChild([this, before] { return region_.Verify(before); },
                                [this] {
                                  region_.Fill(version_);
                                  return std::string();
                                });
    return wrong.empty() ? Verify() : wrong;
  }

  // The child changes everything; the parent must not see it.
  std::string ChildWrites() {
    return InChild(
        [this] {
          region_.Fill(version_ + 1);
          return region_.Verify(version_ + 1);
        },
        [this] { return Verify(); });
  }

  // Several children at once, each reading all.
  std::string ManyForks() {
    std::function<std::string(int)> fork_more = [&](int left) -> std::string {
      if (left == 0) return Verify();
      return InChild([this] { return Verify(); }, [&, left] { return fork_more(left - 1); });
    };
    return fork_more(4);
  }

  // From here on the child answers the commands; the parent answers again when the child has ended.
  std::string LiveOnInChild() {
    pid_t pid = fork();
    if (pid < 0) return "fork failed";
    if (pid > 0) {
      int status = -1;
      bool ended = waitpid(pid, &status, 0) == pid && status == 0;
      return ended ? "" : "child's wait status is " + std::to_string(status);
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    in_child_ = true;
    return "";
  }
  // Ends a child that lives on; a parent goes on.
  std::string End() {
    if (in_child_) _exit(Verify().empty() ? 0 : 1);
    return "";
  }

  std::string Rewrite() {
    region_.Fill(++version_);
    return Verify();
  }

  std::string Popen() {
    FILE* pipe = popen("echo hello", "r");
    if (pipe == nullptr) return "popen failed";
    char line[16] = {};
    bool read = fgets(line, sizeof line, pipe) != nullptr;
    if (pclose(pipe) != 0 || !read || std::string(line) != "hello\n") return "popen: wrong output";
    return Verify();
  }

  std::string System() {
    if (system("exit 7") != 7 << 8) return "system: wrong status";
    return Verify();
  }

  std::string Spawn() {
    char name[] = "true";
    char* argv[] = {name, nullptr};
    pid_t pid;
    if (posix_spawnp(&pid, name, nullptr, nullptr, argv, environ) != 0) return "posix_spawn failed";
    int status = -1;
    if (waitpid(pid, &status, 0) != pid || status != 0) return "posix_spawn: wrong status";
    return Verify();
  }

 private:
  PatternRegion region_;
  uint64_t version_ = 1;
  bool in_child_ = false;
};

}  // namespace
}  // namespace zmem

int main(int argc, char** argv) {
  size_t mib = 64;
  CLI::App app("Forks when told to on stdin.");
  app.add_option("--mib", mib, "size of the region");
  CLI11_PARSE(app, argc, argv);

  zmem::Subject subject((mib << 20) / zmem::kPageBytes);
  auto command = [&subject](auto method) -> zmem::Command {
    return [&subject, method] {
      std::string wrong = (subject.*method)();
      return wrong.empty() ? "ok" : wrong;
    };
  };
  return zmem::ServeCommands({
      {"who", [] { return std::to_string(getpid()); }},
      {"verify", command(&zmem::Subject::Verify)},
      {"rewrite", command(&zmem::Subject::Rewrite)},
      {"live on in a child", command(&zmem::Subject::LiveOnInChild)},
      {"end", command(&zmem::Subject::End)},
      {"fork", command(&zmem::Subject::Fork)},
      {"generations", command(&zmem::Subject::Generations)},
      {"snapshot", command(&zmem::Subject::Snapshot)},
      {"child writes", command(&zmem::Subject::ChildWrites)},
      {"many forks", command(&zmem::Subject::ManyForks)},
      {"popen", command(&zmem::Subject::Popen)},
      {"system", command(&zmem::Subject::System)},
      {"spawn", command(&zmem::Subject::Spawn)},
  });
}
