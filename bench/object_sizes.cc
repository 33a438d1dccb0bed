#include "bench/object_sizes.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <sstream>
#include <string>

#include "libzmem/base/sys.h"
#include "libzmem/codec/compressor.h"
#include "libzmem/codec/same_filled.h"

namespace zmem::bench {
namespace {

constexpr size_t kMostObjectBytes = kPageBytes * 90 / 100;  // as zmemd/server.cc
constexpr uint64_t kPresent = uint64_t{1} << 63;            // in /proc/PID/pagemap

void RecordMapping(uint64_t start, uint64_t end, int memory, int pagemap, SizeBands& bands) {
  const Compressor* codec = FindCompressor("lz4");
  auto scratch = codec->MakeScratch();
  std::array<std::byte, kPageBytes> page;
  std::array<std::byte, kMostObjectBytes> out;
  for (uint64_t address = start; address < end; address += kPageBytes) {
    uint64_t entry = 0;
    if (pread(pagemap, &entry, sizeof entry,
              static_cast<off_t>(address / kPageBytes * sizeof entry)) != sizeof entry ||
        (entry & kPresent) == 0 ||
        pread(memory, page.data(), kPageBytes, static_cast<off_t>(address)) != kPageBytes ||
        SameFilledWord(page)) {
      continue;
    }
    if (auto bytes = codec->Compress(page, out, *scratch)) ++bands[(*bytes - 1) / kSizeBandBytes];
  }
}

}  // namespace

// "recorded" is the output of `zpool --record` on Debian 12 with the pids of redis-server (60,000
// hashes of three fields), python3 (120 parsed modules of its library), node (200,000 objects and
// their JSON), sqlite3 (300,000 indexed rows in memory) and cc1plus (-O2, <regex>, <map>, after
// 2.5 s): 90,829 pages.
const std::array<SizeDistribution, 4> kSizeDistributions = {{
    {"thin", {8, 20, 24, 18, 12, 8, 5, 3, 2, 0, 0, 0, 0, 0, 0, 0,
              0, 0,  0,  0,  0,  0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}},
    {"fat", {0, 0, 0, 0, 0, 0,  0,  0, 0, 0, 0, 0, 0, 0, 0, 1,
             2, 3, 5, 7, 9, 10, 10, 9, 7, 5, 3, 2, 0, 0, 0, 0}},
    {"bimodal", {10, 20, 15, 5,  0,  0,  0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                 0,  0,  5,  15, 20, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}},
    {"recorded", {606,  2225, 1826, 1291, 2182, 5114, 6011, 12512, 11158, 6101, 14735,
                  7153, 5786, 2135, 2467, 2712, 3462, 1938, 818,   280,   151,  63,
                  51,   14,   12,   6,    16,   2,    2,    0,     0,     0}},
}};

bool RecordSizes(pid_t pid, SizeBands& bands) {
  std::string directory = "/proc/" + std::to_string(pid);
  std::ifstream maps(directory + "/maps");
  UniqueFd memory(open((directory + "/mem").c_str(), O_RDONLY | O_CLOEXEC));
  UniqueFd pagemap(open((directory + "/pagemap").c_str(), O_RDONLY | O_CLOEXEC));
  if (!maps || !memory.valid() || !pagemap.valid()) return false;
  std::string line;
  while (std::getline(maps, line)) {
    std::istringstream fields(line);
    uint64_t start = 0;
    uint64_t end = 0;
    char dash;
    std::string access, offset, device, inode;
    fields >> std::hex >> start >> dash >> end >> access >> offset >> device >> inode;
    bool is_anonymous = inode == "0" && line.find("[stack]") == std::string::npos;
    if (access == "rw-p" && is_anonymous) {
      RecordMapping(start, end, memory.get(), pagemap.get(), bands);
    }
  }
  return true;
}

SizedPages::SizedPages() : noise_(4 * kPageBytes) {
  std::mt19937_64 random(1);
  for (std::byte& byte : noise_) byte = static_cast<std::byte>(random());
  const Compressor* codec = FindCompressor("lz4");
  auto scratch = codec->MakeScratch();
  std::array<std::byte, kPageBytes> out;
  size_t filled = 0;  // sizes below this one are served
  for (size_t random_bytes = 1; random_bytes <= kPageBytes; ++random_bytes) {
    std::array<std::byte, kPageBytes> page{};
    std::memcpy(page.data(), noise_.data(), random_bytes);
    size_t bytes = codec->Compress(page, out, *scratch).value_or(kPageBytes);
    while (filled <= bytes) random_bytes_for_[filled++] = static_cast<uint16_t>(random_bytes);
  }
}

void SizedPages::Fill(size_t compressed_bytes, uint64_t seed,
                      std::span<std::byte, kPageBytes> page) const {
  size_t random_bytes = random_bytes_for_[compressed_bytes];
  std::memcpy(page.data(), noise_.data() + seed % (noise_.size() - kPageBytes), random_bytes);
  std::memset(page.data() + random_bytes, 0, kPageBytes - random_bytes);
}

}  // namespace zmem::bench
