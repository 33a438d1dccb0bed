// Subject program: does with threads, signals, identities, namespaces and limits what is hard on a
// program whose memory is taken out at the same time, and checks that it went as without zmem.
//   threads [--mib N] [--seed N] [--thread-starts N] [--owner-deaths N] [--shortest-life-ms N]
//           [--storm-seconds N] [--descriptors N] [--spare-address-space-mib N]
// Every wait for another thread is bounded: who waits longer says so.
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstring>
#include <ctime>
#include <fstream>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "tests/programs/command_loop.h"
#include "tests/programs/pattern_region.h"

namespace zmem {
namespace {

constexpr unsigned kNumberOfNobody = 65534;
constexpr int kMostWaitS = 20;  // for what takes microseconds, on a busy machine

struct Options {
  size_t mib = 16;
  uint64_t seed = 1;
  size_t thread_starts = 100'000;
  size_t owner_deaths = 1'000;
  unsigned shortest_life_ms = 0;
  unsigned storm_seconds = 5;
  size_t descriptors = 0;                   // use up this many; 0: leave the limit alone
  std::optional<size_t> spare_address_mib;  // limit what is left to this
};

std::string Failed(const char* call, int error = errno) {
  return std::string(call) + ": " + std::strerror(error);
}

timespec InSeconds(int seconds) {
  timespec time{};
  clock_gettime(CLOCK_REALTIME, &time);
  time.tv_sec += seconds;
  return time;
}

template <typename T>
T* SharedArray(size_t count) {
  void* mapping =
      mmap(nullptr, count * sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) {
    std::perror("mmap");
    std::exit(2);
  }
  return static_cast<T*>(mapping);
}

// A thread that is joined within a bounded time.
class JoinableThread {
 public:
  // `stack` is null for one of the C library's.
  std::string Start(std::byte* stack, size_t stack_bytes, std::function<void()> body) {
    body_ = std::move(body);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    int error = stack == nullptr ? pthread_attr_setstacksize(&attributes, stack_bytes)
                                 : pthread_attr_setstack(&attributes, stack, stack_bytes);
    if (error == 0) error = pthread_create(&thread_, &attributes, &Run, this);
    pthread_attr_destroy(&attributes);
    return error == 0 ? "" : Failed("pthread_create", error);
  }
  std::string Join() {
    timespec deadline = InSeconds(kMostWaitS);
    int error = pthread_timedjoin_np(thread_, nullptr, &deadline);
    return error == 0 ? "" : Failed("HANG: a thread that has ended is not joined", error);
  }
  pthread_t handle() const { return thread_; }

 private:
  static void* Run(void* self) {
    static_cast<JoinableThread*>(self)->body_();
    return nullptr;
  }

  pthread_t thread_{};
  std::function<void()> body_;
};

// Threads that do nothing but wait, and then say what they see.
class ParkedThreads {
 public:
  // `look` is what each does in the end; it answers whether all is as it should be.
  explicit ParkedThreads(std::function<bool()> look) {
    for (size_t i = 0; i < kThreads; ++i) {
      threads_.emplace_back([this, look] {
        go_.wait(false);
        if (look()) ++right_;
      });
    }
  }
  std::string Release() {
    go_ = true;
    go_.notify_all();
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
    return right_ == kThreads ? "" : "WRONG in a thread";
  }
  ~ParkedThreads() {
    if (!threads_.empty()) Release();
  }

