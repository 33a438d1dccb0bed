#include "zmemd/session.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libzmem/base/quantity.h"
#include "libzmem/uffd/address_map.h"
#include "zmemd/hints.h"
#include "zmemd/program_settings.h"

namespace zmem {
namespace {

// How long an agent may take to close its end after Detach. A stopped one does so when it goes on;
// its threads wait until then.
constexpr int kDetachTimeoutMs = 2000;
constexpr auto kProgressPeriod = std::chrono::milliseconds(100);

nlohmann::json Latency(const LatencyHistogram& histogram) {
  return {{"p50", histogram.Percentile(50)},
          {"p99", histogram.Percentile(99)},
          {"max", histogram.max_ns()}};
}

}  // namespace

uint64_t ResidentBytes(pid_t pid) {
  absl::StatusOr<ProcessStat> stat = ProcessStat::Open(pid);
  return stat.ok() ? stat->resident_bytes().value_or(0) : 0;
}

void RaiseServingThread(const char* name) {
  constexpr int kNice = -15;
  constexpr unsigned long kTimerSlackNs = 1000;  // what it pauses for is soon over
  pthread_setname_np(pthread_self(), name);
  setpriority(PRIO_PROCESS, static_cast<id_t>(syscall(SYS_gettid)), kNice);
  prctl(PR_SET_TIMERSLACK, kTimerSlackNs);
}

absl::StatusOr<std::shared_ptr<Session>> Session::Create(std::shared_ptr<Process> process,
                                                         SessionParent& parent,
                                                         const Clock& clock) {
  std::shared_ptr<Session> session(new Session(process, parent, clock));
  session->wake_fd_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!session->wake_fd_.valid()) return sys::ErrnoStatus(errno, "cannot create an eventfd");
  absl::StatusOr<std::unique_ptr<FaultHandler>> faults =
      FaultHandler::Create(std::move(process), *session, clock,
                           {.crew = &parent.crew(), .cpu_latency = &parent.cpu_latency()});
  if (!faults.ok()) return faults.status();
  session->faults_ = *std::move(faults);
  return session;
}

absl::Status Session::StartServing() {
  try {
    fault_thread_ = std::thread([this] {
      RaiseServingThread("zmem-fault");
      faults_->Run();
    });
  } catch (const std::system_error& error) {
    return absl::ResourceExhaustedError(
        absl::StrCat("cannot start a fault thread: ", error.what()));
  }
  return absl::OkStatus();
}

Session::Session(std::shared_ptr<Process> process, SessionParent& parent, const Clock& clock)
    : process_(std::move(process)), parent_(parent), clock_(clock) {}

Session::~Session() {
  parent_.OnAgentChange(process_->uffd.fd(), false);
  if (!fault_thread_.joinable()) return;  // it was never started
  faults_->Stop();
  fault_thread_.join();
}

void Session::Bind(Identity identity, RemoteMemory memory, Pagemap pagemap,
                   const wire::Hello& hello) {
  // Readers look at these fields only after they saw `bound`.
  identity_ = std::move(identity);
  process_->pid = identity_.pid;
  process_->pidfd = std::move(identity_.pidfd);
  process_->memory = std::move(memory);
  process_->pagemap = std::move(pagemap);
  absl::StatusOr<ProcessStat> stat = ProcessStat::Open(identity_.pid);
  if (stat.ok()) process_->stat = *std::move(stat);  // else it has just ended
  process_->agent = hello.agent;
  process_->staging = hello.staging;
  process_->kept = hello.kept;
  process_->FindCgroup();
  process_->DropUnregistered();
  process_->bound.store(true, std::memory_order_release);
  SetHasAgent(true);
}

void Session::SetHasAgent(bool has_agent) {
  has_agent_.store(has_agent, std::memory_order_release);
  parent_.OnAgentChange(process_->uffd.fd(), has_agent);
}

void Session::OnFork(std::shared_ptr<Process> child) {
  absl::StatusOr<std::shared_ptr<Session>> session = Create(std::move(child), parent_, clock_);
  if (session.ok()) {
    parent_.OnForkedSession(*std::move(session));
  } else {
    spdlog::error("cannot serve a child of PID {}: {}", pid(), session.status().ToString());
  }
}

void Session::SetPolicy(const Policy& policy) {
  process_->SetPolicy(policy);
  eventfd_write(wake_fd_.get(), 1);
}

void Session::OnRoomWanted() {
  if (!room_wanted_.exchange(true)) eventfd_write(wake_fd_.get(), 1);
}

void Session::OnHugePageWanted() { eventfd_write(wake_fd_.get(), 1); }

