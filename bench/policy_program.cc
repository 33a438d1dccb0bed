#include "bench/policy_program.h"

#include <sys/mman.h>
#include <sys/resource.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <vector>

#include "libzmem/base/clock.h"
#include "tests/programs/command_loop.h"

namespace zmem {
namespace {

constexpr uint64_t kOneIsWritten = 8;  // of so many touches

// Of this thread alone: the agent's are not the program's.
struct Faults {
  int64_t minor;
  int64_t major;

  static Faults Now() {
    rusage used{};
    getrusage(RUSAGE_THREAD, &used);
    return {used.ru_minflt, used.ru_majflt};
  }
};

}  // namespace

int PolicyProgram::Serve() {
  return ServeCommands({
      {"fill", [this] { return Fill(); }},
      {"touch", [this] { return Touch(); }},
      {"resident", [this] { return CountResident(); }},
      {"verify", [this] { return Verify(); }},
  });
}

std::string PolicyProgram::Fill() {
  pages_.Fill();
  return "ok";
}

std::string PolicyProgram::Touch() {
  if (stretch_ == trace_.stretches().size()) return "the trace has ended";
  nlohmann::json slices = nlohmann::json::array();
  MonotonicClock clock;
  int64_t start_ns = clock.now_ns();
  Faults before = Faults::Now();
  for (uint64_t left = trace_.stretches()[stretch_++].count; left > 0;) {
    uint64_t touches = std::min(left, kSliceTouches);
    std::string wrong = TouchSlice(touches);
    if (!wrong.empty()) return wrong;
    Faults after = Faults::Now();
    slices.push_back(
        {clock.now_ns() - start_ns, after.minor - before.minor, after.major - before.major});
    before = after;
    left -= touches;
  }
  return slices.dump();
}

std::string PolicyProgram::TouchSlice(uint64_t touches) {
  for (; touches > 0; --touches, ++turn_) {
    uint32_t page = trace_.Next();
    if (!pages_.Right(page, turn_)) return pages_.Describe(page);
    if (turn_ % kOneIsWritten == 0) pages_.Write(page);
  }
  return "";
}

std::string PolicyProgram::CountResident() const {
  std::vector<unsigned char> resident(options_.pages);
  if (mincore(pages_.data(), options_.pages * kPageBytes, resident.data()) != 0) return "mincore";
  return std::to_string(std::count_if(resident.begin(), resident.end(),
                                      [](unsigned char page) { return (page & 1) != 0; }));
}

std::string PolicyProgram::Verify() const {
  std::string wrong = pages_.Verify();
  return wrong.empty() ? "ok" : wrong;
}

}  // namespace zmem
