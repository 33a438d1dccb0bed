#include "zmemd/host_pressure.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "libzmem/base/kernel_figures.h"
#include "libzmem/base/page.h"

namespace zmem {
namespace {

// Threads waited for memory for a tenth of the time: far less than anybody notices, and more than
// on a host that now and then reads a file back. Windows that are no multiple of two seconds need
// CAP_SYS_RESOURCE.
constexpr char kTrigger[] = "some 200000 2000000";

// What a demand has to be met in.
constexpr int64_t kPatienceNs = 5'000'000'000;
// The same after several of which nothing came: there is nothing to be had, or no room for it.
constexpr int64_t kMaxPatienceNs = 60'000'000'000;
// What one program takes out in that time, at 100 MiB a second: 512 MiB.
constexpr uint64_t kMaxDemandPages = uint64_t{128} << 10;
// A demand of which less came, and less than one part in so many, was not worth the search. What
// a reclaimer finds in one search may be far less than it was asked for.
constexpr uint64_t kWorthPages = kPagesPerChunk;
constexpr uint64_t kWorthDivisor = 8;

// A program's part of a demand.
struct Part {
  const SqueezedProgram* program = nullptr;
  uint64_t resident_pages = 0;
  uint64_t cold_pages = 0;
  uint64_t pages = 0;  // asked for

