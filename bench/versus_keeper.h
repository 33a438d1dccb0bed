// Who keeps the memory of the programs that bench/versus_kernel measures: zmem, or the kernel's
// zram with a memory cgroup. And a program of it, as the bench talks to it.
// Not thread-safe. Whatever is set up goes with the objects.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "bench/versus_program.h"
#include "bench/zram_swap.h"
#include "tests/harness.h"
#include "tests/limited_cgroup.h"

namespace zmem {

// A program read something else than it had written, which no figure makes up for.
class WrongBytes : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// zmemd takes out what limits ask for, and nothing else, whatever a program's size.
inline constexpr char kLimitOnly[] = "[policy]\nmode=limit-only\nmin_resident=1M\n";

// The arguments with which the bench runs itself again as a VersusProgram.
std::vector<std::string> SubjectArguments(const VersusProgram::Options& options);

// What a program answers.
struct Measured {
  double operations = 0;
  double elapsed_s = 0;

  double per_s() const { return operations / elapsed_s; }
};

// Throws WrongBytes and HarnessError unless `answer` is one of Measured, or of "ok".
Measured ParseMeasured(const std::string& answer);
void ExpectOk(const std::string& answer);

// What "one" or "paced" left there, in nanoseconds. Throws HarnessError.
std::vector<int64_t> ReadSamples(const std::string& path);

class KeptProgram;

class MemoryKeeper {
 public:
  virtual ~MemoryKeeper() = default;

  // For messages: "zmem", "zram", "nobody".
  virtual std::string name() const = 0;
  // How a program of this keeper is started.
  virtual ChildOptions Launch(std::vector<std::string> argv) const = 0;
  // Before a program that was started fills its memory.
  virtual void Adopt(Child& child) = 0;
  // Takes everything out.
  virtual void TakeOut(KeptProgram& program) = 0;
  // Sets what may be resident of the program's pages, and waits until no more is.
  virtual void LimitTo(KeptProgram& program, uint32_t pages) = 0;
  // The same for a program that has filled nothing yet, and has no limit: nobody waits.
  virtual void LimitEmpty(KeptProgram& program, uint32_t pages) = 0;
  // CPU time that taking out `program`'s pages costs whoever does it, since they started.
  virtual double CpuSecondsFor(KeptProgram& program) const = 0;
  // Memory that a stored page takes, metadata included; 0 if none is stored.
  virtual double StoredPageBytes() const = 0;
  // When the programs have ended. Throws HarnessError if the keeper does not end well.
  virtual void Stop() {}
};

// zmemd with `config`.
std::unique_ptr<MemoryKeeper> KeepByZmem(const std::string& config);
// zram as swap with room for `bytes`. Throws HarnessError; see WhyNoZram.
std::unique_ptr<MemoryKeeper> KeepByZram(uint64_t bytes);

// Nobody: what a program does to itself alone counts. Nothing is limited or taken out.
std::unique_ptr<MemoryKeeper> KeepByNobody();

// Why there can be no zram here, or empty.
std::string WhyNoZram();

class KeptProgram {
 public:
  // Starts it. `keeper` must outlive it.
  KeptProgram(MemoryKeeper& keeper, VersusProgram::Options options);

  Child& child() { return *child_; }
  const VersusProgram::Options& options() const { return options_; }
  // Resident before it had filled anything.
  uint64_t empty_bytes() const { return empty_bytes_; }

  // All throw WrongBytes and HarnessError.
  Measured Measure(const std::string& command);
  void Do(const std::string& command);
  void TakeOut() { keeper_.TakeOut(*this); }
  void LimitTo(uint32_t pages) { keeper_.LimitTo(*this, pages); }
  void LimitEmpty(uint32_t pages) { keeper_.LimitEmpty(*this, pages); }
  uint32_t ResidentPages();
  std::vector<int64_t> Samples() const { return ReadSamples(options_.samples_path); }

 private:
  std::string Ask(const std::string& command);

  MemoryKeeper& keeper_;
  const TempDir directory_;
  VersusProgram::Options options_;
  std::unique_ptr<Child> child_;
  uint64_t empty_bytes_ = 0;
};

}  // namespace zmem
