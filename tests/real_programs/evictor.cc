#include "tests/real_programs/evictor.h"

#include <chrono>

#include "absl/strings/str_cat.h"

namespace zmem {
namespace {

// Between two rounds, so that a program that is taken out whole still gets anywhere on a machine
// with two CPUs.
constexpr std::chrono::milliseconds kPause{20};

// What `counter` grew by since `last`, and `last` brought up to date.
int64_t Growth(const nlohmann::json& process, const char* counter, int64_t& last) {
  int64_t now = process.at(counter);
  int64_t before = now < last ? 0 : last;
  last = now;
  return now - before;
}

}  // namespace

Evictor::Evictor(const Daemon& daemon) : daemon_(daemon), thread_([this] { Run(); }) {}

Evictor::~Evictor() {
  stop_ = true;
  if (thread_.joinable()) thread_.join();
}

void Evictor::Stop() {
  stop_ = true;
  if (thread_.joinable()) thread_.join();
  if (!error_.empty()) throw HarnessError(error_);
}

EvictionTotals Evictor::totals() const {
  return {programs_, evicted_pages_, faults_, poisoned_pages_};
}

void Evictor::Run() {
  try {
    while (!stop_) {
      Round();
      std::this_thread::sleep_for(kPause);
    }
    Round();
  } catch (const std::exception& error) {
    error_ = error.what();
  }
}

void Evictor::Round() {
  for (const nlohmann::json& process : daemon_.CtlJson({"ps", "--json"})) {
    Count(process);
    if (process.at("state") != "attached") continue;
    // It may have ended, or forked and stepped out of the way, since it was listed.
    daemon_.Ctl({"evict", absl::StrCat(process.at("pid").get<pid_t>())});
  }
  faults_ = daemon_.Status().at("faults_total").get<int64_t>();
}

void Evictor::Count(const nlohmann::json& process) {
  auto [at, is_new] = seen_.try_emplace(process.at("pid").get<pid_t>());
  if (is_new) ++programs_;
  evicted_pages_ += Growth(process, "isolated_pages", at->second.evicted_pages);
  poisoned_pages_ += Growth(process, "poisoned_pages", at->second.poisoned_pages);
}

}  // namespace zmem
