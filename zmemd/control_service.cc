#include "zmemd/control_service.h"

#include <spdlog/spdlog.h>
#include <systemd/sd-daemon.h>

#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "libzmem/base/quantity.h"
#include "libzmem/wire/messages.h"
#include "zmemd/program_settings.h"
#include "zmemd/program_terms.h"
#include "zmemd/size_histogram.h"
#include "zmemd/status_report.h"
#include "zmemd/version.h"

namespace zmem {
namespace {

// A line for each, as many as an answer has room for.
absl::Status Mistakes(absl::Span<const std::string> errors) {
  constexpr size_t kMostBytes = 16 << 10;
  std::string lines;
  for (size_t i = 0; i < errors.size(); ++i) {
    absl::StrAppend(&lines, i == 0 ? "" : "\n", errors[i]);
    if (lines.size() < kMostBytes || i + 1 == errors.size()) continue;
    absl::StrAppend(&lines, "\n", errors.size() - i - 1, " more; see zmemd --check-config");
    break;
  }
  return absl::DataLossError(lines);
}

}  // namespace

ControlService::ControlService(const DaemonParts& parts, const Clock& clock,
                               const std::atomic<bool>& stopping)
    : parts_(parts), clock_(clock), stopping_(stopping) {}

absl::StatusOr<nlohmann::json> ControlService::Handle(const ControlRequest& request,
                                                      const ControlPeer& peer,
                                                      const ControlProgressFn& progress) {
  if (request.command == ControlCommand::kVersion) {
    return nlohmann::json{{"version", kZmemVersion}, {"protocol", wire::kVersion}};
  }
  if (request.command == ControlCommand::kStatus) return DescribeStatus(parts_, peer);
  if (request.command == ControlCommand::kPs) return DescribeProcesses(parts_, peer);
  if (request.command == ControlCommand::kSet) return Set(request, peer);
  if (request.command == ControlCommand::kReload) {
    if (peer.uid == 0) return Reload();
    return absl::PermissionDeniedError(
        "only root may have zmemd read its configuration again; ask as root");
  }
  if (request.command == ControlCommand::kHistogram) return Histogram(request.pid, peer);
  return HandleProcess(request, peer, progress);
}

absl::StatusOr<nlohmann::json> ControlService::HandleProcess(const ControlRequest& request,
                                                             const ControlPeer& peer,
                                                             const ControlProgressFn& progress) {
  absl::StatusOr<std::shared_ptr<Session>> session = Find(request.pid, peer);
  if (!session.ok()) return session.status();
  auto report = [&progress](uint64_t done, uint64_t total) { progress({done, total, "pages"}); };
  switch (request.command) {
    case ControlCommand::kEvict: {
      absl::StatusOr<Reclaimer::EvictResult> result = (*session)->EvictAll(report);
      if (!result.ok()) return result.status();
      nlohmann::json now = (*session)->Describe();
      return nlohmann::json{
          {"evicted_pages", result->evicted_pages}, {"stored_pages", now["stored_pages"]},
          {"staged_pages", now["staged_pages"]},    {"resident_bytes", now["resident_bytes"]},
          {"skipped_pages", result->skipped_pages}, {"pool_full", result->pool_full}};
    }
    case ControlCommand::kThaw: {
      absl::StatusOr<uint64_t> restored = (*session)->Thaw(report);
      if (!restored.ok()) return restored.status();
      return nlohmann::json{{"restored_pages", *restored}};
    }
    case ControlCommand::kFreeze:
      (*session)->Freeze();
      return nlohmann::json::object();
    case ControlCommand::kLimit:
      return Limit(**session, request.value, peer);
    case ControlCommand::kDrain: {
      absl::StatusOr<uint64_t> restored = (*session)->DrainAndWait(report);
      if (!restored.ok()) return restored.status();
      return nlohmann::json{{"restored_pages", *restored}};
    }
    default:
      return (*session)->Describe();
  }
}

absl::StatusOr<std::shared_ptr<Session>> ControlService::Find(pid_t pid,
                                                              const ControlPeer& peer) const {
  for (const std::shared_ptr<Session>& session : parts_.sessions.All()) {
    if (session->pid() != pid || session->ended()) continue;
    if (!MaySee(peer, *session)) {
      return absl::PermissionDeniedError(
          absl::StrCat("PID ", pid, " belongs to another user; ask as root"));
    }
    return session;
  }
  return absl::NotFoundError(absl::StrCat("PID ", pid, " is not managed by zmemd; see zmemctl ps"));
}

absl::StatusOr<nlohmann::json> ControlService::Reload() {
  MutexLock lock(reload_mutex_);
  if (stopping_.load(std::memory_order_acquire)) {
    return absl::UnavailableError("zmemd is stopping");
  }
  // For systemd's Type=notify-reload and Type=notify, sd_notify(3).
  sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%lld", static_cast<long long>(clock_.now_ns() / 1000));
  LoadedConfig loaded = LoadConfig(parts_.settings.source());
  nlohmann::json result = {{"files", loaded.files}};
  if (loaded.errors.empty()) {
    std::set<std::string> overwritten = parts_.settings.Replace(loaded.config);
    result.update(Configure());
    result["overwritten"] = overwritten;
    result["needs_restart"] = KeysForNextStart(parts_.config, loaded.config);
  }
  sd_notify(0, "READY=1");
  for (const std::string& error : loaded.errors) spdlog::error("{}", error);
  if (!loaded.errors.empty()) {
    spdlog::error("the configuration has mistakes; everything stays as it is");
    return Mistakes(loaded.errors);
  }
  spdlog::info("read the configuration again: pool limit {} MiB",
               parts_.store.pool().limit_bytes() >> 20);
  for (const std::string& file : loaded.files) spdlog::info("read {}", file);
  for (const nlohmann::json& key : result["needs_restart"]) {
    spdlog::warn("{} has changed, which needs a restart", key.get<std::string>());
  }
  return result;
}

nlohmann::json ControlService::Configure() {
  parts_.housekeeper.Wake();
  size_t managed = 0;
  nlohmann::json let_go = nlohmann::json::array();
  for (const std::shared_ptr<Session>& session : parts_.sessions.All()) {
    if (session->ended()) continue;
    // What is not bound yet is configured then.
    if (!session->bound() || parts_.settings.Configure(*session)) {
      ++managed;
    } else {
      let_go.push_back(session->pid());
    }
  }
  return {{"processes", managed}, {"let_go", let_go}};
}

absl::StatusOr<nlohmann::json> ControlService::Limit(Session& session, absl::string_view limit,
                                                     const ControlPeer& peer) {
  uint64_t resident = ResidentBytes(session.pid());
  uint64_t out = session.process().counters.stored_pages.load() * kPageBytes;
  absl::StatusOr<uint64_t> bytes = ParseLimit(limit, resident + out);
  if (!bytes.ok()) return bytes.status();
  uint64_t must_stay = MustStayBytes(session.process());
  if (*bytes != 0 && *bytes < must_stay) {
    return absl::FailedPreconditionError(absl::StrCat(
        FormatBytes(*bytes), " is too little for PID ", session.pid(), ": ", FormatBytes(must_stay),
        " of its memory must stay, such as files, locked memory and stacks"));
  }
  if (absl::Status status = session.terms().SetLimit(*bytes, peer.uid == 0); !status.ok()) {
    return absl::Status(status.code(), absl::StrCat("PID ", session.pid(), ": ", status.message()));
  }
  parts_.settings.ApplyTerms(session);
  ResidentLimit now = session.terms().limit();
  spdlog::info("PID {}: its limit is {} from now on, by zmemctl", session.pid(),
               now.bytes == 0 ? "none" : FormatBytes(now.bytes));
  return nlohmann::json{{"limit_bytes", now.bytes},
                        {"limit_source", std::string(LimitSourceName(now.source))},
                        {"resident_bytes", resident},
                        {"must_stay_bytes", must_stay}};
}

absl::StatusOr<nlohmann::json> ControlService::Set(const ControlRequest& request,
                                                   const ControlPeer& peer) {
  if (peer.uid != 0) {
    return absl::PermissionDeniedError("only root may change zmemd's settings; ask as root");
  }
  absl::Status changed = parts_.settings.Change(request.key, request.value);
  if (!changed.ok()) return changed;
  parts_.housekeeper.Wake();
  uint64_t held = parts_.store.pool().held_bytes();
  uint64_t limit = parts_.store.pool().limit_bytes();
  spdlog::info("{} is {} from now on: pool limit {} MiB", request.key, request.value, limit >> 20);
  // How what is held above the limit goes.
  const char* shrinks_by = "refaults";
  if (held <= limit) {
    shrinks_by = "nothing";
  } else if (const BackingFile* file = parts_.store.backing()) {
    shrinks_by = file->stats().is_suspended ? "suspended writeback" : "writeback";
  }
  return nlohmann::json{{"key", request.key},       {"value", request.value},
                        {"held_bytes", held},       {"limit_bytes", limit},
                        {"shrinks_by", shrinks_by}, {"accept_bytes", parts_.store.accept_bytes()}};
}

absl::StatusOr<nlohmann::json> ControlService::Histogram(pid_t pid, const ControlPeer& peer) const {
  if (pid == 0) return DescribeObjects(parts_, peer);
  absl::StatusOr<std::shared_ptr<Session>> session = Find(pid, peer);
  if (!session.ok()) return session.status();
  SizeHistogram histogram;
  histogram.Add((*session)->process().table);
  return histogram.ToJson();
}

}  // namespace zmem