 private:
  static constexpr size_t kThreads = 3;
  std::atomic<bool> go_{false};
  std::atomic<size_t> right_{0};
  std::vector<std::thread> threads_;
};

// What the signal storm's handler reads, and what it found. The handler knows nothing else.
PatternRegion* g_handler_region = nullptr;
std::atomic<uint64_t>* g_handler_runs = nullptr;
std::atomic<bool>* g_handler_wrong = nullptr;
constexpr uint64_t kVersion = 1;

void ReadInHandler(int) {
  int saved_errno = errno;
  uint64_t run = g_handler_runs->fetch_add(1);
  uint64_t page = run * 7919 % g_handler_region->pages();
  if (!VerifyPage(g_handler_region->page(page), page, kVersion)) *g_handler_wrong = true;
  errno = saved_errno;
}

// The calls that a program which only computes, and answers, needs.
constexpr uint32_t kAllowedCalls[] = {SYS_read,
                                      SYS_write,
                                      SYS_lseek,
                                      SYS_newfstatat,
                                      SYS_mmap,
                                      SYS_munmap,
                                      SYS_mprotect,
                                      SYS_madvise,
                                      SYS_mincore,
                                      SYS_brk,
                                      SYS_futex,
                                      SYS_restart_syscall,
                                      SYS_rt_sigreturn,
                                      SYS_rt_sigprocmask,
                                      SYS_prctl,
                                      SYS_exit,
                                      SYS_exit_group,
                                      SYS_clock_gettime,
                                      SYS_clock_nanosleep,
                                      SYS_getrandom,
                                      SYS_rseq,
                                      SYS_set_robust_list,
                                      SYS_sched_getaffinity};

// Ends the program on any call that is not allowed. `flags` are seccomp(2)'s.
std::string InstallFilter(unsigned flags) {
  std::vector<sock_filter> program = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr))};
  for (uint32_t call : kAllowedCalls) {
    program.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1));
    program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  }
  program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS));
  sock_fprog filter{static_cast<unsigned short>(program.size()), program.data()};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return Failed("PR_SET_NO_NEW_PRIVS");
  long result = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &filter);
  if (result > 0) return "SECCOMP_FILTER_FLAG_TSYNC: thread " + std::to_string(result) + " refuses";
  return result == 0 ? "" : Failed("seccomp");
}

class Subject {
 public:
  explicit Subject(const Options& options)
      : options_(options),
        random_(options.seed),
        region_(options.mib << 20 >> kPageShift, PageContent::kCompressible) {}

  void Fill() { region_.Fill(kVersion); }

  std::string Verify() { return region_.Verify(kVersion); }

  std::string ForkAndVerify() {
    pid_t pid = fork();
    if (pid < 0) return Failed("fork");
    if (pid == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      _exit(Verify().empty() ? 0 : 1);
    }
    int status = -1;
    if (waitpid(pid, &status, 0) != pid) return Failed("waitpid");
    return status == 0 ? Verify() : "WRONG in a child: wait status " + std::to_string(status);
  }

  // Threads on the C library's stacks, which it uses again and again.
  std::string StartThreads() {
    return StartThreads([](size_t) { return nullptr; });
  }

  // Threads on stacks of our own, in ordinary memory of the heap.
  std::string StartThreadsOnOurStacks() {
    std::vector<std::unique_ptr<std::byte[]>> stacks(kBatch);
    for (auto& stack : stacks) stack = std::make_unique<std::byte[]>(kStackBytes);
    return StartThreads([&](size_t index) { return stacks[index].get(); });
  }

  // Owners of robust mutexes end without giving them back.
  std::string OwnerDeaths() {
    for (size_t deaths = 0; deaths < options_.owner_deaths; deaths += kMutexes) {
      std::string wrong = LetOwnersDie();
      if (!wrong.empty()) return "after " + std::to_string(deaths) + " deaths: " + wrong;
    }
    return Verify();
  }

  std::string SignalStorm();

  std::string BecomeNobody() {
    ParkedThreads others([this] {
      return getuid() == kNumberOfNobody && geteuid() == kNumberOfNobody &&
             getgid() == kNumberOfNobody && Verify().empty();
    });
    if (setgid(kNumberOfNobody) != 0) return Failed("setgid");
    if (setuid(kNumberOfNobody) != 0) return Failed("setuid");
    std::string wrong = others.Release();
    return wrong.empty() ? Verify() : wrong;
  }

