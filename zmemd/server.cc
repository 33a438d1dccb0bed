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
#include "libzmem/codec/compressor.h"
#include "zmemd/kernel_check.h"

namespace zmem {
namespace {

// What 16 TiB of managed memory need: address space, not memory.
constexpr uint64_t kMaxChunks = uint64_t{1} << 23;
constexpr uint64_t kPoolReservedBytes = uint64_t{1} << 40;
// What the pool may keep of empty spans, until the next upkeep: a part of what it may hold.
constexpr uint64_t kKeptPoolDivisor = 32;
constexpr int kSweepPeriodMs = 500;
constexpr int kFirstByteTimeoutMs = 5000;

// How many programs may have idle CPUs poll at a time: each has two threads by turns, of which one
// looks out for the other.
size_t MostPollers(const Config& config) {
  unsigned cpus = std::thread::hardware_concurrency();
  return cpus <= config.idle_polling_max_cpus ? cpus / 2 : 0;
}

// How many threads may wait for CPUs while helpers are wanted: a caller, its program and a
// reclaimer that makes room for it are one more than two CPUs. Beside more than that a program that
// wakes up where a helper runs waits for a millisecond each time (docs/performance.md).
constexpr int kMostWaiting = 1;

// A thread for each CPU beside that of whoever asks; more than a few have nothing to do.
std::unique_ptr<Crew> MakeCrew(const HostLoad& load) {
  constexpr unsigned kMostHelpers = 3;
  unsigned cpus = std::max(std::thread::hardware_concurrency(), 1u);
  auto name = [] { pthread_setname_np(pthread_self(), "zmem-crew"); };
  auto is_wanted = [&load] { return load.ThreadsBeyondCpus().value_or(0) <= kMostWaiting; };
  try {
    return std::make_unique<Crew>(std::min(cpus - 1, kMostHelpers), name, is_wanted);
  } catch (const std::system_error&) {
    return std::make_unique<Crew>(0, name);  // threads are scarce
  }
}

// Null if they cannot be had: what is cold is then found out by taking it away.
std::unique_ptr<AccessedBits> OpenAccessedBitsOrSay() {
  absl::StatusOr<std::unique_ptr<AccessedBits>> bits = OpenAccessedBits();
  if (bits.ok()) return *std::move(bits);
  spdlog::info("reads of memory cannot be seen, so more is taken that is wanted back: {}",
               std::string(bits.status().message()));
  return nullptr;
}

}  // namespace

Server::Server(const Config& config, std::string socket_path)
    : config_(config),
      socket_path_(std::move(socket_path)),
      cpu_latency_(clock_, {.most_holders = MostPollers(config)}) {}

Server::~Server() {
  if (listener_.valid()) unlink(socket_path_.c_str());
}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const Config& config,
                                                      const ConfigSource& source,
                                                      const std::string& socket_path,
                                                      std::unique_ptr<Keeper> keeper) {
  std::unique_ptr<Server> server(new Server(config, socket_path));
  server->keeper_ = std::move(keeper);
  absl::StatusOr<UniqueFd> device = CheckKernel();
  if (!device.ok()) return device.status();
  server->device_ = *std::move(device);

  Zpool::Options pool_options;
  pool_options.limit_bytes = PoolLimitBytes(config, source.ram_bytes);
  pool_options.reserved_bytes = kPoolReservedBytes;
  pool_options.keep_divisor = kKeptPoolDivisor;
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
  server->crew_ = MakeCrew(server->load_);
  if (config.accessed_bits) server->accessed_bits_ = OpenAccessedBitsOrSay();
  server->settings_ = std::make_unique<LiveSettings>(config, source, *server->store_);
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
  server->control_ =
      std::make_unique<ControlService>(server->Parts(), server->clock_, server->stopping_);
  if (absl::Status status = server->Listen(); !status.ok()) return status;
  return server;
}

DaemonParts Server::Parts() {
  return {.config = config_,
          .settings = *settings_,
          .sessions = sessions_,
          .store = *store_,
          .arena = *arena_,
          .upkeep = *upkeep_,
          .housekeeper = *housekeeper_,
          .cpu_latency = cpu_latency_,
          .pressure = *pressure_,
          .sees_touches = accessed_bits_ != nullptr};
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
      control_->Reload().status().IgnoreError();  // it is in the log
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
    ServeControlConnection(connection.get(), *control_);
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
  for (const std::shared_ptr<Session>& session : sessions_.All()) {
    if (!session->bound() && !session->ended() && session->token() == token) return session;
  }
  return nullptr;
}

void Server::Promise(Session& session, uint64_t limit_bytes) {
  session.terms().SetEnvironmentLimit(limit_bytes);
  settings_->Configure(session);
}

std::shared_ptr<Process> Server::MakeProcess(Userfaultfd uffd) {
  return std::make_shared<Process>(*store_, *arena_, std::move(uffd));
}

absl::StatusOr<std::shared_ptr<Session>> Server::AddSession(std::shared_ptr<Process> process) {
  absl::StatusOr<std::shared_ptr<Session>> session =
      Session::Create(std::move(process), *this, clock_);
  if (!session.ok()) return session.status();
  if (absl::Status status = (*session)->StartServing(); !status.ok()) return status;
  sessions_.Add(*session);
  return session;
}

void Server::OnForkedSession(std::shared_ptr<Session> child) {
  sessions_.Add(child);
  nursery_->Add(std::move(child));
}

std::vector<std::shared_ptr<Process>> Server::StoredProcesses() const {
  std::vector<std::shared_ptr<Process>> processes;
  for (const std::shared_ptr<Session>& session : sessions_.All()) {
    if (!session->ended()) processes.push_back(session->shared_process());
  }
  return processes;
}

std::vector<SqueezedProgram> Server::SqueezedPrograms() const {
  std::vector<SqueezedProgram> programs;
  if (stopping()) return programs;
  for (const std::shared_ptr<Session>& session : sessions_.All()) {
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
  for (const std::shared_ptr<Session>& session : sessions_.All()) {
    if (stopping()) session->RequestDrain();
    session->CheckOrphan();
  }
  // Destroyed after unlocking: that joins a thread.
  std::vector<std::shared_ptr<Session>> ended = sessions_.TakeEnded();
  if (ended.empty()) return;
  MutexLock lock(mutex_);
  changed_.notify_all();
}

void Server::PutEverythingBack() {
  using std::chrono::steady_clock;
  auto next_word = steady_clock::now() + std::chrono::seconds(1);
  for (;;) {
    SweepSessions();
    std::vector<std::shared_ptr<Session>> left = sessions_.All();
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

}  // namespace zmem
