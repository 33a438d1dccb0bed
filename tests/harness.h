// zmem as a user has it, for whole-system tests, the demo and the benches: the daemon that was
// built, programs started under the library that was built, and zmemctl's answers as JSON.
// Not thread-safe. Everything started here ends, and every file is removed, with its object.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "tests/child.h"

namespace zmem {

// The path of a file named in our target's `data`, for example "zmemd/zmemctl".
std::string Runfile(const std::string& path);

// An empty directory under /tmp (unix sockets need short paths) that every user may enter.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::string& path() const { return path_; }
  std::string File(const std::string& name) const { return path_ + "/" + name; }
  // Writes a file that everybody may read; returns its path.
  std::string Write(const std::string& name, const std::string& contents) const;
  // Copies a runfile to where a program of any user can execute or load it; returns its path.
  std::string Share(const std::string& runfile) const;

 private:
  std::string path_;
};

// Pages go to the pool only when a test says so.
inline constexpr char kEvictByHand[] = "[policy]\ncold_age=1h\nscan_interval=1h\nmin_resident=1M\n";

struct DaemonOptions {
  std::string config = kEvictByHand;
  bool show_log = false;  // its log goes to our stderr instead of being kept
};

// A running zmemd with its own socket and configuration.
class Daemon {
 public:
  // Starts it and waits until its socket accepts.
  explicit Daemon(const DaemonOptions& options = {});

  const std::string& socket() const { return socket_; }
  const TempDir& directory() const { return directory_; }
  Child& child() { return *child_; }
  pid_t pid() const { return child_->pid(); }
  std::string log() const { return child_->errors(); }

  // Runs zmemctl with `arguments`, `--socket` added.
  CommandResult Ctl(const std::vector<std::string>& arguments) const;
  // The same, parsed. Throws unless it succeeds.
  nlohmann::json CtlJson(const std::vector<std::string>& arguments) const;

  nlohmann::json Status() const { return CtlJson({"status", "--json"}); }
  // The entry of `pid` in `ps --json`, if it is there.
  std::optional<nlohmann::json> FindProcess(pid_t pid) const;
  // The same; throws if it is not there.
  nlohmann::json Process(pid_t pid) const;
  bool Attached(pid_t pid) const;

  // Throw unless zmemctl succeeds.
  void Evict(pid_t pid) const;
  void Drain(pid_t pid) const;

  // SIGTERM, and waits for its end, which must be a success. No SIGKILL follows: a daemon that
  // does not stop is a failure to look at, and the destructor's business.
  void Stop();

 private:
  TempDir directory_;
  std::string socket_;
  std::unique_ptr<Child> child_;  // the last member: it ends before the directory goes
};

// Environment of a program managed through `socket`: small programs attach too, and one that cannot
// says why on its stderr.
std::map<std::string, std::string> ManagedEnvironment(const std::string& socket,
                                                      const std::string& library);

// `argv` under libzmem.so.
ChildOptions Managed(const Daemon& daemon, std::vector<std::string> argv);

// Waits until the daemon manages `child`.
void WaitAttached(const Daemon& daemon, Child& child);

// Waits until the pool holds nothing of any program.
void WaitPoolEmpty(const Daemon& daemon);

// VmRSS of a process.
int64_t ResidentBytes(pid_t pid);

// Why programs cannot be managed here at all (not root, a kernel without UFFDIO_MOVE), or empty.
std::string WhyUnsupported();

}  // namespace zmem
