#include "bench/worst_case_program.h"

#include <sys/resource.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "libzmem/base/clock.h"
#include "libzmem/base/histogram.h"
#include "tests/page_pattern.h"
#include "tests/programs/command_loop.h"

namespace zmem {
namespace {

// Of all its threads, an agent among them, and what the kernel does on their behalf, such as
// taking out other pages of theirs.
double CpuSeconds() {
  rusage used{};
  getrusage(RUSAGE_SELF, &used);
  auto seconds = [](timeval time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
  };
  return seconds(used.ru_utime) + seconds(used.ru_stime);
}

}  // namespace

WorstCaseProgram::WorstCaseProgram(const Options& options)
    : options_(options),
      region_(options.pages, options.content),
      random_(options.seed),
      versions_(options.pages) {}

int WorstCaseProgram::Serve() {
  return ServeCommands({
      {"fill", [this] { return Fill(); }},
      {"verify", [this] { return Verify(); }},
      {"random touches", [this] { return Measure([this] { return TouchRandomPage(); }); }},
      {"cyclic reads", [this] { return Measure([this] { return ReadNextPage(); }); }},
      {"rewrite", [this] { return Measure([this] { return RewriteNextPage(); }); }},
  });
}

std::string WorstCaseProgram::Fill() {
  region_.Fill(0);
  return "ok";
}

std::string WorstCaseProgram::Verify() const {
  for (uint64_t page = 0; page < region_.pages(); ++page) {
    if (!VerifyPage(region_.page(page), page, versions_[page])) {
      return region_.Describe(page, versions_[page]);
    }
  }
  return "ok";
}

template <typename Operation>
std::string WorstCaseProgram::Measure(Operation operation) const {
  LatencyHistogram taken;
  MonotonicClock clock;
  double cpu_before_s = CpuSeconds();
  int64_t start_ns = clock.now_ns();
  int64_t end_ns = start_ns + static_cast<int64_t>(options_.seconds * 1e9);
  int64_t now_ns = start_ns;
  while (now_ns < end_ns) {
    if (!operation()) return "WRONG page";
    int64_t before_ns = now_ns;
    now_ns = clock.now_ns();  // one look at the clock an operation: the plain ones are short
    taken.Record(static_cast<uint64_t>(now_ns - before_ns));
  }
  nlohmann::json result = {{"operations", taken.count()},
                           {"elapsed_s", static_cast<double>(now_ns - start_ns) / 1e9},
                           {"program_cpu_s", CpuSeconds() - cpu_before_s},
                           {"p50_ns", taken.Percentile(50)},
                           {"p99_ns", taken.Percentile(99)},
                           {"max_ns", taken.max_ns()}};
  return result.dump();
}

// Its number and version alone: to check all of it takes longer than to touch it.
bool WorstCaseProgram::ReadPage(uint64_t page) const {
  page_pattern_internal::Header header;
  std::memcpy(&header, region_.page(page), sizeof header);
  return header.number == page && header.version == versions_[page];
}

bool WorstCaseProgram::TouchRandomPage() {
  constexpr uint64_t kOneIsRewritten = 4;
  random_ = page_pattern_internal::Mix(random_);
  uint64_t page = random_ % region_.pages();
  bool right = ReadPage(page);
  if ((random_ >> 32) % kOneIsRewritten == 0) Rewrite(page);
  return right;
}

bool WorstCaseProgram::ReadNextPage() { return ReadPage(NextPage()); }

bool WorstCaseProgram::RewriteNextPage() {
  Rewrite(NextPage());
  return true;
}

uint64_t WorstCaseProgram::NextPage() {
  uint64_t page = next_page_;
  next_page_ = (page + 1) % region_.pages();
  return page;
}

void WorstCaseProgram::Rewrite(uint64_t page) {
  FillPage(region_.page(page), page, ++versions_[page], options_.rewritten);
}

}  // namespace zmem
