// Subject program: a storm of everything a program does to its memory, by four threads and
// generations of forked children, on memory that is being taken out at the same time. A wrong page
// ends the program with a message and exit code 1.
//   operations_storm --shared FILE --directory DIR --seconds N --seed N
// FILE holds storm::Shared, DIR is where it keeps the file that it reads.
#include <fcntl.h>
#include <pthread.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "libzmem/base/page.h"
#include "tests/page_pattern.h"
#include "tests/programs/command_loop.h"
#include "tests/programs/operations_storm_memory.h"
#include "tests/programs/operations_storm_turns.h"

namespace zmem::storm {
namespace {

constexpr uint32_t kDeepest = 3;         // generations of forked children
constexpr size_t kChildrenOfAWorld = 2;  // alive at once
constexpr uint64_t kChildSteps = 600;    // of a forked child, at most
constexpr size_t kCommonPages = 64;      // that every thread and every signal handler reads
constexpr size_t kThreadStackBytes = 48 * 1024;
constexpr size_t kSignalStackBytes = 64 * 1024;

Shared* g_shared = nullptr;
std::byte* g_common = nullptr;
thread_local World* t_world = nullptr;

bool CommonPageIsRight(size_t page) { return VerifyPage(g_common + page * kPageBytes, page, 1); }

[[noreturn]] void Die(const char* what) {
  std::perror(what);
  _exit(2);
}

std::byte* MapBytes(size_t bytes) {
  void* mapping = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) Die("mmap");
  return static_cast<std::byte*>(mapping);
}

// A handler that runs wherever its thread is, also in the middle of a fault, on a stack that may
// be out itself, and touches memory that other threads touch.
void OnSignal(int) {
  static std::atomic<size_t> next{0};
  size_t page = next.fetch_add(1, std::memory_order_relaxed) % kCommonPages;
  if (CommonPageIsRight(page)) return;
  const char text[] = "WRONG common page in a signal handler\n";
  if (write(STDERR_FILENO, text, sizeof text - 1) < 0) _exit(2);
  g_shared->stop = 1;
  _exit(1);
}

void OnCrash(int signal, siginfo_t* info, void*) {
  char what[120];
  std::snprintf(what, sizeof what, "signal %d, code %d, at address %p", signal, info->si_code,
                info->si_addr);
  if (t_world == nullptr) _exit(3);
  static std::mt19937_64 unused;
  static const SourceFile none{};
  WorldMemory memory(*g_shared, *t_world, unused, none);
  for (Slot& slot : t_world->slots) {
    auto at = static_cast<std::byte*>(info->si_addr);
    if (at < slot.data || at >= slot.data + slot.pages * kPageBytes) continue;
    memory.FailAt(slot, static_cast<uint32_t>((at - slot.data) / ptrdiff_t{kPageBytes}), what);
  }
  memory.Fail(what);
}

void HandleSignals() {
  struct sigaction action = {};
  action.sa_handler = OnSignal;
  action.sa_flags = SA_RESTART | SA_ONSTACK;
  sigaction(SIGUSR1, &action, nullptr);
  struct sigaction crash = {};
  crash.sa_sigaction = OnCrash;
  crash.sa_flags = SA_SIGINFO;
  sigaction(SIGSEGV, &crash, nullptr);
  sigaction(SIGBUS, &crash, nullptr);
}

void* ThreadBody(void*) {
  volatile char stack[8192];
  for (size_t at = 0; at < sizeof stack; at += 512) stack[at] = 1;
  for (size_t page = 0; page < kCommonPages; page += 5) {
    if (!CommonPageIsRight(page)) return nullptr;
  }
  return g_common;  // anything but null
}

// The life of a world: of a thread, or of a forked child.
class Worker {
 public:
  Worker(World& world, uint64_t seed, const SourceFile& source)
      : world_(world),
        source_(source),
        random_(seed),
        memory_(*g_shared, world, random_, source),
        turns_(random_) {}

  void RunThread(std::chrono::steady_clock::time_point deadline) {
    Begin();
    stack_t stack{
        .ss_sp = MapBytes(kSignalStackBytes), .ss_flags = 0, .ss_size = kSignalStackBytes};
    sigaltstack(&stack, nullptr);
    own_stack_ = MapBytes(kThreadStackBytes);
    memory_.MapAll(&world_ == &g_shared->worlds[0]);
    while (std::chrono::steady_clock::now() < deadline && g_shared->stop == 0) DoStep();
    while (HasChildren() && g_shared->stop == 0) ReapChildren(0);
    memory_.VerifyAll();
    world_.state = WorldState::kDone;
  }

 private:
  uint64_t Below(uint64_t bound) { return random_() % bound; }

  void Begin() {
    t_world = &world_;
    world_.pid = getpid();
    world_.tid = static_cast<pid_t>(syscall(SYS_gettid));
    world_.state = WorldState::kRunning;
  }