  std::string Unshare(int flags) { return unshare(flags) == 0 ? Verify() : Failed("unshare"); }
  std::string UnshareUser() { return Unshare(CLONE_NEWUSER); }
  std::string UnshareMountsAndPids() {
    std::string wrong = Unshare(CLONE_NEWNS | CLONE_NEWPID);
    return wrong.empty() ? ForkAndVerify() : wrong;
  }
  std::string EnterUserNamespace() { return EnterNamespaceOfChild(CLONE_NEWUSER, "user"); }
  std::string EnterMountNamespace() { return EnterNamespaceOfChild(CLONE_NEWNS, "mnt"); }

  std::string Sandbox() {
    std::string wrong = InstallFilter(0);
    return wrong.empty() ? Verify() : wrong;
  }
  std::string SandboxAllThreads() {
    ParkedThreads others([this] {
      return prctl(PR_GET_SECCOMP, 0, 0, 0, 0) == SECCOMP_MODE_FILTER && Verify().empty();
    });
    std::string wrong = InstallFilter(SECCOMP_FILTER_FLAG_TSYNC);
    if (wrong.empty()) wrong = others.Release();
    return wrong.empty() ? Verify() : wrong;
  }

  std::string CloseDescriptors() {
    return close_range(3, ~0U, 0) == 0 ? ForkAndVerify() : Failed("close_range");
  }

 private:
  static constexpr size_t kBatch = 16;
  static constexpr size_t kStackBytes = size_t{64} << 10;
  static constexpr size_t kMutexes = 16;
  static constexpr size_t kWorkers = 4;

  // `stack_of` is the stack of a batch's thread by index, or null.
  std::string StartThreads(const std::function<std::byte*(size_t)>& stack_of) {
    std::atomic<size_t> wrong_pages{0};
    for (size_t started = 0; started < options_.thread_starts; started += kBatch) {
      std::array<JoinableThread, kBatch> threads;
      for (size_t i = 0; i < kBatch; ++i) {
        uint64_t page = random_() % region_.pages();
        std::string wrong = threads[i].Start(stack_of(i), kStackBytes, [&, page] {
          if (!VerifyPage(region_.page(page), page, kVersion)) ++wrong_pages;
          std::this_thread::sleep_for(std::chrono::milliseconds(options_.shortest_life_ms));
        });
        if (!wrong.empty()) return wrong;
      }
      for (JoinableThread& thread : threads) {
        std::string wrong = thread.Join();
        if (!wrong.empty()) return "after " + std::to_string(started) + " starts: " + wrong;
      }
      if (wrong_pages > 0) return "WRONG page in a thread";
    }
    return "";
  }

  // A page each in private memory, so that each is out or in on its own.
  struct alignas(kPageBytes) MutexPage {
    pthread_mutex_t mutex;
  };

  std::string LetOwnersDie() {
    auto mutexes = std::make_unique<MutexPage[]>(kMutexes);
    auto* locked = SharedArray<std::atomic<bool>>(kMutexes);
    std::array<JoinableThread, kMutexes> owners;
    std::string wrong;
    for (size_t i = 0; i < kMutexes && wrong.empty(); ++i) {
      InitRobust(&mutexes[i].mutex);
      wrong = owners[i].Start(nullptr, kStackBytes, [&, i, hold_us = HoldUs()] {
        pthread_mutex_lock(&mutexes[i].mutex);
        locked[i] = true;
        std::this_thread::sleep_for(std::chrono::microseconds(hold_us));
      });
    }
    // The first are waited for while their owners live, the last are taken after their deaths.
    for (size_t i = 0; i < kMutexes && wrong.empty(); ++i) {
      while (!locked[i]) std::this_thread::yield();
      wrong = TakeFromTheDead(&mutexes[i].mutex);
      if (wrong.empty()) wrong = owners[i].Join();
    }
    munmap(locked, kMutexes * sizeof *locked);
    return wrong;
  }

  // How long an owner lives on with its mutex.
  unsigned HoldUs() {
    constexpr unsigned kLongestUs = 40'000;  // an eviction takes some 20 ms
    return options_.shortest_life_ms * 1000 + static_cast<unsigned>(random_() % kLongestUs);
  }

  static void InitRobust(pthread_mutex_t* mutex) {
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(mutex, &attributes);
    pthread_mutexattr_destroy(&attributes);
  }

