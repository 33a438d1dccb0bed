// Watches whether the host is short of memory, and asks the programs that are managed for that
// (ReclaimMode::kPressure) for their pages: as many as are missing, coldest programs first. It only
// asks, by Process::wanted_pages; each program's reclaimer takes the pages out.
//
// A demand is for no more than can be taken out in a few seconds, so that it can be taken back; the
// next one is made when it is settled. If next to nothing came, there is none for a while.
//
// Short begins when less than available_low_percent of RAM is available (MemAvailable), or when
// threads wait for memory (the kernel's pressure stall information) while less than
// available_high_percent is; it ends, and what is still asked for is taken back, when that much is
// available. With more available than that, stalls are somebody's who has reached the limit of his
// own memory cgroup, whom taking pages elsewhere would not help.
//
// Turn belongs to one thread; stats is thread-safe.
// Source: Documentation/accounting/psi.rst; meminfo in Documentation/filesystems/proc.rst.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "libzmem/base/clock.h"
#include "libzmem/base/mutex.h"
#include "libzmem/base/sys.h"

namespace zmem {

// A program that gives pages to a host that is short of memory.
struct SqueezedProgram {
  uint64_t cold_pages = 0;                             // resident, and unwanted for the cold age
  std::function<uint64_t()> resident_pages;            // as of now
  int64_t taken_pages = 0;                             // in all; tells what came of a demand
  std::shared_ptr<std::atomic<int64_t>> wanted_pages;  // Process::wanted_pages
  std::function<void()> wake;                          // has its reclaimer look at that
};

class HostPressure {
 public:
  using ProgramsFn = std::function<std::vector<SqueezedProgram>()>;

  struct Options {
    std::string pressure_path = "/proc/pressure/memory";
    std::string meminfo_path = "/proc/meminfo";
    // Of RAM. The kernel itself begins to reclaim when about 1 % is free; programs that end others
    // for want of memory (earlyoom) when 10 % is available. The distance is what is asked for at
    // once: large enough that shortages do not follow each other every second.
    unsigned available_low_percent = 10;
    unsigned available_high_percent = 15;  // at least the former
  };

  struct Stats {
    uint64_t programs = 0;        // that give pages, at the last turn
    bool watches_stalls = false;  // the kernel tells of stalls; only while there are programs
    uint64_t stall_events = 0;    // times it told of some, in all
    uint64_t shortages = 0;       // times the host became short, in all
    uint64_t asked_pages = 0;     // in all; what is asked for again counts again
    uint64_t wanted_pages = 0;    // asked for and not taken out yet
    bool is_short = false;        // now
  };

  // `programs` is called from Turn, and returns none while nobody gives pages: nothing is watched
  // then.
  HostPressure(const Options& options, const Clock& clock, ProgramsFn programs);

  // To be called once a second, and when poll(2) has events for trigger_fd; these are
  // `trigger_events`, else 0. Waits for nothing.
  void Turn(short trigger_events);
  // Has POLLPRI when threads had to wait for memory, at most once in two seconds; -1 if nobody has
  // to know.
  int trigger_fd() const { return trigger_.get(); }

  Stats stats() const;

  struct Memory {
    uint64_t available_bytes = 0;  // what programs could have without swapping
    uint64_t low_bytes = 0;
    uint64_t high_bytes = 0;
  };
  // As of now. nullopt if the kernel does not say. Thread-safe.
  std::optional<Memory> ReadMemory() const;

 private:
  // Keeps the trigger while it is wanted, as far as the kernel has one.
  void WatchStalls(bool wanted);
  // Whether the kernel tells of stalls.
  bool NoteStalls(short trigger_events);
  void LoseTrigger(int error);
  // Whether the host is short of memory, by what it was at the last turn.
  bool IsShort(const std::optional<Memory>& memory, bool stalled) const;
  // Whether it is time to ask: the last demand is settled, or has had its time.
  bool MayAsk(const std::vector<SqueezedProgram>& programs);
  // Pages taken out since they were asked for.
  int64_t Came(const std::vector<SqueezedProgram>& programs) const;
  // Asks for `pages`, and for no more than is cold unless `beyond_cold`.
  void Ask(const std::vector<SqueezedProgram>& programs, uint64_t pages, bool beyond_cold);
  uint64_t Outstanding() const;
  void TakeBack();
  // From those that give no pages any more.
  void TakeBackExceptFrom(const std::vector<SqueezedProgram>& programs);

  // A program's part of a demand.
  struct Asked {
    std::weak_ptr<std::atomic<int64_t>> wanted_pages;
    uint64_t pages = 0;
    int64_t taken_before = 0;
  };

  const Options options_;
  const Clock& clock_;
  const ProgramsFn programs_;
  UniqueFd trigger_;
  bool no_trigger_ = false;  // there is none to be had; not tried again
  bool is_short_ = false;
  std::vector<Asked> asked_;  // the demand that is due; empty: none
  int64_t patience_ns_;
  int64_t next_ask_ns_ = 0;  // when the demand has had its time, or another may be made

  mutable Mutex mutex_;
  Stats stats_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace zmem
