// zmemd: reads the command line and the configuration, starts the server, which reads the latter
// again on SIGHUP, and stops it on SIGTERM or SIGINT once every page is back in its program.

#include <malloc.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <initializer_list>
#include <string>

#include "libzmem/codec/compressor.h"
#include "zmemd/config.h"
#include "zmemd/control.h"
#include "zmemd/server.h"
#include "zmemd/version.h"

namespace zmem {
namespace {

constexpr int kExitFailure = 1;
constexpr int kExitUsage = 2;
constexpr int kExitPermission = 4;
constexpr int kExitConfiguration = 6;

uint64_t RamBytes() {
  struct sysinfo info;
  sysinfo(&info);
  return uint64_t{info.totalram} * info.mem_unit;
}

// Logs and errors go to stderr; stdout stays for what is asked for.
void SetUpLog(bool verbose) {
  auto logger = spdlog::stderr_color_mt("zmemd");
  logger->set_pattern("%^zmemd: %v%$");
  spdlog::set_default_logger(logger);
  spdlog::set_level(verbose ? spdlog::level::debug : spdlog::level::info);
}

// A descriptor that becomes readable on any of `signals`. Blocks them for all threads to come.
UniqueFd Catch(std::initializer_list<int> signals) {
  sigset_t set;
  sigemptyset(&set);
  for (int signal : signals) sigaddset(&set, signal);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  return UniqueFd(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
}

// Every managed program depends on this process: it is the last to be killed for memory, and has
// room for a few descriptors per program.
void TakePrecautions() {
  std::ofstream("/proc/self/oom_score_adj") << "-1000";
  rlimit files;
  if (getrlimit(RLIMIT_NOFILE, &files) != 0) return;
  files.rlim_cur = files.rlim_max;
  if (setrlimit(RLIMIT_NOFILE, &files) != 0) spdlog::warn("cannot raise the limit of open files");
}

// As the preloaded library reads it: seconds. For programs that have no library to read it.
uint32_t DaemonTimeoutSeconds() {
  const char* text = std::getenv("ZMEM_DAEMON_TIMEOUT");
  int seconds = text == nullptr ? 0 : std::atoi(text);
  constexpr int kDefault = 30;
  return static_cast<uint32_t>(seconds > 0 ? seconds : kDefault);
}

int Run(const LoadedConfig& loaded, const ConfigSource& source, const std::string& socket_path) {
  UniqueFd stop = Catch({SIGTERM, SIGINT});
  UniqueFd reload = Catch({SIGHUP});
  signal(SIGPIPE, SIG_IGN);
  TakePrecautions();
  for (const std::string& file : loaded.files) spdlog::info("read {}", file);
  auto keeper = Keeper::Start(DaemonTimeoutSeconds());
  if (!keeper.ok()) {
    spdlog::error("{}", std::string(keeper.status().message()));
    return kExitFailure;
  }
  auto server = Server::Start(loaded.config, source, socket_path, *std::move(keeper));
  if (!server.ok()) {
    spdlog::error("{}", std::string(server.status().message()));
    return absl::IsPermissionDenied(server.status()) ? kExitPermission : kExitFailure;
  }
  (*server)->Run(stop.get(), reload.get());
  spdlog::info("stopped; every page is back in its program");
  return 0;
}

// Threads' buffers go back to the system when a thread gives them up: glibc would keep what it has
// once seen freed of that size.
void ReturnLargeBuffers() {
  constexpr int kLargeBytes = 128 << 10;
  mallopt(M_MMAP_THRESHOLD, kLargeBytes);
}

int Main(int argc, char** argv) {
  CLI::App app(
      "zmemd keeps the cold memory of programs compressed. Programs started as\n"
      "  LD_PRELOAD=libzmem.so PROGRAM\n"
      "hand their memory to it; zmemctl shows and steers what it does.");
  std::string config_file;
  std::string socket_path = kDefaultSocketPath;
  bool check_config = false;
  bool verbose = false;
  app.add_option("--config", config_file,
                 std::string("configuration file, with drop-ins in FILE.d/*.conf (default ") +
                     kDefaultConfigPath + ")");
  app.add_option("--socket", socket_path, "where to listen")->capture_default_str();
  app.add_flag("--check-config", check_config, "read the configuration, report, and exit");
  app.add_flag("--verbose", verbose, "log more, such as programs that are too small yet");
  app.set_version_flag("--version", std::string("zmemd ") + kZmemVersion);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    int code = app.exit(error);
    return code == 0 ? 0 : kExitUsage;
  }
  SetUpLog(verbose);
  ReturnLargeBuffers();

  ConfigSource source;
  if (!config_file.empty()) source.file = config_file;
  source.must_exist = !config_file.empty();
  source.ram_bytes = RamBytes();
  for (std::string_view name : CodecNames()) source.compressors.emplace_back(name);
  LoadedConfig loaded = LoadConfig(source);
  for (const std::string& error : loaded.errors) spdlog::error("{}", error);
  if (!loaded.errors.empty()) return kExitConfiguration;
  if (check_config) {
    std::printf("the configuration is fine (%zu files read)\n", loaded.files.size());
    return 0;
  }
  return Run(loaded, source, socket_path);
}

}  // namespace
}  // namespace zmem

int main(int argc, char** argv) { return zmem::Main(argc, argv); }
