#include "tests/harness.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "libzmem/base/kernel_abi.h"
#include "libzmem/base/kernel_figures.h"
#include "libzmem/base/sys.h"

namespace zmem {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr milliseconds kStartTimeout = seconds(10);
constexpr milliseconds kAttachTimeout = seconds(10);
// zmemctl evict and drain of a GiB take seconds; several programs may share the machine.
constexpr milliseconds kCtlTimeout = seconds(120);
constexpr milliseconds kStopTimeout = seconds(120);
constexpr milliseconds kEmptyTimeout = seconds(20);

bool Accepts(const std::string& path) {
  sockaddr_un address{.sun_family = AF_UNIX};
  if (path.size() >= sizeof address.sun_path) throw HarnessError("socket path too long: " + path);
  std::strcpy(address.sun_path, path.c_str());
  UniqueFd fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  return connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
}

}  // namespace

std::string Runfile(const std::string& path) {
  std::vector<std::string> roots;
  if (const char* root = getenv("TEST_SRCDIR")) roots.push_back(absl::StrCat(root, "/zmem/"));
  std::string self = std::filesystem::read_symlink("/proc/self/exe");
  roots.push_back(self + ".runfiles/zmem/");
  for (const std::string& root : roots) {
    std::error_code error;
    std::filesystem::path real = std::filesystem::canonical(root + path, error);
    if (!error) return real;
  }
  throw HarnessError(absl::StrCat("no runfile ", path, " under ", absl::StrJoin(roots, ", "),
                                  "; is it in the target's data?"));
}

TempDir::TempDir() {
  char name[] = "/tmp/zmem-XXXXXX";
  if (mkdtemp(name) == nullptr) throw ErrnoError("mkdtemp");
  path_ = name;
  CheckErrno(chmod(name, 0755), "chmod " + path_);
}

TempDir::~TempDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string TempDir::Write(const std::string& name, const std::string& contents) const {
  std::string path = File(name);
  std::ofstream file(path, std::ios::binary);
  file << contents;
  file.close();
  if (!file) throw HarnessError("cannot write " + path);
  return path;
}

std::string TempDir::Share(const std::string& runfile) const {
  std::string target = File(runfile.substr(runfile.rfind('/') + 1));
  if (!std::filesystem::exists(target)) {
    std::filesystem::copy_file(Runfile(runfile), target);
    CheckErrno(chmod(target.c_str(), 0755), "chmod " + target);
  }
  return target;
}

Daemon::Daemon(const DaemonOptions& options) : socket_(directory_.File("zmemd.sock")) {
  std::string config = directory_.Write("zmemd.conf", options.config);
  child_ = std::make_unique<Child>(
      ChildOptions{.argv = {Runfile("zmemd/zmemd"), "--config", config, "--socket", socket_},
                   .show_errors = options.show_log});
  WaitUntil("zmemd's socket to accept", kStartTimeout, [this] {
    if (!child_->Running()) throw HarnessError("zmemd ended at its start: " + log());
    return Accepts(socket_);
  });
}

CommandResult Daemon::Ctl(const std::vector<std::string>& arguments) const {
  std::vector<std::string> argv = {Runfile("zmemd/zmemctl"), "--socket", socket_};
  argv.insert(argv.end(), arguments.begin(), arguments.end());
  return RunCommand({.argv = argv}, kCtlTimeout);
}

nlohmann::json Daemon::CtlJson(const std::vector<std::string>& arguments) const {
  CommandResult result = Ctl(arguments);
  std::string command = "zmemctl " + absl::StrJoin(arguments, " ");
  if (!result.status.Succeeded()) {
    throw HarnessError(absl::StrCat(command, ": ", result.status.ToString(), ": ", result.errors));
  }
  nlohmann::json parsed = nlohmann::json::parse(result.output, nullptr, false);
  if (parsed.is_discarded()) throw HarnessError(command + " printed no JSON: " + result.output);
  return parsed;
}

std::optional<nlohmann::json> Daemon::FindProcess(pid_t pid) const {
  for (const nlohmann::json& process : CtlJson({"ps", "--json"})) {
    if (process.at("pid") == pid) return process;
  }
  return std::nullopt;
}

