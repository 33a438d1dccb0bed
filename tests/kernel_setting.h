// A setting of the whole machine, under /sys or /proc/sys, for as long as a test needs it.
// Not thread-safe: one of a setting at a time.
#pragma once

#include <fstream>
#include <string>

#include "tests/error.h"

namespace zmem {

class KernelSetting {
 public:
  // Throws if the kernel has no such setting or does not take the value.
  KernelSetting(std::string path, const std::string& value)
      : path_(std::move(path)), before_(Read()) {
    if (!Write(value)) throw HarnessError("cannot write " + value + " to " + path_);
  }
  ~KernelSetting() { Write(before_); }
  KernelSetting(const KernelSetting&) = delete;
  KernelSetting& operator=(const KernelSetting&) = delete;

 private:
  std::string Read() const {
    std::ifstream file(path_);
    std::string value;
    if (!(file >> value)) throw HarnessError("cannot read " + path_);
    return value;
  }
  bool Write(const std::string& value) const {
    std::ofstream file(path_);
    file << value;
    file.close();
    return !file.fail();
  }

  const std::string path_;
  const std::string before_;
};

}  // namespace zmem
