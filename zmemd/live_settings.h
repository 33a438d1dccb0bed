// The configuration as it counts now: as it was read last, with what zmemctl has set since. What it
// says is told to the pool, and to programs and their sessions, here and nowhere else.
// Thread-safe.
#pragma once

#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "libzmem/base/mutex.h"
#include "libzmem/store/page_store.h"
#include "zmemd/config.h"
#include "zmemd/session.h"

namespace zmem {

class LiveSettings {
 public:
  // `config` counts, and the pool has its limits already. `source` is where it is from.
  LiveSettings(const Config& config, const ConfigSource& source, PageStore& store);

  Config current() const;
  const ConfigSource& source() const { return source_; }

  // Whether a program may be managed. Errors: Cancelled, naming the section that says no.
  absl::Status CheckManaged(const Identity& identity) const;
  // Gives a session what the settings say of its program, or lets go of it: then false.
  bool Configure(Session& session) const;
  // Makes a session's terms count. What is raised because it cannot be kept is logged.
  void ApplyTerms(Session& session) const;

  // Changes one key, for the pool too. Errors: InvalidArgument, as ChangeConfig.
  absl::Status Change(const std::string& key, absl::string_view value);
  // Takes over what was read, for the pool too. Returns the keys that were changed since the last
  // time, and are no more.
  std::set<std::string> Replace(const Config& config);

 private:
  void LimitPoolLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const ConfigSource source_;
  PageStore& store_;
  mutable Mutex mutex_;
  Config settings_ ABSL_GUARDED_BY(mutex_);
  std::set<std::string> changed_keys_ ABSL_GUARDED_BY(mutex_);  // since it was read
};

}  // namespace zmem
