#include "bench/machine.h"

#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>

#include "tests/error.h"

namespace zmem {
namespace {

std::string CpuModel() {
  std::ifstream file("/proc/cpuinfo");
  std::string line;
  while (std::getline(file, line)) {
    if (line.starts_with("model name")) return line.substr(line.find(": ") + 2);
  }
  return "unknown CPU";
}

}  // namespace

nlohmann::json Machine() {
  struct sysinfo memory {};
  sysinfo(&memory);
  utsname kernel{};
  uname(&kernel);
  return {{"cpu", CpuModel()},
          {"cpus", sysconf(_SC_NPROCESSORS_ONLN)},
          {"memory_bytes", uint64_t{memory.totalram} * memory.mem_unit},
          {"kernel", std::string(kernel.sysname) + " " + kernel.release}};
}

void PrintMachine() {
  nlohmann::json machine = Machine();
  std::printf("machine   %s, %ld CPUs, %.1f GiB\nkernel    %s\n",
              machine["cpu"].get<std::string>().c_str(), machine["cpus"].get<long>(),
              machine["memory_bytes"].get<double>() / (1 << 30),
              machine["kernel"].get<std::string>().c_str());
}

void WriteJson(const std::string& path, const nlohmann::json& result) {
  if (path.empty()) return;
  std::ofstream file(path);
  file << result.dump(2) << "\n";
  file.close();
  if (!file) throw HarnessError("cannot write " + path);
}

}  // namespace zmem
