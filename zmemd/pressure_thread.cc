#include "zmemd/pressure_thread.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>

#include <system_error>

#include "absl/strings/str_cat.h"

namespace zmem {
namespace {

// The kernel's own figures are not much younger.
constexpr int kPeriodMs = 1000;

}  // namespace

absl::StatusOr<std::unique_ptr<PressureThread>> PressureThread::Start(HostPressure& pressure) {
  std::unique_ptr<PressureThread> started(new PressureThread(pressure));
  started->stop_fd_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!started->stop_fd_.valid()) return sys::ErrnoStatus(errno, "cannot create an eventfd");
  try {
    started->thread_ = std::thread([raw = started.get()] {
      pthread_setname_np(pthread_self(), "zmem-pressure");
      raw->Run();
    });
  } catch (const std::system_error& error) {
    return absl::ResourceExhaustedError(absl::StrCat("cannot start a thread: ", error.what()));
  }
  return started;
}

PressureThread::~PressureThread() {
  eventfd_write(stop_fd_.get(), 1);
  if (thread_.joinable()) thread_.join();
}

void PressureThread::Run() {
  short trigger_events = 0;
  for (;;) {
    pressure_.Turn(trigger_events);
    pollfd fds[2] = {{stop_fd_.get(), POLLIN, 0}, {pressure_.trigger_fd(), POLLPRI, 0}};
    sys::Poll(fds, 2, kPeriodMs);
    if (fds[0].revents != 0) return;
    trigger_events = fds[1].revents;
  }
}

}  // namespace zmem
