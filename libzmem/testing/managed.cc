#include "libzmem/testing/managed.h"

#include <errno.h>
#include <poll.h>
#include <sys/mman.h>

#include <chrono>
#include <sstream>
#include <string>

#include "libzmem/base/check.h"
#include "libzmem/base/kernel_abi.h"

namespace zmem {
namespace {

int MoveOne(const Process& process, Address target, Address source) {
  uffdio_move move{};
  move.dst = target;
  move.src = source;
  move.len = kPageBytes;
  return -sys::Ioctl(process.uffd.fd(), UFFDIO_MOVE, &move);
}

}  // namespace

FaultThread::FaultThread(std::shared_ptr<Process> process, const Clock& clock,
                         CpuLatency* cpu_latency)
    : process_(std::move(process)),
      clock_(clock),
      handler_(OrDie(FaultHandler::Create(process_, *this, clock,
                                          {.crew = &crew_, .cpu_latency = cpu_latency}))),
      thread_([this] { handler_->Run(); }) {}

FaultThread::~FaultThread() {
  handler_->Stop();
  if (thread_.joinable()) thread_.join();
}

void FaultThread::AwaitIdle() {
  constexpr auto kPatience = std::chrono::seconds(20);
  auto until = std::chrono::steady_clock::now() + kPatience;
  for (bool idle = false; !idle;) {
    ZMEM_CHECK(std::chrono::steady_clock::now() < until);
    std::this_thread::yield();
    GateLock lock(process_->gate);
    idle = handler_->idle();
  }
}

void FaultThread::Drain() {
  handler_->RequestDrain();
  while (!handler_->drained() && !gone_) std::this_thread::yield();
}

std::vector<std::shared_ptr<FaultThread>> FaultThread::children() {
  Settle();  // a child may run, and end, before its thread is in the list
  MutexLock lock(mutex_);
  return children_;
}

void FaultThread::OnFork(std::shared_ptr<Process> child) {
  auto thread = std::make_shared<FaultThread>(std::move(child), clock_);
  MutexLock lock(mutex_);
  children_.push_back(std::move(thread));
}

absl::StatusOr<wire::Report> SelfAgent::Move(const wire::Move& command) {
  ++move_commands;
  if (before_move != nullptr) before_move();
  wire::Report report;
  for (size_t i = 0; i < command.parts; ++i) {
    if (!MovePages(command.part[i], &report.done[i], &report)) {
      return absl::UnavailableError("the agent is gone");
    }
  }
  last_report = report;
  return report;
}

bool SelfAgent::MovePages(const wire::MovePart& part, wire::PageSet* done, wire::Report* counts) {
  // An event that was just read may still hold up moves (FACTS 7).
  int retries = 5;
  wire::Report& report = *counts;
  for (size_t page = 0; page < kPagesPerChunk; ++page) {
    if (!part.pages.Has(page)) continue;
    if (moves_left == 0) return false;
    uint64_t offset = page * kPageBytes;
    int error = MoveOne(process_, part.target + offset, part.source + offset);
    if (error == EAGAIN && retries-- > 0) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      --page;
      continue;
    }
    if (error == 0) {
      done->Add(page);
      --moves_left;
    } else if (error == EBUSY) {
      ++report.busy;
    } else if (error == EINVAL) {
      ++report.invalid;
    } else if (error == ENOENT) {
      ++report.absent;
    } else if (error == EEXIST) {
      ++report.exists;
    } else {
      ++report.other;
      report.last_errno = error;
    }
  }
  return true;
}

absl::StatusOr<wire::Report> SelfAgent::Discard(const wire::Discard& command) {
  if (moves_left == 0) return absl::UnavailableError("the agent is gone");
  wire::Report report;
  for (size_t i = 0; i < command.parts; ++i) {
    const wire::DiscardPart& part = command.part[i];
    for (size_t page = part.pages.Next(0, true); page < kPagesPerChunk;) {
      size_t end = part.pages.Next(page, false);
      Address start = part.slab + page * kPageBytes;
      ZMEM_CHECK(process_.staging.Contains(start));
      void* address = reinterpret_cast<void*>(start);
      ZMEM_CHECK(madvise(address, (end - page) * kPageBytes, MADV_DONTNEED) == 0);
      report.done[i].AddRange(page, end);
      page = part.pages.Next(end, true);
    }
  }
  return report;
}

absl::StatusOr<wire::Report> SelfAgent::Populate(const wire::Populate& command) {
  if (moves_left == 0) return absl::UnavailableError("the agent is gone");
  wire::Report report;
  for (size_t page = 0; page < kPagesPerChunk; ++page) {
    if (!command.pages.Has(page)) continue;
    // Not by writing: a program's thread may write the same byte in between.
    void* address = reinterpret_cast<void*>(command.chunk + page * kPageBytes);
    if (madvise(address, kPageBytes, MADV_POPULATE_WRITE) != 0) continue;
    report.done[0].Add(page);
  }
  return report;
}

std::unique_ptr<Mapping> BindStaging(Process& process, size_t slabs) {
  auto staging = std::make_unique<Mapping>(slabs);
  AddressRange range = staging->range();
  madvise(reinterpret_cast<void*>(range.start), range.bytes(), MADV_DONTFORK);
  ZMEM_CHECK(process.uffd.Register(range) == 0);
  process.staging = range;
  return staging;
}

std::unique_ptr<Mapping> MapOnlyEligible(Process& process, size_t chunks) {
  // The main stack is the uppermost mapping and may grow; what mmap hands out begins well below.
  constexpr uint64_t kBelowStackBytes = uint64_t{64} << 20;
  std::string maps;
  ZMEM_CHECK(sys::ReadFile("/proc/self/maps", maps).ok());
  std::istringstream lines(maps);
  Address below_end = 0;
  Address stack = 0;
  for (std::string line; std::getline(lines, line) && stack == 0;) {
    Address start = std::stoull(line, nullptr, 16);
    Address end = std::stoull(line.substr(line.find('-') + 1), nullptr, 16);
    if (line.find("[stack]") != std::string::npos) {
      stack = start;
    } else {
      below_end = end;
    }
  }
  Address start = ChunkStart(stack - kBelowStackBytes) - chunks * kChunkBytes;
  ZMEM_CHECK(stack != 0 && start > below_end + kChunkBytes);
  process.agent = {kPageBytes, start};
  return std::make_unique<Mapping>(chunks, start);
}

}  // namespace zmem
