// zmemctl: asks a running zmemd what it manages, and tells it to evict or to drain a process; and
// estimates, without one, what a program would gain.
// One request, one answer, one exit code. Changes nothing by itself.
#include <sys/ioctl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "libzmem/base/clock.h"
#include "zmemd/control.h"
#include "zmemd/estimate_command.h"
#include "zmemd/progress_bar.h"
#include "zmemd/tables.h"

namespace zmem {
namespace {

using nlohmann::json;

constexpr int kExitUsage = 2;

constexpr char kFooter[] =
    "Examples:\n"
    "  zmemctl status                   what the daemon holds, and how fast it gives it back\n"
    "  zmemctl ps                       a line for each managed process\n"
    "  zmemctl ps --json | jq '.[].pid' the same for programs\n"
    "  zmemctl evict $(pidof myserver)  take out everything that may be taken, now\n"
    "  zmemctl drain 1234               put everything back and stop managing it\n"
    "  zmemctl thaw 1234                put everything back for a debugger or a dump, until\n"
    "  zmemctl freeze 1234              lets pages be taken out again\n"
    "  zmemctl histogram 1234           how small its pages became\n"
    "  zmemctl limit 1234 512M          keep no more than that resident\n"
    "  zmemctl limit 1234 60%           the same, of what the process has now, resident and out\n"
    "  zmemctl limit 1234 none          let it be\n"
    "  zmemctl estimate 1234            what zmem would save of it; needs no zmemd\n"
    "  zmemctl set max_pool_size 1G     change the pool's limit until zmemd starts or reloads\n"
    "  zmemctl reload                   read the configuration again, with all that is in it\n"
    "\nSizes: K, M, G are powers of 1024. RATIO is DATA (bytes taken out) over TOTAL (bytes "
    "held).\nSTALL is the share of time in which threads wait for pages, and its target, in "
    "percent.\n"
    "SAME and DISK are pages: those of one word, those in the backing file.\n"
    "\nExit codes: 0 done, 1 failed, 2 usage, 3 unknown or unmanaged PID, 4 no permission,\n"
    "6 mistakes in the configuration, 7 no daemon.";

constexpr char kEstimateFooter[] =
    "Compresses some of the program's pages as zmemd would, and watches what it leaves untouched.\n"
    "Needs no zmemd and takes nothing out; shows nothing of what is in the pages. Has the kernel\n"
    "clear its marks of touched pages, once: page faults wait for that, some 20 ms for 1 GiB.\n"
    "\nCOLD was not touched for so long. OUT would leave the program; the rest of COLD does not\n"
    "compress. NET SAVED is OUT less POOL and METADATA, NET% of all resident memory. ± is what\n"
    "the sample may be off by, 95 times in 100; not what the program may do next.\n"
    "\nExit codes: 0 done, 1 failed (it ended, nothing may be managed), 2 usage, 3 no such\n"
    "process, 4 no permission to trace it.";

struct Options {
  std::string socket = kDefaultSocketPath;
  bool json = false;
  ControlRequest request;
  bool is_estimate = false;  // then `estimate` is what is asked for, not `request`
  EstimateRequest estimate;
};

// Prints the message's lines on stderr, mostly one, and returns `exit_code`.
int Fail(int exit_code, absl::string_view message) {
  for (absl::string_view line : absl::StrSplit(message, '\n')) {
    std::string text = absl::StrCat("zmemctl: ", Printable(line), "\n");
    fwrite(text.data(), 1, text.size(), stderr);
  }
  return exit_code;
}

std::string CheckPid(const std::string& text) {
  int pid = 0;
  if (absl::SimpleAtoi(text, &pid) && pid > 0) return "";
  return absl::StrCat("\"", text, "\" is not a process number");
}

void AddCommand(CLI::App& app, Options& options, ControlCommand command, const char* description) {
  CLI::App* sub = app.add_subcommand(std::string(ControlCommandName(command)), description);
  sub->callback([&options, command] { options.request.command = command; });
  switch (ControlCommandArgument(command)) {
    case ControlArgument::kNone:
      break;
    case ControlArgument::kPid:
    case ControlArgument::kPidIfAny:
      sub->add_option("PID", options.request.pid, "Number of a managed process")
          ->required(ControlCommandArgument(command) == ControlArgument::kPid)
          ->check(CLI::Validator(CheckPid, ""));
      break;
    case ControlArgument::kPidWithValue:
      sub->add_option("PID", options.request.pid, "Number of a managed process")
          ->required()
          ->check(CLI::Validator(CheckPid, ""));
      sub->add_option("LIMIT", options.request.value,
                      "A size, a percentage of what the process has now, resident and out, or none")
          ->required();
      break;
    case ControlArgument::kSetting:
      sub->add_option("KEY", options.request.key,
                      "max_pool_percent, max_pool_size or accept_threshold_percent")
          ->required();
      sub->add_option("VALUE", options.request.value, "As in the configuration")->required();
      break;
  }
}

void AddEstimate(CLI::App& app, Options& options) {
  EstimateRequest& request = options.estimate;
  CLI::App* sub =
      app.add_subcommand("estimate", "Tell what zmem would save of PID, managed or not");
  sub->footer(kEstimateFooter);
  sub->callback([&options] { options.is_estimate = true; });
  sub->add_option("PID", request.pid, "Number of any process")
      ->required()
      ->check(CLI::Validator(CheckPid, ""));
  sub->add_option("--seconds", request.seconds, "How long to watch it")
      ->check(CLI::Range(int64_t{1}, kMaxEstimateSeconds))
      ->capture_default_str();
  sub->add_option("--pages", request.pages, "How many pages to compress; more make ± smaller")
      ->check(CLI::Range(uint64_t{1}, kMaxEstimatePages))
      ->capture_default_str();
}

void Define(CLI::App& app, Options& options) {
  app.require_subcommand(0, 1);  // none is reported by Main, after an unknown word
  app.fallthrough();             // --json and --socket after the command as well
  app.footer(kFooter);
  app.add_option("--socket", options.socket, "Where zmemd listens")
      ->envname("ZMEM_SOCKET")
      ->type_name("PATH")
      ->capture_default_str();
  app.add_flag("--json", options.json, "Print the answer as JSON");
  AddCommand(app, options, ControlCommand::kStatus, "Show what the daemon holds, in total");
  AddCommand(app, options, ControlCommand::kPs, "List the managed processes");
  AddCommand(app, options, ControlCommand::kShow, "Show all about process PID");
  AddCommand(app, options, ControlCommand::kEvict, "Take out all of PID that may be taken, now");
  AddCommand(app, options, ControlCommand::kDrain, "Put everything back and stop managing PID");
  AddCommand(app, options, ControlCommand::kThaw,
             "Put everything back and take nothing out of PID");
  AddCommand(app, options, ControlCommand::kFreeze, "Take pages out of PID again, after thaw");
  AddCommand(app, options, ControlCommand::kHistogram,
             "Show how small pages were compressed, of PID or of all");
  AddCommand(app, options, ControlCommand::kLimit, "Limit what of PID is resident");
  AddEstimate(app, options);
  AddCommand(app, options, ControlCommand::kSet, "Change a setting of the running daemon");
  AddCommand(app, options, ControlCommand::kReload,
             "Read the configuration again; it stays as it is if there are mistakes in it");
  AddCommand(app, options, ControlCommand::kVersion, "Show the daemon's version");
}

// How many places the terminal on a descriptor has; 0 when it is none.
size_t TerminalColumns(int fd) {
  if (isatty(fd) == 0) return 0;
  winsize size{};
  if (ioctl(fd, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

absl::StatusOr<json> Call(const Options& options) {
  size_t columns = TerminalColumns(STDERR_FILENO);
  ProgressBar::Sink terminal;
  if (columns > 0) {
    terminal = [](absl::string_view bytes) { fwrite(bytes.data(), 1, bytes.size(), stderr); };
  }
  MonotonicClock clock;
  std::string what = options.is_estimate ? absl::StrCat("estimate ", options.estimate.pid)
                                         : absl::StrCat(ControlCommandName(options.request.command),
                                                        " ", options.request.pid);
  ProgressBar bar(what, clock, columns, terminal);
  auto progress = [&bar](const ControlProgress& progress) { bar.Update(progress); };
  if (options.is_estimate) {
    EstimateRequest request = options.estimate;
    request.socket = options.socket;
    return AnswerEstimate(request, progress);
  }
  absl::StatusOr<UniqueFd> connection = ConnectControl(options.socket);
  if (!connection.ok()) return connection.status();
  return CallControl(connection->get(), options.request, progress);
}

std::string Render(const Options& options, const json& answer) {
  if (options.is_estimate) return RenderEstimate(answer);
  const ControlRequest& request = options.request;
  switch (request.command) {
    case ControlCommand::kStatus:
      return RenderStatus(answer);
    case ControlCommand::kPs:
      return RenderProcesses(answer, TerminalColumns(STDOUT_FILENO));
    case ControlCommand::kShow:
      return RenderProcess(answer);
    case ControlCommand::kEvict:
      return RenderEvicted(request.pid, answer);
    case ControlCommand::kDrain:
      return RenderDrained(request.pid, answer);
    case ControlCommand::kThaw:
      return RenderThawed(request.pid, answer);
    case ControlCommand::kFreeze:
      return RenderFrozen(request.pid);
    case ControlCommand::kHistogram:
      return RenderHistogram(answer);
    case ControlCommand::kLimit:
      return RenderLimit(request.pid, answer);
    case ControlCommand::kSet:
      return RenderSet(answer);
    case ControlCommand::kReload:
      return RenderReloaded(answer);
    case ControlCommand::kVersion:
      return RenderVersion(answer);
  }
  return "";
}

int Run(const Options& options) {
  absl::StatusOr<json> answer = Call(options);
  if (!answer.ok()) return Fail(ControlExitCode(answer.status()), answer.status().message());
  std::string text =
      options.json ? answer->dump(2, ' ', /*ensure_ascii=*/true) + "\n" : Render(options, *answer);
  if (fwrite(text.data(), 1, text.size(), stdout) != text.size() || fflush(stdout) != 0) {
    return Fail(1, absl::StrCat("cannot write the answer: ", strerror(errno)));
  }
  return 0;
}

int Main(int argc, char** argv) {
  Options options;
  CLI::App app("Watches and steers zmemd, which keeps programs' cold memory compressed.",
               "zmemctl");
  Define(app, options);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help
    return Fail(kExitUsage, absl::StrCat(error.what(), "; see zmemctl --help"));
  }
  if (app.get_subcommands().empty()) {
    return Fail(kExitUsage, "a command is missing, such as status; see zmemctl --help");
  }
  return Run(options);
}

}  // namespace
}  // namespace zmem

int main(int argc, char** argv) { return zmem::Main(argc, argv); }
