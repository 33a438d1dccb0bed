#include "bench/zram_swap.h"

#include <fcntl.h>
#include <sys/swap.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <fstream>

#include "tests/child.h"

namespace zmem {
namespace {

constexpr char kDevice[] = "/dev/zram0";
constexpr char kReset[] = "/sys/block/zram0/reset";
constexpr int kHighestPriority = 32767;

std::string ReadAttribute(const char* name) {
  std::ifstream file(std::string("/sys/block/zram0/") + name);
  std::string text;
  std::getline(file, text);
  return text;
}

void WriteAttribute(const char* name, const std::string& value) {
  std::ofstream file(std::string("/sys/block/zram0/") + name);
  file << value;
  file.close();
  if (!file) throw ErrnoError(std::string("cannot set zram0's ") + name + " to " + value);
}

// The guardian's whole life. Out of reach of the terminal's signals; ends when nobody holds the
// other end of `alive` any more.
[[noreturn]] void Guard(int alive) {
  setsid();
  char byte;
  while (read(alive, &byte, 1) < 0) {
  }
  bool off = swapoff(kDevice) == 0 || errno == EINVAL;  // EINVAL: it never got as far as swapon
  int reset = open(kReset, O_WRONLY | O_CLOEXEC);
  bool down = off && write(reset, "1", 1) == 1;
  _exit(down ? 0 : 1);
}

}  // namespace

std::string ZramSwap::WhyUnavailable() {
  if (geteuid() != 0) return "setting up zram needs root";
  if (access(kReset, W_OK) != 0 || access(kDevice, W_OK) != 0) return "this machine has no zram0";
  if (ReadAttribute("disksize") != "0") return "zram0 is in use";
  if (ReadAttribute("comp_algorithm").find("lz4") == std::string::npos) return "zram has no lz4";
  return "";
}

ZramSwap::ZramSwap(uint64_t bytes) {
  std::string why = WhyUnavailable();
  if (!why.empty()) throw HarnessError(why);
  int ends[2];
  CheckErrno(pipe2(ends, O_CLOEXEC), "pipe2");
  UniqueFd watched(ends[0]);
  alive_.reset(ends[1]);
  guardian_ = CheckErrno(fork(), "fork");
  if (guardian_ == 0) {
    alive_.reset();
    Guard(watched.get());
  }
  // From here on whatever throws, or kills us, wakes the guardian.
  WriteAttribute("comp_algorithm", "lz4");
  WriteAttribute("disksize", std::to_string(bytes));
  CommandResult formatted =
      RunCommand({.argv = {"/sbin/mkswap", kDevice}}, std::chrono::seconds(30));
  if (!formatted.status.Succeeded()) throw HarnessError("mkswap: " + formatted.errors);
  CheckErrno(swapon(kDevice, SWAP_FLAG_PREFER | kHighestPriority), "swapon zram0");
}

ZramSwap::~ZramSwap() {
  alive_.reset();
  int status = 0;
  if (waitpid(guardian_, &status, 0) != guardian_ || status != 0) {
    std::fprintf(stderr, "zram0 could not be taken down: see swapon --show\n");
  }
}

double ZramSwap::CompressionRatio() const {
  std::ifstream file("/sys/block/zram0/mm_stat");
  double original = 0;
  double compressed = 0;
  file >> original >> compressed;
  return compressed > 0 ? original / compressed : 0;
}

}  // namespace zmem