  void DoStep() {
    Plan plan = turns_.Next(world_, memory_);
    Slot& slot = world_.slots[plan.slot];
    uint64_t step = world_.steps.load(std::memory_order_relaxed) + 1;
    if (plan.operation < Operation::kThread && plan.operation != Operation::kVerify) {
      std::rotate(slot.history.begin(), slot.history.begin() + 1, slot.history.end());
      slot.history.back() = {step, plan.operation, plan.pages.first, plan.pages.end};
    }
    world_.slot = plan.slot;
    world_.operation = plan.operation;
    world_.steps = step;
    g_shared->counts[static_cast<size_t>(plan.operation)].fetch_add(1, std::memory_order_relaxed);
    if (!memory_.Do(plan.operation, slot, plan.pages)) DoToProcess(plan.operation);
    ReapChildren(WNOHANG);
  }

  void DoToProcess(Operation operation) {
    switch (operation) {
      case Operation::kThread:
        return RunShortThread(nullptr);
      case Operation::kThreadOnOwnStack:
        return RunShortThread(own_stack_);
      case Operation::kPeek:
        return Peek();
      case Operation::kSignal:
        return SignalSomebody();
      case Operation::kFork:
        return Fork(false);
      case Operation::kForkBare:
        return Fork(true);
      case Operation::kSpawn:
        return Spawn();
      case Operation::kVfork:
        return VforkAndExec();
      default:
        return;
    }
  }

  // On a stack that libc makes, or that has been lying about (and out, perhaps) since the last one.
  void RunShortThread(std::byte* stack) {
    if (world_.bare != 0) return;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    int error = stack == nullptr ? pthread_attr_setstacksize(&attributes, kThreadStackBytes)
                                 : pthread_attr_setstack(&attributes, stack, kThreadStackBytes);
    if (error != 0) memory_.Fail("pthread_attr_setstack");
    pthread_t thread;
    if (pthread_create(&thread, &attributes, ThreadBody, nullptr) != 0) {
      memory_.Fail("pthread_create");
    }
    pthread_attr_destroy(&attributes);
    void* result = nullptr;
    pthread_join(thread, &result);
    if (result == nullptr) memory_.Fail("a thread read a wrong common page");
  }

  // Touches what another thread is just changing, through the kernel, which forgives a page that is
  // not there. Whatever it reads, a page that comes back by this must be what its owner expects.
  void Peek() {
    if (world_.depth > 0) return;
    const World& other = g_shared->worlds[Below(kThreads)];
    const Slot& slot = other.slots[other.slot];
    for (size_t page = Below(4); page < slot.pages; page += 1 + Below(4)) {
      char byte;
      iovec here{&byte, 1};
      iovec there{slot.data + page * kPageBytes, 1};
      process_vm_readv(getpid(), &here, 1, &there, 1, 0);
    }
  }

  // A thread of the first process signals another; a forked child signals itself.
  void SignalSomebody() {
    pid_t target = world_.tid;
    if (world_.depth == 0) target = g_shared->worlds[Below(kThreads)].tid;
    if (target != 0) syscall(SYS_tgkill, getpid(), target, SIGUSR1);
  }

  // ---- processes ----

  World* TakeWorld() {
    for (size_t index = kThreads; index < kWorlds; ++index) {
      WorldState free = WorldState::kFree;
      World& world = g_shared->worlds[index];
      if (world.state.compare_exchange_strong(free, WorldState::kRunning)) return &world;
    }
    return nullptr;
  }

  // The child goes on with a copy of everything, this world's shadow included, on its own.
  void Fork(bool bare) {
    auto place = std::find(children_.begin(), children_.end(), nullptr);
    if (world_.depth >= kDeepest || place == children_.end()) return;
    if (world_.bare != 0 && !bare) return;
    World* world = TakeWorld();
    if (world == nullptr) return;
    world->depth = world_.depth + 1;
    world->parent = static_cast<uint32_t>(&world_ - g_shared->worlds.data());
    world->bare = bare ? 1 : 0;
    world->orphaned = 0;
    world->steps = 0;
    world->operation = Operation::kFork;
    std::memcpy(&world->slots, &world_.slots, sizeof world->slots);
    uint64_t seed = random_();
    pid_t pid = bare ? static_cast<pid_t>(syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0)) : fork();
    if (pid < 0) memory_.Fail("fork");
    if (pid == 0) {
      Worker child(*world, seed, source_);
      child.own_stack_ = own_stack_;
      child.RunChild();
    }
    world->pid = pid;
    *place = world;
  }

  [[noreturn]] void RunChild() {
    Begin();
    for (Slot& slot : world_.slots) slot.locked = false;  // a fork does not copy locks
    uint64_t steps = 1 + Below(kChildSteps);
    while (world_.steps < steps && g_shared->stop == 0) DoStep();
    memory_.VerifyAll();
    // Half of those that have children leave them behind.
    bool leave = Below(2) == 0;
    while (!leave && HasChildren() && g_shared->stop == 0) ReapChildren(0);
    for (World* child : children_) {
      if (child == nullptr) continue;
      child->orphaned = 1;
      g_shared->orphans.fetch_add(1);
    }
    world_.state = WorldState::kDone;
    if (Below(4) == 0) execl("/bin/true", "true", nullptr);
    _exit(0);
  }