nlohmann::json Daemon::Process(pid_t pid) const {
  if (auto process = FindProcess(pid)) return *process;
  throw HarnessError(absl::StrCat("zmemctl ps does not list process ", pid));
}

bool Daemon::Attached(pid_t pid) const {
  auto process = FindProcess(pid);
  return process.has_value() && process->at("state") == "attached";
}

void Daemon::Evict(pid_t pid) const {
  CommandResult result = Ctl({"evict", absl::StrCat(pid)});
  if (result.status.Succeeded()) return;
  throw HarnessError(
      absl::StrCat("zmemctl evict ", pid, ": ", result.status.ToString(), ": ", result.errors));
}

void Daemon::Drain(pid_t pid) const {
  CommandResult result = Ctl({"drain", absl::StrCat(pid)});
  if (result.status.Succeeded()) return;
  throw HarnessError(
      absl::StrCat("zmemctl drain ", pid, ": ", result.status.ToString(), ": ", result.errors));
}

void Daemon::Stop() {
  child_->Signal(SIGTERM);
  ExitStatus status = child_->Wait(kStopTimeout);
  if (!status.Succeeded()) {
    throw HarnessError(absl::StrCat("zmemd ended with ", status.ToString(), ": ", log()));
  }
}

std::map<std::string, std::string> ManagedEnvironment(const std::string& socket,
                                                      const std::string& library) {
  return {{"LD_PRELOAD", library},
          {"ZMEM_SOCKET", socket},
          {"ZMEM_VERBOSE", "1"},
          {"ZMEM_MIN_RESIDENT", "1M"},
          {"ZMEM_DAEMON_TIMEOUT", "60"}};
}

ChildOptions Managed(const Daemon& daemon, std::vector<std::string> argv) {
  std::string library = daemon.directory().Share("preload/libzmem.so");
  return {.argv = std::move(argv), .env = ManagedEnvironment(daemon.socket(), library)};
}

void WaitAttached(const Daemon& daemon, Child& child) {
  WaitUntil(child.name() + " to be attached", kAttachTimeout, [&] {
    if (!child.Running()) {
      throw HarnessError(absl::StrCat(
          child.name(), " ended before it was attached: ", child.Wait(milliseconds(0)).ToString(),
          ": ", child.errors()));
    }
    return daemon.Attached(child.pid());
  });
}

void WaitPoolEmpty(const Daemon& daemon) {
  WaitUntil("the pool to be empty", kEmptyTimeout, [&] {
    nlohmann::json pool = daemon.Status().at("pool");
    return pool.at("objects") == 0 && pool.at("same_filled_pages") == 0;
  });
}

int64_t ResidentBytes(pid_t pid) {
  std::string contents;
  absl::Status status = sys::ReadFile(absl::StrCat("/proc/", pid, "/status"), contents);
  if (!status.ok()) throw HarnessError(std::string(status.message()));
  if (auto bytes = BytesFigure(contents, "VmRSS")) return static_cast<int64_t>(*bytes);
  throw HarnessError(absl::StrCat("no VmRSS for process ", pid, "; has it ended?"));
}

std::string WhyUnsupported() {
  if (geteuid() != 0) return "zmemd needs root (CAP_SYS_PTRACE): run this as root";
  UniqueFd device(open("/dev/userfaultfd", O_RDWR | O_CLOEXEC));
  if (!device.valid()) return "no /dev/userfaultfd: zmem needs Linux 6.8 or later";
  UniqueFd uffd(ioctl(device.get(), USERFAULTFD_IOC_NEW, O_CLOEXEC));
  uffdio_api api{.api = UFFD_API, .features = UFFD_FEATURE_MOVE, .ioctls = 0};
  if (!uffd.valid() || ioctl(uffd.get(), UFFDIO_API, &api) != 0) {
    return "this kernel has no UFFDIO_MOVE: zmem needs Linux 6.8 or later";
  }
  return "";
}

}  // namespace zmem