  static std::string TakeFromTheDead(pthread_mutex_t* mutex) {
    timespec deadline = InSeconds(kMostWaitS);
    int error = pthread_mutex_timedlock(mutex, &deadline);
    if (error == ETIMEDOUT) return "HANG: the mutex of an owner that died stays locked";
    if (error != EOWNERDEAD) return Failed("WRONG: instead of EOWNERDEAD", error);
    if (pthread_mutex_consistent(mutex) != 0) return "pthread_mutex_consistent failed";
    if (pthread_mutex_unlock(mutex) != 0) return "pthread_mutex_unlock failed";
    return "";
  }

  // Rewrites and verifies pages of its own part of the region, and passes some through a pipe, so
  // that the kernel is at them too. Returns what is wrong.
  std::string WorkUnderSignals(size_t worker, uint64_t* versions, const std::atomic<bool>& stop);

  // A namespace of another process, which is not its parent's.
  std::string EnterNamespaceOfChild(int flag, const char* name) {
    // A bare clone: fork's hooks are not what is tried here.
    long pid = syscall(SYS_clone, flag | SIGCHLD, 0, 0, 0, 0);
    if (pid < 0) return Failed("clone");
    if (pid == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      for (;;) pause();
    }
    std::string path = "/proc/" + std::to_string(pid) + "/ns/" + name;
    int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    kill(static_cast<pid_t>(pid), SIGKILL);
    waitpid(static_cast<pid_t>(pid), nullptr, 0);
    if (fd < 0) return Failed("open");
    std::string wrong = setns(fd, flag) == 0 ? "" : Failed("setns");
    close(fd);
    return wrong.empty() ? Verify() : wrong;
  }

  const Options options_;
  std::mt19937_64 random_;
  PatternRegion region_;
};

std::string Subject::WorkUnderSignals(size_t worker, uint64_t* versions,
                                      const std::atomic<bool>& stop) {
  int pipe_fds[2];
  if (pipe2(pipe_fds, O_CLOEXEC) != 0) return Failed("pipe2");
  std::string wrong;
  std::mt19937_64 random(options_.seed * 1000 + worker);
  size_t part = region_.pages() / kWorkers;
  while (!stop && wrong.empty()) {
    uint64_t page = worker * part + random() % part;
    std::byte* data = region_.page(page);
    if (random() % 4 == 0) {
      if (write(pipe_fds[1], data, kPageBytes) != kPageBytes) wrong = Failed("write");
      if (read(pipe_fds[0], data, kPageBytes) != kPageBytes) wrong = Failed("read");
    }
    if (!VerifyPage(data, page, versions[page])) wrong = region_.Describe(page, versions[page]);
    if (random() % 4 == 0) FillPage(data, page, ++versions[page]);
  }
  close(pipe_fds[0]);
  close(pipe_fds[1]);
  return wrong;
}

