#include "zmemd/nursery.h"

#include <errno.h>
#include <pthread.h>
#include <sys/eventfd.h>

#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"

namespace zmem {
namespace {

// How often it is looked whether a child has gone: while it is in the books, its parent copies what
// they share before it changes it.
constexpr int kLookMs = 5;
// A child that lives so long, or wants something so often, gets a thread of its own.
constexpr int64_t kGrownUpNs = 500'000'000;
constexpr int kGrownUpTurns = 16;

}  // namespace

absl::StatusOr<std::unique_ptr<Nursery>> Nursery::Start(const Clock& clock) {
  std::unique_ptr<Nursery> nursery(new Nursery(clock));
  nursery->wake_fd_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!nursery->wake_fd_.valid()) return sys::ErrnoStatus(errno, "cannot create an eventfd");
  try {
    nursery->thread_ = std::thread([raw = nursery.get()] {
      RaiseServingThread("zmem-nursery");
      raw->Run();
    });
  } catch (const std::system_error& error) {
    return absl::ResourceExhaustedError(absl::StrCat("cannot start a thread: ", error.what()));
  }
  return nursery;
}

Nursery::~Nursery() {
  stop_.store(true, std::memory_order_release);
  eventfd_write(wake_fd_.get(), 1);
  if (thread_.joinable()) thread_.join();
}

void Nursery::Add(std::shared_ptr<Session> session) {
  {
    MutexLock lock(mutex_);
    arrivals_.push_back(std::move(session));
  }
  eventfd_write(wake_fd_.get(), 1);
}

void Nursery::TakeArrivals() {
  eventfd_t ignored;
  eventfd_read(wake_fd_.get(), &ignored);
  MutexLock lock(mutex_);
  for (std::shared_ptr<Session>& session : arrivals_) {
    children_.push_back({std::move(session), clock_.now_ns()});
  }
  arrivals_.clear();
}

void Nursery::Wait() {
  polled_.clear();
  for (const Child& child : children_) polled_.push_back({child.session->uffd(), POLLIN, 0});
  polled_.push_back({wake_fd_.get(), POLLIN, 0});
  sys::Poll(polled_.data(), polled_.size(), children_.empty() ? -1 : kLookMs);
}

bool Nursery::Serve(Child& child, bool has_messages) {
  // The gate of one that has an agent can be closed for long: that would hold up the others.
  if (has_messages && !child.session->bound()) {
    ++child.turns;
    if (!child.session->ServeOnce()) return false;
  }
  child.session->CheckOrphan();
  if (child.session->ended()) return false;
  bool grown_up = child.turns >= kGrownUpTurns || child.session->bound() ||
                  !child.session->quiet() || clock_.now_ns() - child.since_ns > kGrownUpNs;
  // Without memory for a thread it stays here.
  return !grown_up || !child.session->StartServing().ok();
}

void Nursery::Run() {
  while (!stop_.load(std::memory_order_acquire)) {
    Wait();
    // New ones have no place in polled_ yet.
    for (size_t i = children_.size(); i-- > 0;) {
      if (Serve(children_[i], polled_[i].revents != 0)) continue;
      std::swap(children_[i], children_.back());
      children_.pop_back();
    }
    TakeArrivals();
  }
}

}  // namespace zmem