  void ReapChildren(int flags) {
    for (World*& child : children_) {
      int status = 0;
      if (child == nullptr || waitpid(child->pid, &status, flags) != child->pid) continue;
      if (status != 0) {
        char text[80];
        std::snprintf(text, sizeof text, "child %d ended with wait status %x", child->pid.load(),
                      static_cast<unsigned>(status));
        memory_.Fail(text);
      }
      child->state = WorldState::kFree;
      child = nullptr;
    }
  }

  bool HasChildren() const {
    return std::any_of(children_.begin(), children_.end(), [](World* child) { return child; });
  }

  void ExpectSuccess(pid_t pid) {
    int status = -1;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    if (status != 0) memory_.Fail("/bin/true failed");
  }

  void Spawn() {
    if (world_.bare != 0) return;
    char name[] = "/bin/true";
    char* argv[] = {name, nullptr};
    pid_t pid = -1;
    if (posix_spawn(&pid, name, nullptr, nullptr, argv, environ) != 0) memory_.Fail("posix_spawn");
    ExpectSuccess(pid);
  }

  void VforkAndExec() {
    pid_t pid = vfork();
    if (pid < 0) memory_.Fail("vfork");
    if (pid == 0) {
      execl("/bin/true", "true", nullptr);
      _exit(1);
    }
    ExpectSuccess(pid);
  }

  World& world_;
  const SourceFile& source_;
  std::mt19937_64 random_;
  WorldMemory memory_;
  Turns turns_;
  std::byte* own_stack_ = nullptr;
  std::array<World*, kChildrenOfAWorld> children_{};  // null: room for one
};

// Waits for children whose parents have ended; returns whether there may be more.
bool ReapOrphans() {
  bool more = false;
  for (size_t index = kThreads; index < kWorlds; ++index) {
    World& world = g_shared->worlds[index];
    if (world.state == WorldState::kFree) continue;
    more = true;
    if (world.orphaned == 0) continue;
    int status = 0;
    if (waitpid(world.pid, &status, WNOHANG) != world.pid) continue;
    if (status != 0) {
      std::fprintf(stderr, "WRONG: orphan %d ended with wait status %x\n", world.pid.load(),
                   static_cast<unsigned>(status));
      g_shared->stop = 1;
    }
    world.orphaned = 0;
    world.state = WorldState::kFree;
  }
  return more;
}

SourceFile MakeSourceFile(const std::string& directory) {
  std::string path = directory + "/source";
  SourceFile source{};
  source.cached_fd = open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  source.direct_fd = open(path.c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC);
  unlink(path.c_str());
  if (source.cached_fd < 0 || source.direct_fd < 0) Die(path.c_str());
  alignas(kPageBytes) static std::byte page[kPageBytes];
  for (uint32_t i = 0; i < SourceFile::kPages; ++i) {
    FillPage(page, SourceFile::kFileNumber + i, 1);
    if (write(source.cached_fd, page, kPageBytes) != kPageBytes) Die("write");
  }
  fsync(source.cached_fd);
  return source;
}

void Prepare(const std::string& shared) {
  int fd = open(shared.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) Die(shared.c_str());
  void* mapping = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (mapping == MAP_FAILED) Die("mmap");
  g_shared = static_cast<Shared*>(mapping);
  g_common = MapBytes(kCommonPages * kPageBytes);
  for (size_t page = 0; page < kCommonPages; ++page) {
    FillPage(g_common + page * kPageBytes, page, 1);
  }
  setpgid(0, 0);                     // so that all of us can be ended at once
  prctl(PR_SET_CHILD_SUBREAPER, 1);  // grandchildren whose parents have ended come to us
  rlimit none{0, 0};
  setrlimit(RLIMIT_CORE, &none);
  HandleSignals();
}

int Main(const std::string& directory, unsigned run_seconds, uint64_t seed) {
  SourceFile source = MakeSourceFile(directory);
  Answer("ready");
  if (std::getchar() == EOF) return 2;
  auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(run_seconds);
  std::atomic<size_t> running{kThreads};
  std::vector<std::thread> threads;
  for (size_t index = 0; index < kThreads; ++index) {
    threads.emplace_back([&, index] {
      Worker(g_shared->worlds[index], seed * kThreads + index, source).RunThread(deadline);
      --running;
    });
  }
  while (running > 0 || (ReapOrphans() && g_shared->stop == 0)) {
    ReapOrphans();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  for (std::thread& thread : threads) thread.join();
  if (g_shared->stop != 0) return 1;
  Answer("ok");
  return 0;
}

}  // namespace
}  // namespace zmem::storm

int main(int argc, char** argv) {
  std::string shared;
  std::string directory;
  unsigned run_seconds = 20;
  uint64_t seed = 1;
  CLI::App app("Does everything to its memory, at random.");
  app.add_option("--shared", shared, "a file for the shadow")->required();
  app.add_option("--directory", directory, "for a file to read")->required();
  app.add_option("--seconds", run_seconds, "how long");
  app.add_option("--seed", seed, "of everything");
  CLI11_PARSE(app, argc, argv);
  zmem::storm::Prepare(shared);
  return zmem::storm::Main(directory, run_seconds, seed);
}