void Session::OnGone() {
  if (has_agent_.load(std::memory_order_acquire)) {
    eventfd_write(wake_fd_.get(), 1);
  } else {
    End();
  }
}

void Session::End() {
  ended_.store(true, std::memory_order_release);
  FinishJob(NoLongerManaged());
  MutexLock lock(mutex_);
  changed_.notify_all();
}

void Session::ServeAgent(wire::Channel& channel) {
  Hints hints(*process_, *faults_, wake_fd_.get());
  ChannelAgentLink agent(channel, hints);
  Reclaimer reclaimer(*process_, agent, clock_,
                      {.on_room = [this] { faults_->Wake(); },
                       .crew = &parent_.crew(),
                       .accessed_bits = parent_.accessed_bits()});
  bool agent_left = false;
  while (!process_->gone.load(std::memory_order_acquire) &&
         !drain_requested_.load(std::memory_order_acquire)) {
    int64_t wait_ns = std::max<int64_t>(reclaimer.next_tick_ns() - clock_.now_ns(), 0);
    pollfd fds[2] = {{channel.fd(), POLLIN, 0}, {wake_fd_.get(), POLLIN, 0}};
    constexpr int kSilentAgentMs = 250;
    constexpr int kThawingMs = 2;
    int wait_ms = static_cast<int>(std::min<int64_t>(wait_ns / 1'000'000 + 1, 60'000));
    if (thaw_wanted_.load()) wait_ms = thawed_.load() ? -1 : kThawingMs;
    sys::Poll(fds, 2, agent.idle() ? wait_ms : kSilentAgentMs);
    eventfd_t ignored;
    eventfd_read(wake_fd_.get(), &ignored);
    if (fds[0].revents != 0) {
      // A request, a late answer, or the agent's end.
      agent_left = absl::IsUnavailable(agent.idle() ? agent.TakeRequests() : agent.AwaitIdle());
      if (agent_left) break;
    }
    if (drain_requested_.load(std::memory_order_acquire)) break;
    // A program that is stopped does not answer; it is waited for, its pages are served meanwhile.
    agent_left = agent.idle() && absl::IsUnavailable(Reclaim(agent, reclaimer));
    if (agent_left) break;
    if (agent.Asked(wire::Wish::kLeave)) {
      leave_alone_.store(true, std::memory_order_release);
      break;
    }
  }
  if (agent_left) SetHasAgent(false);
  FinishJob(NoLongerManaged());
  AwaitDrain();
  if (agent_left) UnregisterAll();
  if (!agent_left && !process_->gone.load(std::memory_order_acquire)) {
    // Its copy of the userfaultfd is closed before its socket; faults are served until then.
    wire::Detach detach{};
    detach.for_good = leave_alone_.load(std::memory_order_acquire) ? 1 : 0;
    if (channel.Send(detach).ok()) {
      pollfd closed{channel.fd(), POLLIN, 0};
      sys::Poll(&closed, 1, kDetachTimeoutMs);
    }
  }
  End();
}

absl::Status Session::Reclaim(ChannelAgentLink& agent, Reclaimer& reclaimer) {
  if (agent.Asked(wire::Wish::kThaw)) thaw_wanted_.store(true);
  if (thaw_wanted_.load() || thawing_.load()) {
    if (absl::Status status = reclaimer.SettleForFork(); !status.ok()) return status;
    return TurnThaw(agent, reclaimer);
  }
  if (room_wanted_.load()) {
    absl::Status status = reclaimer.MakeRoom();
    room_wanted_.store(false);
    if (!status.ok()) return status;
  }
  RunEvictJob(reclaimer);
  return reclaimer.Tick();
}

absl::Status Session::TurnThaw(ChannelAgentLink& agent, Reclaimer& reclaimer) {
  FinishJob(absl::FailedPreconditionError(absl::StrCat(
      "PID ", pid(), " is thawed; let go of it with zmemctl freeze ", pid(), " first")));
  if (!thaw_wanted_.load()) {
    faults_->EndDrain();
    thawing_.store(false);
    thawed_.store(false);
    return absl::OkStatus();
  }
  if (!thawing_.exchange(true)) {
    if (absl::Status status = reclaimer.ReturnStaged(); !status.ok()) return status;
    faults_->RequestDrain();
  }
  if (!faults_->drained()) return absl::OkStatus();
  thawed_.store(true);
  if (agent.Asked(wire::Wish::kThaw)) agent.Grant(wire::Wish::kThaw);
  MutexLock lock(mutex_);
  changed_.notify_all();
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> Session::Thaw(const Reclaimer::ProgressFn& progress) {
  if (absl::Status room = CheckRoom(); !room.ok()) return room;
  uint64_t total = pages_out();
  thaw_wanted_.store(true);
  eventfd_write(wake_fd_.get(), 1);
  while (!thawed_.load()) {
    if (!CanTakeOut()) return NoLongerManaged();
    if (!thaw_wanted_.load()) {
      return absl::AbortedError(absl::StrCat("PID ", pid(), " was frozen before it was thawed"));
    }
    {
      MutexLock lock(mutex_);
      if (!thawed_.load()) changed_.wait_for(mutex_, kProgressPeriod);
    }
    uint64_t left = pages_out();
    progress(total - std::min(left, total), total);
  }
  return total;
}

void Session::Freeze() {
  thaw_wanted_.store(false);
  eventfd_write(wake_fd_.get(), 1);
}

void Session::Wake() { eventfd_write(wake_fd_.get(), 1); }

bool Session::GivesPages() const {
  return process_->policy().mode == ReclaimMode::kPressure && bound() && CanTakeOut() &&
         !thaw_wanted_.load();
}

void Session::UnregisterAll() {
  absl::StatusOr<AddressMap> map = AddressMap::Read(pid(), {});
  if (!map.ok()) return;  // the usual reason for an agent's end: its program has ended
  for (AddressRange range : map->registered()) process_->uffd.Unregister(range);
}

void Session::AwaitDrain() {
  drain_requested_.store(true, std::memory_order_release);
  faults_->RequestDrain();
  // A session can end while an agent is being bound to it: then nobody serves it any more.
  while (!faults_->drained() && !process_->gone.load(std::memory_order_acquire) && !ended()) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
}

void Session::RunEvictJob(Reclaimer& reclaimer) {
  std::shared_ptr<EvictJob> job;
  {
    MutexLock lock(mutex_);
    job = job_;
  }
  if (job == nullptr) return;
  absl::StatusOr<Reclaimer::EvictResult> result =
      reclaimer.EvictAll(job->cancel, [&](uint64_t done, uint64_t total) {
        job->done.store(done, std::memory_order_relaxed);
        job->total.store(total, std::memory_order_relaxed);
        if (drain_requested_.load(std::memory_order_acquire)) job->cancel = true;
      });
  // What is unavailable is the program. To whoever asked, that word stands for a missing zmemd.
  if (absl::IsUnavailable(result.status())) result = NoLongerManaged();
  FinishJob(std::move(result));
}

bool Session::CanTakeOut() const {
  return !ended() && has_agent_.load(std::memory_order_acquire) &&
         !drain_requested_.load(std::memory_order_acquire);
}

absl::Status Session::NoLongerManaged() const {
  return absl::NotFoundError(
      absl::StrCat("PID ", pid(), " has ended, become another program, or is being let go"));
}

void Session::FinishJob(absl::StatusOr<Reclaimer::EvictResult> result) {
  MutexLock lock(mutex_);
  if (job_ == nullptr) return;
  job_->result = std::move(result);
  job_->finished = true;
  job_ = nullptr;
  changed_.notify_all();
}

absl::StatusOr<Reclaimer::EvictResult> Session::EvictAll(const Reclaimer::ProgressFn& progress) {
  auto job = std::make_shared<EvictJob>();
  mutex_.lock();
  // One at a time; the next one waits its turn.
  while (job_ != nullptr && !ended()) changed_.wait(mutex_);
  if (!CanTakeOut()) {
    mutex_.unlock();
    return NoLongerManaged();
  }
  job_ = job;
  eventfd_write(wake_fd_.get(), 1);
  while (!job->finished) {
    changed_.wait_for(mutex_, kProgressPeriod);
    if (job->finished) break;
    mutex_.unlock();
    progress(job->done.load(), job->total.load());
    mutex_.lock();
  }
  absl::StatusOr<Reclaimer::EvictResult> result = job->result;
  mutex_.unlock();
  return result;
}

void Session::RequestDrain() {
  drain_requested_.store(true, std::memory_order_release);
  eventfd_write(wake_fd_.get(), 1);
  if (!has_agent_.load(std::memory_order_acquire)) faults_->RequestDrain();
}

absl::Status Session::CheckRoom() {
  uint64_t out = pages_out();
  uint64_t room = static_cast<uint64_t>(process_->CgroupRoom());
  if (out <= room) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "the memory cgroup of PID ", pid(), " has room for ", FormatBytes(room * kPageBytes),
      " of the ", FormatBytes(out * kPageBytes), " that are out; raise its limit first"));
}

absl::StatusOr<uint64_t> Session::DrainAndWait(const Reclaimer::ProgressFn& progress) {
  if (absl::Status room = CheckRoom(); !room.ok()) return room;
  uint64_t total = pages_out();
  leave_alone_.store(true, std::memory_order_release);
  RequestDrain();
  while (!ended()) {
    {
      MutexLock lock(mutex_);
      if (!ended()) changed_.wait_for(mutex_, kProgressPeriod);
    }
    uint64_t left = pages_out();
    progress(total - std::min(left, total), total);
  }
  return total;
}

void Session::CheckOrphan() {
  if (has_agent_.load(std::memory_order_acquire) || ended()) return;
  // Tells whether the address space lives.
  FillResult result = process_->FillTokenPage();
  bool done = drain_requested_.load(std::memory_order_acquire) && faults_->drained();
  if (result == FillResult::kGone || done) End();
}

uint64_t Session::pages_out() const {
  return process_->counters.stored_pages.load(std::memory_order_relaxed) +
         process_->counters.staged_pages.load(std::memory_order_relaxed);
}

const char* Session::state() const {
  if (drain_requested_.load(std::memory_order_acquire)) return "draining";
  if (thaw_wanted_.load()) return thawed_.load() ? "thawed" : "thawing";
  return has_agent_.load(std::memory_order_acquire) ? "attached" : "forked";
}

nlohmann::json Session::Describe() const {
  const ProcessCounters& counters = process_->counters;
  uint64_t stored = counters.stored_pages;
  Policy policy = process_->policy();
  const Compressor* compressor =
      policy.compressor != nullptr ? policy.compressor : process_->store.options().compressor;
  // A child without an agent goes by what its parent was promised.
  LimitSource inherited = policy.limit_bytes == 0 ? LimitSource::kNone : LimitSource::kParent;
  LimitSource source = bound() ? terms_.limit().source : inherited;
  nlohmann::json description = {
      {"pid", pid()},
      {"comm", bound() ? identity_.comm : ""},
      {"state", state()},
      {"algorithm", compressor->name()},
      {"resident_bytes", bound() ? ResidentBytes(identity_.pid) : 0},
      {"stored_pages", stored},
      {"staged_pages", counters.staged_pages.load()},
      {"original_bytes", stored * kPageBytes},
      {"compressed_bytes", counters.compressed_bytes.load()},
      {"held_bytes", counters.held_bytes.load()},
      {"same_filled_pages", counters.same_filled_pages.load()},
      {"disk_pages", counters.disk_pages.load()},
      {"disk_bytes", counters.disk_bytes.load()},
      {"kept_bytes", process_->advice.kept_bytes()},
      {"managed_bytes", process_->table.size() * kChunkBytes},
      {"faults_total", counters.faults_total.load()},
      {"disk_faults", counters.disk_faults.load()},
      {"fault_latency_ns", Latency(process_->fault_latency)},
      {"readahead_pages", counters.readahead_pages.load()},
      {"zero_faults", counters.zero_faults.load()},
      {"isolated_pages", counters.isolated_pages.load()},
      {"refused_pages", counters.refused_pages.load()},
      {"spared_pages", counters.spared_pages.load()},
      {"returned_pages", counters.returned_pages.load()},
      {"poisoned_pages", counters.poisoned_pages.load()},
      {"mode", std::string(ReclaimModeName(policy.mode))},
      {"cold_age_ns", policy.cold_age_ns},
      {"limit_bytes", policy.limit_bytes},
      {"limit_source", std::string(LimitSourceName(source))},
      {"max_overshoot_bytes", counters.max_overshoot_bytes.load()},
      {"stall_target_percent", policy.stall_target_percent},
      {"stall_ppm", counters.stall_ppm.load()},
      {"stall_ns", counters.stall_ns.load()},
      {"rate_pages_per_s", counters.rate_pages_per_s.load()},
      {"rate_raises", counters.rate_raises.load()},
      {"rate_cuts", counters.rate_cuts.load()},
      {"probe_faults", counters.probe_faults.load()},
      {"probe_cost_ns", counters.probe_cost_ns.load()},
      {"cold_pages", counters.cold_pages.load()},
  };
  int64_t room = process_->room_pages.load(std::memory_order_relaxed);
  if (room < Process::kPlentyOfRoom / 2) {  // else there is no limit
    description["room_bytes"] = std::max<int64_t>(room, 0) * int64_t{kPageBytes};
  }
  return description;
}

}  // namespace zmem
