#include "tests/child.h"

#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace zmem {
namespace {

// How often ReadLine looks for more: rarely where it takes long, so as not to disturb what is
// measured meanwhile.
constexpr std::chrono::milliseconds kShortestPoll{2};
constexpr std::chrono::milliseconds kLongestPoll{50};
constexpr int kPollDivisor = 8;  // of the time waited so far

std::string Contents(int fd) {
  struct stat info;
  if (fd < 0 || fstat(fd, &info) != 0) return {};
  std::string contents(static_cast<size_t>(info.st_size), '\0');
  ssize_t bytes = pread(fd, contents.data(), contents.size(), 0);
  contents.resize(bytes < 0 ? 0 : static_cast<size_t>(bytes));
  return contents;
}

// What the child does between fork and exec; it returns only on failure.
struct Launch {
  std::vector<char*> argv;
  std::vector<char*> env;
  std::optional<uid_t> uid;
  int input;
  int output;
  int errors;  // -1: ours
  pid_t parent;

  void Exec() {
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    if (dup2(input, STDIN_FILENO) < 0 || dup2(output, STDOUT_FILENO) < 0) return;
    if (errors >= 0 && dup2(errors, STDERR_FILENO) < 0) return;
    if (uid.has_value() && (setgroups(0, nullptr) != 0 || setgid(*uid) != 0 || setuid(*uid) != 0)) {
      return;
    }
    // After the change of user, which clears it. A parent that died before it is seen here.
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent) return;
    execvpe(argv[0], argv.data(), env.data());
  }
};

std::vector<std::string> MergedEnvironment(const std::map<std::string, std::string>& added) {
  std::vector<std::string> merged;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    std::string name(*entry, strcspn(*entry, "="));
    if (!added.contains(name)) merged.emplace_back(*entry);
  }
  for (const auto& [name, value] : added) merged.push_back(name + "=" + value);
  return merged;
}

std::vector<char*> Pointers(std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (std::string& text : strings) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

UniqueFd MakeMemfd(const std::string& name) {
  return UniqueFd(CheckErrno(memfd_create(name.c_str(), MFD_CLOEXEC), "memfd_create"));
}

// Forks and executes; throws with the child's errno if it could not execute.
pid_t ForkExec(Launch& launch, const std::string& name) {
  int failure[2];
  CheckErrno(pipe2(failure, O_CLOEXEC), "pipe2");
  UniqueFd failure_in(failure[0]);
  UniqueFd failure_out(failure[1]);
  pid_t pid = CheckErrno(fork(), "fork");
  if (pid == 0) {
    launch.Exec();
    int error = errno;
    if (write(failure_out.get(), &error, sizeof error) < 0) _exit(126);
    _exit(127);
  }
  failure_out.reset();
  int error = 0;
  if (read(failure_in.get(), &error, sizeof error) > 0) {
    waitpid(pid, nullptr, 0);
    errno = error;
    throw ErrnoError("cannot execute " + name);
  }
  return pid;
}

}  // namespace

std::string ExitStatus::ToString() const {
  if (!signalled) return absl::StrCat("exit ", number);
  return absl::StrCat("signal ", number, " (", strsignal(number), ")");
}

Child::Child(const ChildOptions& options) {
  std::vector<std::string> argv = options.argv;
  std::vector<std::string> env = MergedEnvironment(options.env);
  name_ = argv.at(0).substr(argv[0].rfind('/') + 1);

  int input[2];
  CheckErrno(pipe2(input, O_CLOEXEC), "pipe2");
  UniqueFd input_out(input[0]);
  input_.reset(input[1]);
  output_ = MakeMemfd(name_ + "-stdout");
  if (!options.show_errors) errors_ = MakeMemfd(name_ + "-stderr");

  Launch launch{.argv = Pointers(argv),
                .env = Pointers(env),
                .uid = options.uid,
                .input = input_out.get(),
                .output = output_.get(),
                .errors = errors_.get(),
                .parent = getpid()};
  pid_ = ForkExec(launch, options.argv[0]);
  pidfd_.reset(static_cast<int>(CheckErrno(syscall(SYS_pidfd_open, pid_, 0), "pidfd_open")));
}