std::string Subject::SignalStorm() {
  g_handler_region = new PatternRegion(1024, PageContent::kCompressible);
  g_handler_region->Fill(kVersion);
  g_handler_runs = SharedArray<std::atomic<uint64_t>>(1);
  g_handler_wrong = SharedArray<std::atomic<bool>>(1);
  struct sigaction action {};
  action.sa_handler = ReadInHandler;
  action.sa_flags = SA_RESTART;
  sigaction(SIGUSR1, &action, nullptr);
  sigaction(SIGALRM, &action, nullptr);
  itimerval every_ms{{0, 1000}, {0, 1000}};
  setitimer(ITIMER_REAL, &every_ms, nullptr);

  auto* versions = SharedArray<uint64_t>(region_.pages());
  std::fill(versions, versions + region_.pages(), kVersion);
  std::atomic<bool> stop{false};
  std::array<std::string, kWorkers> wrong;
  std::array<JoinableThread, kWorkers> workers;
  for (size_t i = 0; i < kWorkers; ++i) {
    workers[i].Start(nullptr, size_t{1} << 20,
                     [&, i] { wrong[i] = WorkUnderSignals(i, versions, stop); });
  }
  auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(options_.storm_seconds);
  while (std::chrono::steady_clock::now() < deadline) {
    for (JoinableThread& worker : workers) pthread_kill(worker.handle(), SIGUSR1);
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
  stop = true;
  std::string first_wrong = *g_handler_wrong ? "WRONG page in a signal handler" : "";
  for (JoinableThread& worker : workers) {
    std::string late = worker.Join();
    if (!late.empty()) return late;
  }
  every_ms = {};
  setitimer(ITIMER_REAL, &every_ms, nullptr);
  for (const std::string& one : wrong) first_wrong = first_wrong.empty() ? one : first_wrong;
  for (uint64_t page = 0; page < region_.pages() && first_wrong.empty(); ++page) {
    if (!VerifyPage(region_.page(page), page, versions[page])) {
      first_wrong = region_.Describe(page, versions[page]);
    }
  }
  if (*g_handler_runs < 1000) return "only " + std::to_string(*g_handler_runs) + " signals came";
  Fill();
  return first_wrong;
}

void UseUpDescriptors(size_t count) {
  rlimit limit{count, count};
  if (setrlimit(RLIMIT_NOFILE, &limit) != 0) {
    std::perror("setrlimit");
    std::exit(2);
  }
  while (open("/dev/null", O_RDONLY | O_CLOEXEC) >= 0) {
  }
}

void LimitAddressSpace(size_t spare_mib) {
  std::ifstream file("/proc/self/statm");
  size_t pages = 0;
  file >> pages;
  rlim_t bytes = pages * kPageBytes + (spare_mib << 20);
  rlimit limit{bytes, bytes};
  if (setrlimit(RLIMIT_AS, &limit) != 0) {
    std::perror("setrlimit");
    std::exit(2);
  }
}

}  // namespace
}  // namespace zmem

int main(int argc, char** argv) {
  zmem::Options options;
  CLI::App app("Does hard things with threads, signals and limits when told to on stdin.");
  app.add_option("--mib", options.mib, "size of the region");
  app.add_option("--seed", options.seed, "of all choices");
  app.add_option("--thread-starts", options.thread_starts, "of each kind");
  app.add_option("--owner-deaths", options.owner_deaths, "of robust mutexes");
  app.add_option("--shortest-life-ms", options.shortest_life_ms, "of a thread");
  app.add_option("--storm-seconds", options.storm_seconds, "of signals");
  app.add_option("--descriptors", options.descriptors, "allow so many, and use them all up");
  app.add_option("--spare-address-space-mib", options.spare_address_mib, "allow no more");
  CLI11_PARSE(app, argc, argv);

  using zmem::Subject;
  if (options.descriptors > 0) zmem::UseUpDescriptors(options.descriptors);
  Subject subject(options);
  if (options.spare_address_mib.has_value()) zmem::LimitAddressSpace(*options.spare_address_mib);
  subject.Fill();
  std::map<std::string, zmem::Command> commands;
  auto add = [&](const char* name, std::string (Subject::*method)()) {
    commands[name] = [&subject, method] {
      std::string wrong = (subject.*method)();
      return wrong.empty() ? "ok" : wrong;
    };
  };
  add("verify", &Subject::Verify);
  add("fork and verify", &Subject::ForkAndVerify);
  add("start threads", &Subject::StartThreads);
  add("start threads on our stacks", &Subject::StartThreadsOnOurStacks);
  add("owner deaths", &Subject::OwnerDeaths);
  add("signal storm", &Subject::SignalStorm);
  add("become nobody", &Subject::BecomeNobody);
  add("unshare user", &Subject::UnshareUser);
  add("unshare mounts and pids", &Subject::UnshareMountsAndPids);
  add("enter a user namespace", &Subject::EnterUserNamespace);
  add("enter a mount namespace", &Subject::EnterMountNamespace);
  add("sandbox", &Subject::Sandbox);
  add("sandbox all threads", &Subject::SandboxAllThreads);
  add("close descriptors", &Subject::CloseDescriptors);
  return zmem::ServeCommands(commands);
}
