#include "libzmem/base/crew.h"

#include <utility>

namespace zmem {

Crew::Crew(size_t helpers, const std::function<void()>& on_start, std::function<bool()> is_wanted)
    : is_wanted_(std::move(is_wanted)) {
  for (size_t i = 0; i < helpers; ++i) {
    threads_.emplace_back([this, on_start] {
      on_start();
      Help();
    });
  }
}

Crew::~Crew() {
  mutex_.lock();
  stop_ = true;
  changed_.notify_all();
  mutex_.unlock();
  for (std::thread& thread : threads_) thread.join();
}

void Crew::Take(Job& job) {
  for (size_t task = job.next++; task < job.tasks; task = job.next++) job.work(task);
}

void Crew::Help() {
  mutex_.lock();
  while (!stop_) {
    if (job_ == nullptr || job_->next >= job_->tasks) {
      changed_.wait(mutex_);
      continue;
    }
    Job& job = *job_;
    ++helping_;
    mutex_.unlock();
    Take(job);
    mutex_.lock();
    if (--helping_ == 0) changed_.notify_all();
  }
  mutex_.unlock();
}

void Crew::Run(size_t tasks, absl::FunctionRef<void(size_t task)> work) {
  Job job{work, tasks};
  bool has_help = tasks > 1 && !threads_.empty() && is_wanted_() && busy_.try_lock();
  if (!has_help) return Take(job);
  mutex_.lock();
  job_ = &job;
  changed_.notify_all();
  mutex_.unlock();
  Take(job);
  mutex_.lock();
  job_ = nullptr;
  while (helping_ > 0) changed_.wait(mutex_);
  mutex_.unlock();
  busy_.unlock();
}

}  // namespace zmem
