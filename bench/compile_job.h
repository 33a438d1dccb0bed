// A real compile job whose memory is squeezed: GoogleTest's sources as Debian ships them, two
// compilers at a time, in a memory cgroup. Not thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "bench/swap_file.h"
#include "bench/zram_swap.h"
#include "tests/harness.h"
#include "tests/limited_cgroup.h"

namespace zmem {

// The kernel ended a compiler because the cgroup was full.
class CompilerKilled : public HarnessError {
 public:
  using HarnessError::HarnessError;
};

class CompileJob {
 public:
  enum class Means {
    kNone,
    kZmem,  // with its pool alone
    kZram,
    kSwapFile,
  };
  struct Options {
    Means means = Means::kNone;
    uint64_t limit_bytes = 0;  // of the whole job; 0: none
    uint64_t swap_bytes = 0;   // room of zram or the file
    std::string directory;     // of the swap file
  };
  struct Result {
    double elapsed_s = 0;
    uint64_t io_bytes = 0;    // read from disks by the job, written to swap for it
    uint64_t peak_bytes = 0;  // of what the cgroup was charged
    uint64_t held_bytes = 0;  // the most that zmemd's pool or zram took beside it
    double zmemd_cpu_s = 0;
    std::string digest;  // of all objects
  };

  // Why it cannot run at all, or by these means, or empty.
  static std::string WhyUnavailable(Means means);

  // Sets up what `options` say. Throws HarnessError.
  explicit CompileJob(const Options& options);
  // Once. Throws CompilerKilled, and HarnessError if a compiler fails.
  Result Run();

 private:
  std::string Script() const;
  std::string Digest() const;
  uint64_t ReadBytes() const;
  uint64_t HeldBytes() const;

  const Options options_;
  const TempDir objects_;
  // The job ends before what it is in goes.
  LimitedCgroup cgroup_;
  std::optional<ZramSwap> zram_;
  std::optional<SwapFile> swap_file_;
  std::optional<Daemon> daemon_;
  std::unique_ptr<Child> shell_;
};

}  // namespace zmem