Child::~Child() {
  if (ended_.has_value() || pid_ < 0) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
}

std::string Child::output() const { return Contents(output_.get()); }
std::string Child::errors() const { return Contents(errors_.get()); }

void Child::Send(const std::string& line) {
  std::string text = absl::StrCat(line, "\n");
  // A closed pipe is an error to report, not a signal to die of.
  auto before = std::signal(SIGPIPE, SIG_IGN);
  ssize_t written = write(input_.get(), text.data(), text.size());
  int error = errno;
  std::signal(SIGPIPE, before);
  errno = error;
  if (written != static_cast<ssize_t>(text.size())) {
    throw ErrnoError(
        absl::StrCat("cannot send '", line, "' to ", name_, " (stderr: ", errors(), ")"));
  }
}

std::string Child::ReadLine(std::chrono::milliseconds timeout) {
  auto start = std::chrono::steady_clock::now();
  while (true) {
    bool ended = !Running();  // looked at first, so that no last line is missed
    std::string text = output();
    size_t end = text.find('\n', lines_read_bytes_);
    if (end != std::string::npos) {
      std::string line = text.substr(lines_read_bytes_, end - lines_read_bytes_);
      lines_read_bytes_ = end + 1;
      return line;
    }
    if (ended) {
      throw HarnessError(absl::StrCat(name_, " ended (", ended_->ToString(),
                                      ") where it should have answered; stderr: ", errors()));
    }
    auto now = std::chrono::steady_clock::now();
    if (now >= start + timeout) {
      throw HarnessError(absl::StrCat("waited ", timeout.count(), " ms for a line from ", name_,
                                      "; stderr: ", errors()));
    }
    auto waited = std::chrono::duration_cast<std::chrono::milliseconds>(now - start);
    WaitFor(std::clamp(waited / kPollDivisor, kShortestPoll, kLongestPoll));
  }
}

std::string Child::Ask(const std::string& line, std::chrono::milliseconds timeout) {
  Send(line);
  try {
    return ReadLine(timeout);
  } catch (const HarnessError& error) {
    throw HarnessError(absl::StrCat("asked '", line, "': ", error.what()));
  }
}

void Child::CloseInput() { input_.reset(); }

void Child::Signal(int signal) {
  if (Running()) CheckErrno(kill(pid_, signal), "kill " + name_);
}

bool Child::Running() { return !WaitFor(std::chrono::milliseconds(0)); }

bool Child::WaitFor(std::chrono::milliseconds timeout) {
  if (ended_.has_value()) return true;
  pollfd poll_fd{.fd = pidfd_.get(), .events = POLLIN, .revents = 0};
  if (sys::Poll(&poll_fd, 1, static_cast<int>(timeout.count())) <= 0) return false;
  int status = 0;
  CheckErrno(waitpid(pid_, &status, 0), "waitpid " + name_);
  ended_ = WIFSIGNALED(status) ? ExitStatus{true, WTERMSIG(status)}
                               : ExitStatus{false, WEXITSTATUS(status)};
  return true;
}

ExitStatus Child::Wait(std::chrono::milliseconds timeout) {
  if (!WaitFor(timeout)) {
    throw HarnessError(
        absl::StrCat("waited ", timeout.count(), " ms for ", name_, " to end; stderr: ", errors()));
  }
  return *ended_;
}

CommandResult RunCommand(const ChildOptions& options, std::chrono::milliseconds timeout) {
  Child child(options);
  child.CloseInput();
  ExitStatus status = child.Wait(timeout);
  return {status, child.output(), child.errors()};
}

}  // namespace zmem
