#include "zmemd/server.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <spdlog/spdlog.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <system_error>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "libzmem/base/quantity.h"
#include "zmemd/kernel_check.h"
#include "zmemd/program_settings.h"
#include "zmemd/program_terms.h"
#include "zmemd/size_histogram.h"
#include "zmemd/version.h"

namespace zmem {
namespace {

// What 16 TiB of managed memory need: address space, not memory.
constexpr uint64_t kMaxChunks = uint64_t{1} << 23;
constexpr uint64_t kPoolReservedBytes = uint64_t{1} << 40;
constexpr int kSweepPeriodMs = 500;
constexpr int kFirstByteTimeoutMs = 5000;

// null without a limit.
nlohmann::json DailyLeft(const BackingFile::Stats& file) {
  if (file.daily_bytes_left == UINT64_MAX) return nullptr;
  return file.daily_bytes_left;
}

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

// A thread for each CPU beside that of whoever asks; more than a few have nothing to do.
std::unique_ptr<Crew> MakeCrew() {
  constexpr unsigned kMostHelpers = 3;
  unsigned cpus = std::max(std::thread::hardware_concurrency(), 1u);
  auto name = [] { pthread_setname_np(pthread_self(), "zmem-crew"); };
  try {
    return std::make_unique<Crew>(std::min(cpus - 1, kMostHelpers), name);
  } catch (const std::system_error&) {
    return std::make_unique<Crew>(0, name);  // threads are scarce
  }
}

}  // namespace

Server::Server(const Config& config, const ConfigSource& source, std::string socket_path)
    : config_(config),
      config_source_(source),
      socket_path_(std::move(socket_path)),
      settings_(config) {}

Server::~Server() {
  if (listener_.valid()) unlink(socket_path_.c_str());
}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const Config& config,
                                                      const ConfigSource& source,
                                                      const std::string& socket_path,
                                                      std::unique_ptr<Keeper> keeper) {
  std::unique_ptr<Server> server(new Server(config, source, socket_path));
  server->keeper_ = std::move(keeper);
  absl::StatusOr<UniqueFd> device = CheckKernel();
  if (!device.ok()) return device.status();
  server->device_ = *std::move(device);

  Zpool::Options pool_options;
  pool_options.limit_bytes = PoolLimitBytes(config, source.ram_bytes);
  pool_options.reserved_bytes = kPoolReservedBytes;
  absl::StatusOr<std::unique_ptr<Zpool>> pool = Zpool::Create(pool_options);
  if (!pool.ok()) return pool.status();
  server->pool_ = *std::move(pool);
  absl::StatusOr<std::unique_ptr<ChunkArena>> arena = ChunkArena::Create(kMaxChunks);
  if (!arena.ok()) return arena.status();
  server->arena_ = *std::move(arena);

  if (absl::Status status = server->OpenBacking(); !status.ok()) return status;
  PageStore::Options store_options;
  store_options.backing = server->backing_.get();
  store_options.clean_pages_percent = config.clean_pages_percent;
  store_options.accept_threshold_percent = config.accept_threshold_percent;
  store_options.compressor = FindCompressor(config.compressor);
  store_options.same_filled_pages_enabled = config.same_filled_pages_enabled;
  store_options.fat_bytes = kPageBytes * FatPercent(config, server->backing_ != nullptr) / 100;
  server->store_ = std::make_unique<PageStore>(*server->pool_, store_options);
  server->crew_ = MakeCrew();
  absl::StatusOr<std::unique_ptr<Nursery>> nursery = Nursery::Start(server->clock_);
  if (!nursery.ok()) return nursery.status();
  server->nursery_ = *std::move(nursery);
  Upkeep::Options upkeep_options;
  upkeep_options.writeback_age_ns = config.writeback_age_ns;
  upkeep_options.recompress_age_ns = config.recompress_age_ns;
  upkeep_options.recompress_cpu_percent = config.recompress_cpu_percent;
  // What is not wanted meanwhile would have gone out.
  upkeep_options.clean_pages_age_ns =
      std::max(upkeep_options.clean_pages_age_ns, 2 * config.cold_age_ns);
  server->upkeep_ =
      std::make_unique<Upkeep>(*server->store_, server->clock_, server->cpu_clock_, upkeep_options);
  absl::StatusOr<std::unique_ptr<Housekeeper>> housekeeper = Housekeeper::Start(
      *server->upkeep_, *server->pool_, [raw = server.get()] { return raw->StoredProcesses(); });
  if (!housekeeper.ok()) return housekeeper.status();
  server->housekeeper_ = *std::move(housekeeper);
  if (absl::Status status = server->StartHostPressure(); !status.ok()) return status;
  if (absl::Status status = server->Listen(); !status.ok()) return status;
  return server;
}

