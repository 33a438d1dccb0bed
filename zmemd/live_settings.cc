#include "zmemd/live_settings.h"

#include <spdlog/spdlog.h>

#include "absl/strings/str_cat.h"
#include "libzmem/base/quantity.h"
#include "zmemd/program_settings.h"
#include "zmemd/program_terms.h"

namespace zmem {

LiveSettings::LiveSettings(const Config& config, const ConfigSource& source, PageStore& store)
    : source_(source), store_(store), settings_(config) {}

Config LiveSettings::current() const {
  MutexLock lock(mutex_);
  return settings_;
}

absl::Status LiveSettings::CheckManaged(const Identity& identity) const {
  MutexLock lock(mutex_);
  if (settings_.programs.empty()) return absl::OkStatus();
  ProgramFacts facts = ReadProgramFacts(identity.pid, identity.uid);
  const ProgramSection* section = ExcludedBy(settings_.programs, facts);
  if (section == nullptr) return absl::OkStatus();
  return absl::CancelledError(absl::StrCat(
      "the configuration of zmemd says managed=no in [program ", Quoted(section->name), "]"));
}

bool LiveSettings::Configure(Session& session) const {
  {
    MutexLock lock(mutex_);
    ProgramFacts facts;
    if (!settings_.programs.empty()) facts = ReadProgramFacts(session.pid(), session.uid());
    if (const ProgramSection* section = ExcludedBy(settings_.programs, facts)) {
      spdlog::info("PID {} is let go: managed=no in [program {}]", session.pid(),
                   Quoted(section->name));
      session.RequestDrain();
      return false;
    }
    ProgramSettings settings = SettingsFor(settings_.programs, facts);
    session.terms().Configure(Apply(settings, DefaultPolicy(settings_)));
  }
  ApplyTerms(session);
  return true;
}

void LiveSettings::ApplyTerms(Session& session) const {
  bool is_limited = session.terms().limit().bytes != 0;
  uint64_t must_stay_bytes = is_limited ? MustStayBytes(session.process()) : 0;
  MutexLock lock(mutex_);  // what is applied last is what was said last
  ResidentLimit asked = session.terms().limit();
  Policy policy = session.terms().policy(must_stay_bytes);
  session.SetPolicy(policy);
  if (asked.bytes == policy.limit_bytes) return;
  spdlog::info("PID {}: its limit of {} ({}) is raised to {}, which must stay resident",
               session.pid(), FormatBytes(asked.bytes), std::string(LimitSourceName(asked.source)),
               FormatBytes(policy.limit_bytes));
}

absl::Status LiveSettings::Change(const std::string& key, absl::string_view value) {
  MutexLock lock(mutex_);
  absl::Status changed = ChangeConfig(key, value, source_, settings_);
  if (!changed.ok()) return changed;
  changed_keys_.insert(key);
  LimitPoolLocked();
  return absl::OkStatus();
}

std::set<std::string> LiveSettings::Replace(const Config& config) {
  std::set<std::string> overwritten;
  MutexLock lock(mutex_);
  overwritten.swap(changed_keys_);
  settings_ = config;
  LimitPoolLocked();
  return overwritten;
}

void LiveSettings::LimitPoolLocked() {
  store_.pool().set_limit_bytes(PoolLimitBytes(settings_, source_.ram_bytes));
  store_.set_accept_threshold_percent(settings_.accept_threshold_percent);
}

}  // namespace zmem
