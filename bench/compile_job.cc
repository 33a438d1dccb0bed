#include "bench/compile_job.h"

#include <unistd.h>

#include <fstream>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "bench/cpu_time.h"

namespace zmem {
namespace {

constexpr char kSources[] = "/usr/src/googletest/";
constexpr const char* kFiles[] = {
    "googlemock/src/gmock-spec-builders.cc",
    "googlemock/src/gmock-matchers.cc",
};
// Compilers at a time.
constexpr int kJobs = 2;
// Unlimited it takes some seconds, squeezed ten times as long; what takes so long does not go on at
// all.
constexpr std::chrono::minutes kTimeout{3};
constexpr std::chrono::seconds kStartTimeout{10};
constexpr size_t kMostErrorBytes = 1000;
// Room is made when the cgroup is nearly full, for whichever compiler wants it. As for any program:
// shells and drivers are too small to be managed.
constexpr char kConfig[] = "[policy]\nmode=limit-only\n";

}  // namespace

std::string CompileJob::WhyUnavailable(Means means) {
  if (access(absl::StrCat(kSources, kFiles[0]).c_str(), R_OK) != 0) {
    return "no sources to compile: install Debian's googletest";
  }
  switch (means) {
    case Means::kNone:
      return "";
    case Means::kZmem:
      return WhyUnsupported();
    case Means::kZram:
      if (std::string why = ZramSwap::WhyUnavailable(); !why.empty()) return why;
      return WhySwapIsUnavailable();
    case Means::kSwapFile:
      return WhySwapIsUnavailable();
  }
  return "";
}

CompileJob::CompileJob(const Options& options) : options_(options) {
  if (std::string why = WhyUnavailable(options.means); !why.empty()) throw HarnessError(why);
  if (options.means == Means::kZram) zram_.emplace(options.swap_bytes);
  if (options.means == Means::kSwapFile) swap_file_.emplace(options.directory, options.swap_bytes);
  std::vector<std::string> argv = {"sh", "-c", Script()};
  ChildOptions launch = {.argv = argv};
  if (options.means == Means::kZmem) {
    daemon_.emplace(DaemonOptions{.config = kConfig});
    launch = Managed(*daemon_, argv);
    launch.env.erase("ZMEM_MIN_RESIDENT");
  }
  shell_ = std::make_unique<Child>(launch);
  shell_->ReadLine(kStartTimeout);
  cgroup_.Add(shell_->pid());
  if (options.limit_bytes > 0) cgroup_.Limit(options.limit_bytes);
}

// Waits for a line, compiles, says how that ended, and waits for another, so that what its
// children used can be read.
std::string CompileJob::Script() const {
  std::string lines;
  for (size_t i = 0; i < std::size(kFiles); ++i) {
    absl::StrAppend(&lines, "-c ", kSources, kFiles[i], " -o ",
                    objects_.File(absl::StrCat(i, ".o")), "\n");
  }
  return absl::StrCat("echo ready; read go; printf '%s' '", lines, "' | xargs -P ", kJobs,
                      " -L 1 g++ -O0 -g -I", kSources, "googletest -I", kSources,
                      "googletest/include -I", kSources, "googlemock -I", kSources,
                      "googlemock/include; echo exit $?; read end");
}

CompileJob::Result CompileJob::Run() {
  SwapTraffic before = SwapTraffic::Now();
  auto start = std::chrono::steady_clock::now();
  std::string answer = shell_->Ask("go", kTimeout);
  auto end = std::chrono::steady_clock::now();
  if (answer != "exit 0") {
    std::string errors = shell_->errors().substr(0, kMostErrorBytes);
    if (absl::StrContains(errors, "Killed")) throw CompilerKilled("a compiler was killed");
    throw HarnessError(absl::StrCat("the compile job ended with ", answer, ": ", errors));
  }
  Result result{.elapsed_s = std::chrono::duration<double>(end - start).count(),
                .io_bytes = ReadBytes() + SwapTraffic::Now().bytes_written - before.bytes_written,
                .peak_bytes = cgroup_.PeakBytes(),
                .held_bytes = HeldBytes(),
                .digest = Digest()};
  if (daemon_) result.zmemd_cpu_s = CpuSeconds(daemon_->pid());
  shell_->Send("end");
  shell_->Wait(kStartTimeout);
  if (daemon_) daemon_->Stop();
  return result;
}

// Of the shell and of all it has waited for, swap included, but not what was written to swap.
uint64_t CompileJob::ReadBytes() const {
  std::ifstream file(absl::StrCat("/proc/", shell_->pid(), "/io"));
  std::string name;
  uint64_t bytes = 0;
  while (file >> name >> bytes) {
    if (name == "read_bytes:") return bytes;
  }
  throw HarnessError("cannot read what the compile job has read");
}

uint64_t CompileJob::HeldBytes() const {
  if (zram_) return zram_->usage().most_held_bytes;
  if (!daemon_) return 0;
  nlohmann::json status = daemon_->Status();
  return status.at("pool").at("max_held_bytes").get<uint64_t>() +
         status.at("metadata_bytes").get<uint64_t>();
}

std::string CompileJob::Digest() const {
  CommandResult digest = RunCommand(
      {.argv = {"sh", "-c", absl::StrCat("cat ", objects_.path(), "/*.o | sha256sum")}}, kTimeout);
  if (!digest.status.Succeeded()) throw HarnessError("sha256sum: " + digest.errors);
  return digest.output.substr(0, 64);
}

}  // namespace zmem