absl::Status Server::OpenBacking() {
  if (config_.backing_path.empty()) return absl::OkStatus();
  absl::StatusOr<std::unique_ptr<BackingFile>> file =
      BackingFile::Open({.path = config_.backing_path,
                         .size_bytes = config_.backing_size,
                         .preallocate = config_.backing_preallocate,
                         .daily_write_limit_bytes = config_.daily_write_limit});
  if (file.ok()) {
    backing_ = *std::move(file);
  } else if (config_.backing_required) {
    return absl::Status(
        file.status().code(),
        absl::StrCat(file.status().message(), "; or start without it: [backing] required=no"));
  } else {
    spdlog::warn("no backing file: {}", std::string(file.status().message()));
  }
  return absl::OkStatus();
}

absl::Status Server::StartHostPressure() {
  HostPressure::Options options;
  options.available_low_percent = config_.available_low_percent;
  options.available_high_percent = config_.available_high_percent;
  pressure_ =
      std::make_unique<HostPressure>(options, clock_, [this] { return SqueezedPrograms(); });
  absl::StatusOr<std::unique_ptr<PressureThread>> thread = PressureThread::Start(*pressure_);
  if (!thread.ok()) return thread.status();
  pressure_thread_ = *std::move(thread);
  return absl::OkStatus();
}

