#include "bench/swap_file.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/swap.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <string>
#include <vector>

#include "libzmem/base/page.h"
#include "tests/child.h"

namespace zmem {
namespace {

constexpr int kHighestPriority = 32767;

// As long as a program that is in swap has not ended, though it was killed, its pages are brought
// back, which its cgroup's limit may not allow.
constexpr int kOffTries = 500;
constexpr int kOffPauseMs = 10;

// Really written: a swap file must not have holes.
void WriteZeros(int fd, uint64_t bytes) {
  std::vector<char> zeros(size_t{1} << 20);
  for (uint64_t left = bytes; left > 0;) {
    ssize_t written = CheckErrno(write(fd, zeros.data(), std::min<uint64_t>(zeros.size(), left)),
                                 "cannot write the swap file");
    left -= static_cast<uint64_t>(written);
  }
  CheckErrno(fsync(fd), "fsync of the swap file");
}

}  // namespace

std::string WhySwapIsUnavailable() {
  if (geteuid() != 0) return "setting up swap needs root";
  std::ifstream swaps("/proc/swaps");
  std::string line;
  std::getline(swaps, line);  // the heading
  if (std::getline(swaps, line)) {
    return "the machine has swap, which must not be touched: " + line.substr(0, line.find(' '));
  }
  std::ifstream zswap("/sys/module/zswap/parameters/enabled");
  if (zswap.get() == 'Y') return "zswap is on";
  return "";
}

bool SwapOff(const std::string& path) {
  for (int tries = 0; tries < kOffTries; ++tries) {
    if (swapoff(path.c_str()) == 0 || errno == EINVAL) return true;  // EINVAL: it never was on
    if (errno != ENOMEM) return false;
    poll(nullptr, 0, kOffPauseMs);
  }
  return false;
}

uint64_t SwappedBytes(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/status");
  std::string word;
  uint64_t kib = 0;
  while (file >> word) {
    if (word == "VmSwap:" && file >> kib) return kib << 10;
  }
  throw HarnessError("the program has no VmSwap");
}

SwapTraffic SwapTraffic::Now() {
  std::ifstream file("/proc/vmstat");
  SwapTraffic traffic;
  std::string name;
  uint64_t pages = 0;
  int found = 0;
  while (file >> name >> pages) {
    if (name == "pswpout" && ++found > 0) traffic.bytes_written = pages * kPageBytes;
    if (name == "pswpin" && ++found > 0) traffic.bytes_read = pages * kPageBytes;
  }
  if (found != 2) throw HarnessError("/proc/vmstat has no swap counters");
  return traffic;
}

SwapFile::SwapFile(const std::string& directory, uint64_t bytes) {
  std::string why = WhySwapIsUnavailable();
  if (!why.empty()) throw HarnessError(why);
  path_ = directory + "/zmem-swap-XXXXXX";
  UniqueFd fd(CheckErrno(mkostemp(path_.data(), O_CLOEXEC), "cannot make " + path_));
  guardian_.emplace("swap on " + path_ + ", see swapon --show", [path = path_] {
    bool off = SwapOff(path);
    return unlink(path.c_str()) == 0 && off;
  });
  WriteZeros(fd.get(), bytes);
  CommandResult formatted = RunCommand({.argv = {"/sbin/mkswap", path_}}, std::chrono::seconds(30));
  if (!formatted.status.Succeeded()) throw HarnessError("mkswap: " + formatted.errors);
  CheckErrno(swapon(path_.c_str(), SWAP_FLAG_PREFER | kHighestPriority), "swapon " + path_);
}

}  // namespace zmem