  double cold_share() const {
    return resident_pages == 0
               ? 0
               : static_cast<double>(cold_pages) / static_cast<double>(resident_pages);
  }
  uint64_t warm_pages() const { return resident_pages - cold_pages; }
};

// Largest cold share first.
std::vector<Part> PartsOf(const std::vector<SqueezedProgram>& programs) {
  std::vector<Part> parts;
  for (const SqueezedProgram& program : programs) {
    uint64_t resident_pages = program.resident_pages();
    parts.push_back({.program = &program,
                     .resident_pages = resident_pages,
                     .cold_pages = std::min(program.cold_pages, resident_pages)});
  }
  std::stable_sort(parts.begin(), parts.end(),
                   [](const Part& a, const Part& b) { return a.cold_share() > b.cold_share(); });
  return parts;
}

// Returns what is left of `pages`.
uint64_t HandOutCold(std::vector<Part>& parts, uint64_t pages) {
  for (Part& part : parts) {
    part.pages = std::min(pages, part.cold_pages);
    pages -= part.pages;
  }
  return pages;
}

// In equal shares of what is not cold: no program has to give all for the others.
void HandOutWarm(std::vector<Part>& parts, uint64_t pages) {
  uint64_t warm_pages = 0;
  for (const Part& part : parts) warm_pages += part.warm_pages();
  if (warm_pages == 0) return;
  pages = std::min(pages, warm_pages);
  for (Part& part : parts) {
    part.pages +=
        static_cast<uint64_t>(static_cast<__uint128_t>(pages) * part.warm_pages() / warm_pages);
  }
}

}  // namespace

HostPressure::HostPressure(const Options& options, const Clock& clock, ProgramsFn programs)
    : options_(options), clock_(clock), programs_(std::move(programs)), patience_ns_(kPatienceNs) {}

void HostPressure::Turn(short trigger_events) {
  std::vector<SqueezedProgram> programs = programs_();
  bool stalled = NoteStalls(trigger_events);
  WatchStalls(!programs.empty());
  TakeBackExceptFrom(programs);
  std::optional<Memory> memory;
  if (!programs.empty()) memory = ReadMemory();
  bool was_short = std::exchange(is_short_, IsShort(memory, stalled));
  if (!is_short_) {
    TakeBack();
    patience_ns_ = kPatienceNs;
    next_ask_ns_ = 0;
  } else if (MayAsk(programs)) {
    uint64_t missing_bytes = memory->high_bytes - memory->available_bytes;
    bool is_low = memory->available_bytes < memory->low_bytes;
    Ask(programs, (missing_bytes + kPageBytes - 1) / kPageBytes, is_low);
  }
  MutexLock lock(mutex_);
  stats_.programs = programs.size();
  stats_.watches_stalls = trigger_.valid();
  stats_.stall_events += stalled ? 1 : 0;
  stats_.shortages += is_short_ && !was_short ? 1 : 0;
  stats_.wanted_pages = Outstanding();
  stats_.is_short = is_short_;
}

void HostPressure::WatchStalls(bool wanted) {
  if (!wanted) return trigger_.reset();
  if (trigger_.valid() || no_trigger_) return;
  int fd = sys::Open(options_.pressure_path.c_str(), O_RDWR | O_NONBLOCK);
  if (fd < 0) return LoseTrigger(-fd);
  trigger_.reset(fd);
  if (write(fd, kTrigger, sizeof kTrigger) < 0) LoseTrigger(errno);
}

void HostPressure::LoseTrigger(int error) {
  trigger_.reset();
  no_trigger_ = true;
  spdlog::warn("{} does not tell when programs wait for memory ({}): going by what is available",
               options_.pressure_path, strerror(error));
}

bool HostPressure::NoteStalls(short trigger_events) {
  if (trigger_events & (POLLERR | POLLNVAL)) LoseTrigger(ENODEV);
  return (trigger_events & POLLPRI) != 0;
}

std::optional<HostPressure::Memory> HostPressure::ReadMemory() const {
  std::string text;
  if (!sys::ReadFile(options_.meminfo_path, text).ok()) return std::nullopt;
  std::optional<uint64_t> available_bytes = BytesFigure(text, "MemAvailable");
  if (!available_bytes) return std::nullopt;
  uint64_t total_bytes = BytesFigure(text, "MemTotal").value_or(0);
  Memory memory{.available_bytes = *available_bytes};
  memory.low_bytes = total_bytes / 100 * options_.available_low_percent;
  memory.high_bytes =
      std::max(memory.low_bytes, total_bytes / 100 * options_.available_high_percent);
  return memory;
}

bool HostPressure::IsShort(const std::optional<Memory>& memory, bool stalled) const {
  if (!memory || memory->available_bytes >= memory->high_bytes) return false;
  return is_short_ || stalled || memory->available_bytes < memory->low_bytes;
}

bool HostPressure::MayAsk(const std::vector<SqueezedProgram>& programs) {
  int64_t now_ns = clock_.now_ns();
  bool is_settled = Outstanding() == 0;
  if (now_ns < next_ask_ns_ && (asked_.empty() || !is_settled)) return false;
  if (asked_.empty()) return true;
  uint64_t asked_pages = 0;
  for (const Asked& asked : asked_) asked_pages += asked.pages;
  uint64_t worth_pages = std::min(asked_pages / kWorthDivisor, kWorthPages);
  bool was_worth_it = Came(programs) > static_cast<int64_t>(worth_pages);
  TakeBack();
  patience_ns_ = was_worth_it ? kPatienceNs : std::min(2 * patience_ns_, kMaxPatienceNs);
  next_ask_ns_ = was_worth_it ? now_ns : now_ns + patience_ns_;
  return was_worth_it;
}

int64_t HostPressure::Came(const std::vector<SqueezedProgram>& programs) const {
  int64_t pages = 0;
  for (const Asked& asked : asked_) {
    std::shared_ptr<std::atomic<int64_t>> wanted = asked.wanted_pages.lock();
    for (const SqueezedProgram& program : programs) {
      if (program.wanted_pages == wanted) pages += program.taken_pages - asked.taken_before;
    }
  }
  return pages;
}

void HostPressure::Ask(const std::vector<SqueezedProgram>& programs, uint64_t pages,
                       bool beyond_cold) {
  std::vector<Part> parts = PartsOf(programs);
  uint64_t left = HandOutCold(parts, std::min(pages, kMaxDemandPages));
  if (beyond_cold) HandOutWarm(parts, left);
  next_ask_ns_ = clock_.now_ns() + patience_ns_;
  uint64_t asked_pages = 0;
  for (const Part& part : parts) {
    if (part.pages == 0) continue;
    const SqueezedProgram& program = *part.program;
    // Not added: what was taken beyond an earlier demand is none of this one.
    program.wanted_pages->store(static_cast<int64_t>(part.pages));
    program.wake();
    asked_.push_back({program.wanted_pages, part.pages, program.taken_pages});
    asked_pages += part.pages;
  }
  spdlog::debug("asked {} programs for {} pages, {} are missing", asked_.size(), asked_pages,
                pages);
  MutexLock lock(mutex_);
  stats_.asked_pages += asked_pages;
}

uint64_t HostPressure::Outstanding() const {
  uint64_t pages = 0;
  for (const Asked& asked : asked_) {
    std::shared_ptr<std::atomic<int64_t>> wanted = asked.wanted_pages.lock();
    if (wanted != nullptr) pages += static_cast<uint64_t>(std::max<int64_t>(wanted->load(), 0));
  }
  return pages;
}

void HostPressure::TakeBack() { TakeBackExceptFrom({}); }

void HostPressure::TakeBackExceptFrom(const std::vector<SqueezedProgram>& programs) {
  if (asked_.empty()) return;
  std::erase_if(asked_, [&](const Asked& asked) {
    std::shared_ptr<std::atomic<int64_t>> wanted = asked.wanted_pages.lock();
    bool stays = std::any_of(programs.begin(), programs.end(), [&](const SqueezedProgram& program) {
      return program.wanted_pages == wanted;
    });
    if (!stays && wanted != nullptr) wanted->store(0);
    return !stays;
  });
  if (asked_.empty()) next_ask_ns_ = 0;
}

HostPressure::Stats HostPressure::stats() const {
  MutexLock lock(mutex_);
  return stats_;
}

}  // namespace zmem
