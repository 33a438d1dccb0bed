#include "bench/zram_swap.h"

#include <fcntl.h>
#include <sys/swap.h>
#include <unistd.h>

#include <fstream>

#include "bench/swap_file.h"
#include "libzmem/base/sys.h"
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

bool TakeDown() {
  bool off = SwapOff(kDevice);
  UniqueFd reset(open(kReset, O_WRONLY | O_CLOEXEC));
  return off && write(reset.get(), "1", 1) == 1;
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
  guardian_.emplace("swap on zram0, see swapon --show", &TakeDown);
  // From here on whatever throws, or kills us, wakes the guardian.
  WriteAttribute("comp_algorithm", "lz4");
  WriteAttribute("disksize", std::to_string(bytes));
  CommandResult formatted =
      RunCommand({.argv = {"/sbin/mkswap", kDevice}}, std::chrono::seconds(30));
  if (!formatted.status.Succeeded()) throw HarnessError("mkswap: " + formatted.errors);
  CheckErrno(swapon(kDevice, SWAP_FLAG_PREFER | kHighestPriority), "swapon zram0");
}

double ZramSwap::CompressionRatio() const {
  std::ifstream file("/sys/block/zram0/mm_stat");
  double original = 0;
  double compressed = 0;
  file >> original >> compressed;
  return compressed > 0 ? original / compressed : 0;
}

ZramSwap::Usage ZramSwap::usage() const {
  std::ifstream file("/sys/block/zram0/mm_stat");
  Usage usage;
  uint64_t compressed_bytes = 0;
  uint64_t limit_bytes = 0;
  if (!(file >> usage.original_bytes >> compressed_bytes >> usage.held_bytes >> limit_bytes >>
        usage.most_held_bytes)) {
    throw HarnessError("cannot read zram's mm_stat");
  }
  return usage;
}

}  // namespace zmem
