#include "libzmem/base/host_load.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"

namespace zmem {

HostLoad::HostLoad(const std::string& path, int cpus)
    : file_(open(path.c_str(), O_RDONLY | O_CLOEXEC)),
      cpus_(cpus > 0 ? cpus : static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN))) {}

std::optional<int> HostLoad::ThreadsBeyondCpus() const {
  std::array<char, 128> text;
  ssize_t bytes = sys::Pread(file_.get(), text.data(), text.size(), 0);
  if (bytes <= 0) return std::nullopt;
  std::optional<int> threads = RunnableThreads({text.data(), static_cast<size_t>(bytes)});
  if (!threads) return std::nullopt;
  return *threads - cpus_;
}

// "0.20 0.18 0.12 1/80 11206": three averages, runnable and all threads, the newest process.
std::optional<int> RunnableThreads(absl::string_view text) {
  std::vector<absl::string_view> fields = absl::StrSplit(text, ' ');
  int threads = 0;
  if (fields.size() < 4) return std::nullopt;
  absl::string_view runnable = fields[3].substr(0, fields[3].find('/'));
  if (runnable.size() == fields[3].size() || !absl::SimpleAtoi(runnable, &threads)) {
    return std::nullopt;
  }
  return threads;
}

}  // namespace zmem
