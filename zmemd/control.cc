#include "zmemd/control.h"

#include <climits>

#include "absl/strings/str_cat.h"
#include "libzmem/base/quantity.h"
#include "zmemd/json_fields.h"

namespace zmem {
namespace {

using nlohmann::json;

struct CommandInfo {
  ControlCommand command;
  absl::string_view name;
  ControlArgument argument;
};

constexpr CommandInfo kCommands[] = {
    {ControlCommand::kStatus, "status", ControlArgument::kNone},
    {ControlCommand::kPs, "ps", ControlArgument::kNone},
    {ControlCommand::kShow, "show", ControlArgument::kPid},
    {ControlCommand::kEvict, "evict", ControlArgument::kPid},
    {ControlCommand::kDrain, "drain", ControlArgument::kPid},
    {ControlCommand::kThaw, "thaw", ControlArgument::kPid},
    {ControlCommand::kFreeze, "freeze", ControlArgument::kPid},
    {ControlCommand::kHistogram, "histogram", ControlArgument::kPidIfAny},
    {ControlCommand::kLimit, "limit", ControlArgument::kPidWithValue},
    {ControlCommand::kSet, "set", ControlArgument::kSetting},
    {ControlCommand::kReload, "reload", ControlArgument::kNone},
    {ControlCommand::kVersion, "version", ControlArgument::kNone},
};

const CommandInfo& InfoOf(ControlCommand command) {
  for (const CommandInfo& info : kCommands) {
    if (info.command == command) return info;
  }
  return kCommands[0];  // an enumerator that is not in the table; ParseControlRequest makes none
}

struct ExitCode {
  int exit_code;
  absl::StatusCode status_code;
};

constexpr ExitCode kExitCodes[] = {
    {0, absl::StatusCode::kOk},       {2, absl::StatusCode::kInvalidArgument},
    {3, absl::StatusCode::kNotFound}, {4, absl::StatusCode::kPermissionDenied},
    {6, absl::StatusCode::kDataLoss}, {7, absl::StatusCode::kUnavailable},
};

absl::StatusOr<ControlRequest> ParseArgument(const CommandInfo& info, const json& parsed) {
  ControlRequest request{.command = info.command};
  switch (info.argument) {
    case ControlArgument::kNone:
      return request;
    case ControlArgument::kPidIfAny:
      if (!parsed.contains("pid")) return request;
      [[fallthrough]];
    case ControlArgument::kPid:
    case ControlArgument::kPidWithValue: {
      int64_t pid = IntegerAt(parsed, "pid", 0);
      if (pid < 1 || pid > INT_MAX) {
        return absl::InvalidArgumentError(absl::StrCat(info.name, " needs the pid of a process"));
      }
      request.pid = static_cast<pid_t>(pid);
      request.value = StringAt(parsed, "value", "");
      return request;
    }
    case ControlArgument::kSetting:
      request.key = StringAt(parsed, "key", "");
      request.value = StringAt(parsed, "value", "");
      if (request.key.empty()) {
        return absl::InvalidArgumentError(absl::StrCat(info.name, " needs a key and a value"));
      }
      return request;
  }
  return request;
}

}  // namespace

absl::string_view ControlCommandName(ControlCommand command) { return InfoOf(command).name; }
ControlArgument ControlCommandArgument(ControlCommand command) { return InfoOf(command).argument; }

int ControlExitCode(const absl::Status& status) {
  for (const ExitCode& known : kExitCodes) {
    if (known.status_code == status.code()) return known.exit_code;
  }
  return 1;
}

absl::Status ControlStatus(int64_t exit_code, absl::string_view message) {
  for (const ExitCode& known : kExitCodes) {
    if (known.exit_code == exit_code) return absl::Status(known.status_code, message);
  }
  return absl::UnknownError(message);
}

absl::StatusOr<ControlRequest> ParseControlRequest(absl::string_view packet) {
  json parsed = json::parse(packet.begin(), packet.end(), nullptr, /*allow_exceptions=*/false);
  if (!parsed.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat("not a request: ", Quoted(packet)));
  }
  int64_t schema = IntegerAt(parsed, "schema", -1);
  if (schema != kControlSchema) {
    return absl::InvalidArgumentError(absl::StrCat("zmemd speaks control schema ", kControlSchema,
                                                   "; use the zmemctl that was installed with it"));
  }
  auto word = parsed.find("command");
  if (word == parsed.end() || !word->is_string()) {
    return absl::InvalidArgumentError("the request names no command");
  }
  const std::string& name = word->get_ref<const std::string&>();
  for (const CommandInfo& info : kCommands) {
    if (info.name != name) continue;
    return ParseArgument(info, parsed);
  }
  return absl::InvalidArgumentError(absl::StrCat("zmemd knows no command ", Quoted(name)));
}

}  // namespace zmem
