#include "tests/evictor.h"

#include "absl/strings/str_cat.h"

namespace zmem {
namespace {

// What `counter` grew by since `last`, and `last` brought up to date.
int64_t Growth(const nlohmann::json& process, const char* counter, int64_t& last) {
  int64_t now = process.at(counter);
  int64_t before = now < last ? 0 : last;
  last = now;
  return now - before;
}

}  // namespace

Evictor::Evictor(const Daemon& daemon, const EvictorOptions& options)
    : daemon_(daemon), options_(options), thread_([this] { Run(); }) {}

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
      std::this_thread::sleep_for(options_.pause);
    }
    Round();
  } catch (const std::exception& error) {
    error_ = error.what();
  }
}

void Evictor::Round() {
  if (options_.pid) return Evict(*options_.pid);
  for (const nlohmann::json& process : daemon_.CtlJson({"ps", "--json"})) {
    Count(process);
    // It may have ended, or forked and stepped out of the way, since it was listed.
    if (process.at("state") == "attached") Evict(process.at("pid"));
  }
  faults_ = daemon_.Status().at("faults_total").get<int64_t>();
}

void Evictor::Evict(pid_t pid) {
  if (daemon_.Ctl({"evict", absl::StrCat(pid)}).status.Succeeded()) ++evictions_;
}

void Evictor::Count(const nlohmann::json& process) {
  auto [at, is_new] = seen_.try_emplace(process.at("pid").get<pid_t>());
  if (is_new) ++programs_;
  evicted_pages_ += Growth(process, "isolated_pages", at->second.evicted_pages);
  poisoned_pages_ += Growth(process, "poisoned_pages", at->second.poisoned_pages);
}

}  // namespace zmem