absl::Status Server::Listen() {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (socket_path_.empty() || socket_path_.size() >= sizeof address.sun_path) {
    return absl::InvalidArgumentError(
        absl::StrCat("the socket's path ", socket_path_, " is empty or longer than ",
                     sizeof address.sun_path - 1, " bytes; name another with --socket"));
  }
  socket_path_.copy(address.sun_path, socket_path_.size());
  const auto* generic = reinterpret_cast<const sockaddr*>(&address);

  // A socket left behind by a zmemd that was killed refuses connections; a living one accepts.
  UniqueFd probe(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (connect(probe.get(), generic, sizeof address) == 0) {
    return absl::AlreadyExistsError(
        absl::StrCat("a zmemd listens at ", socket_path_, " already; name another with --socket"));
  }
  if (errno == ECONNREFUSED) unlink(socket_path_.c_str());
  std::error_code ignored;  // bind says it better
  std::filesystem::create_directories(std::filesystem::path(socket_path_).parent_path(), ignored);

  UniqueFd listener(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!listener.valid()) return sys::ErrnoStatus(errno, "cannot create a socket");
  if (bind(listener.get(), generic, sizeof address) != 0) {
    return sys::ErrnoStatus(errno, absl::StrCat("cannot create the socket ", socket_path_));
  }
  // Every user's programs may ask to be managed; what a user may see and do is decided per request.
  chmod(socket_path_.c_str(), 0666);
  if (listen(listener.get(), SOMAXCONN) != 0) {
    return sys::ErrnoStatus(errno, absl::StrCat("cannot listen at ", socket_path_));
  }
  listener_ = std::move(listener);
  return absl::OkStatus();
}

void Server::Run(int stop_fd, int reload_fd) {
  spdlog::info("listening at {}, pool limit {} MiB, compressor {}", socket_path_,
               pool_->stats().limit_bytes >> 20, config_.compressor);
  sd_notify(0, "READY=1");
  for (;;) {
    pollfd fds[3] = {{listener_.get(), POLLIN, 0}, {stop_fd, POLLIN, 0}, {reload_fd, POLLIN, 0}};
    sys::Poll(fds, 3, kSweepPeriodMs);
    if (fds[1].revents != 0) break;
    signalfd_siginfo signal;
    if (fds[2].revents != 0 && read(reload_fd, &signal, sizeof signal) > 0) {
      Reload().status().IgnoreError();  // it is in the log
    }
    if (fds[0].revents != 0) Accept();
    SweepSessions();
  }
  sd_notify(0, "STOPPING=1");
  stopping_.store(true, std::memory_order_release);
  PutEverythingBack();
}

void Server::Accept() {
  UniqueFd connection(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!connection.valid()) return;
  ucred peer{};
  socklen_t length = sizeof peer;
  getsockopt(connection.get(), SOL_SOCKET, SO_PEERCRED, &peer, &length);
  MutexLock lock(mutex_);
  size_t& of_user = connections_of_[peer.uid];
  if (connections_ >= kMaxConnections || (peer.uid != 0 && of_user >= kMaxConnectionsOfUser))
    return;
  auto shared = std::make_shared<UniqueFd>(std::move(connection));
  try {
    std::thread([this, shared, uid = peer.uid] {
      ServeConnection(std::move(*shared));
      MutexLock lock(mutex_);
      --connections_;
      --connections_of_[uid];
      changed_.notify_all();
    }).detach();
  } catch (const std::system_error& error) {
    spdlog::warn("a connection is turned away: no thread for it ({})", error.what());
    return;
  }
  ++connections_;
  ++of_user;
}

void Server::ServeConnection(UniqueFd connection) {
  pollfd readable{connection.get(), POLLIN, 0};
  if (sys::Poll(&readable, 1, kFirstByteTimeoutMs) <= 0) return;
  char first = 0;
  if (recv(connection.get(), &first, 1, MSG_PEEK | MSG_DONTWAIT) != 1) return;
  if (first == '{') {
    ServeControlConnection(connection.get(), *this);
  } else {
    ServeAgentConnection(std::move(connection));
  }
}

void Server::ServeAgentConnection(UniqueFd connection) {
  wire::Channel channel(std::move(connection));
  absl::StatusOr<std::shared_ptr<Session>> session = AttachAgent(channel, *this);
  if (!session.ok()) {
    // A small program is asked to come back, an excluded one to stay away; whoever hung up has its
    // reasons.
    bool expected = absl::IsCancelled(session.status()) || absl::IsOutOfRange(session.status()) ||
                    absl::IsUnavailable(session.status()) || absl::IsNotFound(session.status());
    spdlog::log(expected ? spdlog::level::debug : spdlog::level::warn, "not attached: {}",
                std::string(session.status().message()));
    return;
  }
  pid_t pid = (*session)->pid();
  spdlog::info("PID {} attached", pid);
  (*session)->ServeAgent(channel);
  spdlog::info("PID {} detached", pid);
  SweepSessions();
}

std::shared_ptr<Session> Server::FindForked(const wire::Token& token) {
  for (const std::shared_ptr<Session>& session : Sessions()) {
    if (!session->bound() && !session->ended() && session->token() == token) return session;
  }
  return nullptr;
}

std::shared_ptr<Process> Server::MakeProcess(Userfaultfd uffd) {
  return std::make_shared<Process>(*store_, *arena_, std::move(uffd));
}

absl::Status Server::CheckManaged(const Identity& identity) {
  MutexLock lock(settings_mutex_);
  if (settings_.programs.empty()) return absl::OkStatus();
  ProgramFacts facts = ReadProgramFacts(identity.pid, identity.uid);
  const ProgramSection* section = ExcludedBy(settings_.programs, facts);
  if (section == nullptr) return absl::OkStatus();
  return absl::CancelledError(absl::StrCat(
      "the configuration of zmemd says managed=no in [program ", Quoted(section->name), "]"));
}

void Server::Promise(Session& session, uint64_t limit_bytes) {
  session.terms().SetEnvironmentLimit(limit_bytes);
  Configure(session);
}

bool Server::Configure(Session& session) {
  {
    MutexLock lock(settings_mutex_);
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

void Server::ApplyTerms(Session& session) {
  bool is_limited = session.terms().limit().bytes != 0;
  uint64_t must_stay_bytes = is_limited ? MustStayBytes(session.process()) : 0;
  MutexLock lock(settings_mutex_);  // what is applied last is what was said last
  ResidentLimit asked = session.terms().limit();
  Policy policy = session.terms().policy(must_stay_bytes);
  session.SetPolicy(policy);
  if (asked.bytes == policy.limit_bytes) return;
  spdlog::info("PID {}: its limit of {} ({}) is raised to {}, which must stay resident",
               session.pid(), FormatBytes(asked.bytes), std::string(LimitSourceName(asked.source)),
               FormatBytes(policy.limit_bytes));
}

absl::StatusOr<std::shared_ptr<Session>> Server::AddSession(std::shared_ptr<Process> process) {
  absl::StatusOr<std::shared_ptr<Session>> session =
      Session::Create(std::move(process), *this, clock_);
  if (!session.ok()) return session.status();
  if (absl::Status status = (*session)->StartServing(); !status.ok()) return status;
  MutexLock lock(mutex_);
  sessions_.push_back(*session);
  return session;
}

void Server::OnForkedSession(std::shared_ptr<Session> child) {
  {
    MutexLock lock(mutex_);
    sessions_.push_back(child);
  }
  nursery_->Add(std::move(child));
}

std::vector<std::shared_ptr<Session>> Server::Sessions() const {
  MutexLock lock(mutex_);
  return sessions_;
}

std::vector<std::shared_ptr<Process>> Server::StoredProcesses() const {
  std::vector<std::shared_ptr<Process>> processes;
  for (const std::shared_ptr<Session>& session : Sessions()) {
    if (!session->ended()) processes.push_back(session->shared_process());
  }
  return processes;
}

std::vector<SqueezedProgram> Server::SqueezedPrograms() const {
  std::vector<SqueezedProgram> programs;
  if (stopping()) return programs;
  for (const std::shared_ptr<Session>& session : Sessions()) {
    if (!session->GivesPages()) continue;
    std::shared_ptr<Process> process = session->shared_process();
    programs.push_back(
        {.cold_pages = process->counters.cold_pages.load(std::memory_order_relaxed),
         .resident_pages = [pid = session->pid()] { return ResidentBytes(pid) / kPageBytes; },
         .taken_pages = process->counters.taken_pages(),
         .wanted_pages = {process, &process->wanted_pages},
         .wake =
             [weak = std::weak_ptr<Session>(session)] {
               if (std::shared_ptr<Session> alive = weak.lock()) alive->Wake();
             }});
  }
  return programs;
}

void Server::SweepSessions() {
  for (const std::shared_ptr<Session>& session : Sessions()) {
    if (stopping()) session->RequestDrain();
    session->CheckOrphan();
  }
  std::vector<std::shared_ptr<Session>> ended;  // destroyed after unlocking: that joins a thread
  MutexLock lock(mutex_);
  auto first_ended = std::stable_partition(
      sessions_.begin(), sessions_.end(),
      [](const std::shared_ptr<Session>& session) { return !session->ended(); });
  for (auto at = first_ended; at != sessions_.end(); ++at) {
    past_faults_ += (*at)->process().counters.faults_total;
    past_latency_.Merge((*at)->process().fault_latency);
    ended.push_back(std::move(*at));
  }
  sessions_.erase(first_ended, sessions_.end());
  if (!ended.empty()) changed_.notify_all();
}

void Server::PutEverythingBack() {
  using std::chrono::steady_clock;
  auto next_word = steady_clock::now() + std::chrono::seconds(1);
  for (;;) {
    SweepSessions();
    std::vector<std::shared_ptr<Session>> left = Sessions();
    {
      MutexLock lock(mutex_);
      if (left.empty() && connections_ == 0) return;
      changed_.wait_for(mutex_, std::chrono::milliseconds(20));
    }
    if (steady_clock::now() < next_word) continue;
    next_word += std::chrono::seconds(1);
    uint64_t pages = 0;
    std::string pids;
    for (const std::shared_ptr<Session>& session : left) {
      pages += session->pages_out();
      if (pids.size() < 60) absl::StrAppend(&pids, pids.empty() ? "" : ", ", session->pid());
    }
    spdlog::info("putting memory back: {} MiB left in {} processes ({})", pages * kPageBytes >> 20,
                 left.size(), pids);
  }
}

absl::StatusOr<std::shared_ptr<Session>> Server::FindForControl(pid_t pid,
                                                                const ControlPeer& peer) const {
  for (const std::shared_ptr<Session>& session : Sessions()) {
    if (session->pid() != pid || session->ended()) continue;
    if (peer.uid != 0 && peer.uid != session->uid()) {
      return absl::PermissionDeniedError(
          absl::StrCat("PID ", pid, " belongs to another user; ask as root"));
    }
    return session;
  }
  return absl::NotFoundError(absl::StrCat("PID ", pid, " is not managed by zmemd; see zmemctl ps"));
}

absl::StatusOr<nlohmann::json> Server::Handle(const ControlRequest& request,
                                              const ControlPeer& peer,
                                              const ControlProgressFn& progress) {
  if (request.command == ControlCommand::kVersion) {
    return nlohmann::json{{"version", kZmemVersion}, {"protocol", wire::kVersion}};
  }
  if (request.command == ControlCommand::kStatus) return Status(peer);
  if (request.command == ControlCommand::kPs) return Processes(peer);
  if (request.command == ControlCommand::kSet) return Set(request, peer);
  if (request.command == ControlCommand::kReload) {
    if (peer.uid == 0) return Reload();
    return absl::PermissionDeniedError(
        "only root may have zmemd read its configuration again; ask as root");
  }
  if (request.command == ControlCommand::kHistogram) return Histogram(request.pid, peer);

  absl::StatusOr<std::shared_ptr<Session>> session = FindForControl(request.pid, peer);
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

absl::StatusOr<nlohmann::json> Server::Reload() {
  MutexLock lock(reload_mutex_);
  if (stopping()) return absl::UnavailableError("zmemd is stopping");
  // For systemd's Type=notify-reload and Type=notify, sd_notify(3).
  sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%lld", static_cast<long long>(clock_.now_ns() / 1000));
  LoadedConfig loaded = LoadConfig(config_source_);
  nlohmann::json result = {{"files", loaded.files}};
  if (loaded.errors.empty()) {
    std::set<std::string> overwritten;
    {
      MutexLock settings_lock(settings_mutex_);
      overwritten.swap(set_keys_);
    }
    result.update(TakeOver(loaded.config));
    result["overwritten"] = overwritten;
    result["needs_restart"] = KeysForNextStart(config_, loaded.config);
  }
  sd_notify(0, "READY=1");
  for (const std::string& error : loaded.errors) spdlog::error("{}", error);
  if (!loaded.errors.empty()) {
    spdlog::error("the configuration has mistakes; everything stays as it is");
    return Mistakes(loaded.errors);
  }
  spdlog::info("read the configuration again: pool limit {} MiB", pool_->limit_bytes() >> 20);
  for (const std::string& file : loaded.files) spdlog::info("read {}", file);
  for (const nlohmann::json& key : result["needs_restart"]) {
    spdlog::warn("{} has changed, which needs a restart", key.get<std::string>());
  }
  return result;
}

nlohmann::json Server::TakeOver(const Config& config) {
  {
    MutexLock lock(settings_mutex_);
    settings_ = config;
    pool_->set_limit_bytes(PoolLimitBytes(settings_, config_source_.ram_bytes));
    store_->set_accept_threshold_percent(settings_.accept_threshold_percent);
  }
  housekeeper_->Wake();
  size_t managed = 0;
  nlohmann::json let_go = nlohmann::json::array();
  for (const std::shared_ptr<Session>& session : Sessions()) {
    if (session->ended()) continue;
    // What is not bound yet is configured then.
    if (!session->bound() || Configure(*session)) {
      ++managed;
    } else {
      let_go.push_back(session->pid());
    }
  }
  return {{"processes", managed}, {"let_go", let_go}};
}

absl::StatusOr<nlohmann::json> Server::Limit(Session& session, absl::string_view limit,
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
  ApplyTerms(session);
  ResidentLimit now = session.terms().limit();
  spdlog::info("PID {}: its limit is {} from now on, by zmemctl", session.pid(),
               now.bytes == 0 ? "none" : FormatBytes(now.bytes));
  return nlohmann::json{{"limit_bytes", now.bytes},
                        {"limit_source", std::string(LimitSourceName(now.source))},
                        {"resident_bytes", resident},
                        {"must_stay_bytes", must_stay}};
}

absl::StatusOr<nlohmann::json> Server::Set(const ControlRequest& request, const ControlPeer& peer) {
  if (peer.uid != 0) {
    return absl::PermissionDeniedError("only root may change zmemd's settings; ask as root");
  }
  {
    MutexLock lock(settings_mutex_);
    absl::Status changed = ChangeConfig(request.key, request.value, config_source_, settings_);
    if (!changed.ok()) return changed;
    set_keys_.insert(request.key);
    pool_->set_limit_bytes(PoolLimitBytes(settings_, config_source_.ram_bytes));
    store_->set_accept_threshold_percent(settings_.accept_threshold_percent);
  }
  housekeeper_->Wake();
  uint64_t held = pool_->held_bytes();
  uint64_t limit = pool_->limit_bytes();
  spdlog::info("{} is {} from now on: pool limit {} MiB", request.key, request.value, limit >> 20);
  // How what is held above the limit goes.
  const char* shrinks_by = "refaults";
  if (held <= limit) {
    shrinks_by = "nothing";
  } else if (backing_ != nullptr) {
    shrinks_by = backing_->stats().is_suspended ? "suspended writeback" : "writeback";
  }
  return nlohmann::json{{"key", request.key},       {"value", request.value},
                        {"held_bytes", held},       {"limit_bytes", limit},
                        {"shrinks_by", shrinks_by}, {"accept_bytes", store_->accept_bytes()}};
}

nlohmann::json Server::Processes(const ControlPeer& peer) const {
  nlohmann::json processes = nlohmann::json::array();
  for (const std::shared_ptr<Session>& session : Sessions()) {
    if (session->ended() || (peer.uid != 0 && peer.uid != session->uid())) continue;
    processes.push_back(session->Describe());
  }
  return processes;
}

absl::StatusOr<nlohmann::json> Server::Histogram(pid_t pid, const ControlPeer& peer) const {
  SizeHistogram histogram;
  if (pid != 0) {
    absl::StatusOr<std::shared_ptr<Session>> session = FindForControl(pid, peer);
    if (!session.ok()) return session.status();
    histogram.Add((*session)->process().table);
    return histogram.ToJson();
  }
  for (const std::shared_ptr<Session>& session : Sessions()) {
    if (session->ended() || (peer.uid != 0 && peer.uid != session->uid())) continue;
    histogram.Add(session->process().table);
  }
  return histogram.ToJson();
}

nlohmann::json Server::Status(const ControlPeer& peer) const {
  uint64_t faults = Sum(&ProcessCounters::faults_total);
  LatencyHistogram latency;
  for (const std::shared_ptr<Session>& session : Sessions()) {
    latency.Merge(session->process().fault_latency);
  }
  latency.Merge(past_latency_);
  {
    MutexLock lock(mutex_);
    faults += past_faults_;
  }
  return {{"schema", 1},
          {"pool", DescribePool()},
          {"backing", DescribeBacking()},
          {"host", DescribeHost()},
          {"metadata_bytes", metadata_bytes()},
          {"faults_total", faults},
          {"fault_latency_ns",
           {{"p50", latency.Percentile(50)},
            {"p99", latency.Percentile(99)},
            {"max", latency.max_ns()}}},
          {"processes", Processes(peer)}};
}

uint64_t Server::Sum(std::atomic<uint64_t> ProcessCounters::*counter) const {
  uint64_t sum = 0;
  for (const std::shared_ptr<Session>& session : Sessions()) {
    sum += session->process().counters.*counter;
  }
  return sum;
}

nlohmann::json Server::DescribePool() const {
  Zpool::Stats pool = pool_->stats();
  PageStore::Stats store = store_->stats();
  Upkeep::Stats upkeep = upkeep_->stats();
  return {{"compressor", settings().compressor},
          {"held_bytes", pool.held_bytes},
          {"max_held_bytes", pool.max_held_bytes},
          {"compressed_bytes", pool.live_bytes},
          {"original_bytes", Sum(&ProcessCounters::stored_pages) * kPageBytes},
          {"limit_bytes", pool.limit_bytes},
          {"accept_bytes", store_->accept_bytes()},
          {"objects", pool.objects},
          {"same_filled_pages", Sum(&ProcessCounters::same_filled_pages)},
          {"incompressible_rejects", store.incompressible_rejects},
          {"pool_full_rejects", store.pool_full_rejects},
          {"limit_rejects", pool.limit_rejects},
          {"reclaimable_bytes", pool.reclaimable_bytes},
          {"compaction_rounds", upkeep.compaction_rounds},
          {"compacted_objects", upkeep.compacted_objects},
          {"compacted_bytes", upkeep.compacted_bytes},
          {"recompressed_objects", upkeep.recompressed_objects},
          {"recompressed_bytes", upkeep.recompressed_bytes},
          {"recompress_cpu_ns", upkeep.recompress_cpu_ns},
          {"clean_pages", store_->clean.pages.load()},
          {"clean_bytes", store_->clean.object_bytes.load()},
          {"clean_reused_pages", store_->clean.reused.load()},
          {"clean_changed_pages", store_->clean.changed.load()}};
}

nlohmann::json Server::DescribeBacking() const {
  if (backing_ == nullptr) return nullptr;
  BackingFile::Stats file = backing_->stats();
  PageStore::Stats store = store_->stats();
  return {{"path", config_.backing_path},
          {"size_bytes", file.segments * BackingFile::Options().segment_bytes},
          {"held_bytes", file.held_bytes},
          {"live_bytes", file.live_bytes},
          {"objects", file.objects},
          {"segments", file.segments},
          {"free_segments", file.free_segments},
          {"reads", file.reads},
          {"writes", file.writes},
          {"bytes_read", file.bytes_read},
          {"bytes_written", file.bytes_written},
          {"fat_pages", store.fat_pages},
          {"spilled_pages", store.spilled_pages},
          {"written_back_pages", store.written_back_pages},
          {"rewritten_objects", upkeep_->stats().rewritten_objects},
          {"busy_rejects", store.file_busy_rejects},
          {"full_rejects", store.file_full_rejects},
          {"limit_rejects", store.file_limit_rejects},
          {"suspended_rejects", store.file_suspended_rejects},
          {"read_errors", file.io_errors_read},
          {"write_errors", file.io_errors_write},
          {"checksum_errors", file.checksum_errors},
          {"daily_left_bytes", DailyLeft(file)},
          {"disk_pages", Sum(&ProcessCounters::disk_pages)},
          {"suspended", file.is_suspended}};
}

nlohmann::json Server::DescribeHost() const {
  HostPressure::Stats stats = pressure_->stats();
  HostPressure::Memory memory = pressure_->ReadMemory().value_or(HostPressure::Memory());
  return {{"reclaim_mode", ReclaimModeName(config_.mode)},
          {"available_bytes", memory.available_bytes},
          {"low_bytes", memory.low_bytes},
          {"high_bytes", memory.high_bytes},
          {"is_short", stats.is_short},
          {"shortages", stats.shortages},
          {"watches_stalls", stats.watches_stalls},
          {"stall_events", stats.stall_events},
          {"squeezed_processes", stats.programs},
          {"asked_pages", stats.asked_pages},
          {"wanted_pages", stats.wanted_pages}};
}

uint64_t Server::metadata_bytes() const {
  uint64_t of_file = backing_ == nullptr ? 0 : backing_->stats().metadata_bytes;
  return of_file + pool_->stats().metadata_bytes + arena_->held_bytes() + store_->metadata_bytes() +
         Sessions().size() * Session::kFixedBytes;
}

}  // namespace zmem
