// A program that does everything to its memory at random, with threads and generations of forked
// children, while its pages are taken out as fast as it goes, zmemd is stopped and started again,
// and its processes are drained one by one: every page reads as it must, and nothing hangs.
//   --seconds=N (60)   --minutes=N   --seed=N   --unmanaged (without zmem, to tell whose bug it is)
#include <sys/mman.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <sstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "tests/kernel_setting.h"
#include "tests/programs/operations_storm_shadow.h"
#include "tests/system_test.h"

namespace zmem {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;
using storm::Operation;
using storm::Shared;
using storm::World;
using storm::WorldState;

int storm_seconds = 60;
uint64_t fixed_seed = 0;  // 0: the test's own
bool unmanaged = false;
std::string file;   // of the pool; empty: none
std::string limit;  // ZMEM_LIMIT of the program

// Takes out whatever it sees, all the time.
constexpr char kAsFastAsItGoes[] = "[policy]\ncold_age=1ms\nscan_interval=10ms\nmin_resident=1M\n";
// Most of what is taken out has no room in the pool.
constexpr char kToAFile[] = "[pool]\nmax_pool_size=2M\n[backing]\nsize=64M\npath=";
constexpr seconds kLongestStep(60);
// Undisturbed it takes some thousand steps a second; neither side may hold the other up.
constexpr uint64_t kLeastStepsPerS = 20;

std::string FileText(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// What every thread of a process is doing.
std::string DescribeThreads(pid_t pid) {
  std::string text;
  std::error_code error;
  for (const auto& task :
       std::filesystem::directory_iterator(absl::StrCat("/proc/", pid, "/task"), error)) {
    std::string path = task.path();
    absl::StrAppend(&text, "  ", path, " ", FileText(path + "/comm"), "    ",
                    FileText(path + "/wchan"), "; syscall ", FileText(path + "/syscall"),
                    FileText(path + "/stack"));
  }
  return text;
}

// The storm's shared file: the program writes what it is doing, we read it whatever becomes of it.
class SharedFile {
 public:
  SharedFile() : fd_(CheckErrno(memfd_create("storm", MFD_CLOEXEC), "memfd_create")) {
    CheckErrno(ftruncate(fd_.get(), sizeof(Shared)), "ftruncate");
    void* mapping = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0);
    if (mapping == MAP_FAILED) throw ErrnoError("mmap");
    shared_ = static_cast<Shared*>(mapping);
  }
  ~SharedFile() { munmap(shared_, sizeof(Shared)); }
  SharedFile(const SharedFile&) = delete;
  SharedFile& operator=(const SharedFile&) = delete;

  std::string path() const { return absl::StrCat("/proc/", getpid(), "/fd/", fd_.get()); }
  Shared* operator->() const { return shared_; }

  std::string Describe(const World& world) const {
    std::string text = absl::StrCat(
        "world ", &world - shared_->worlds.data(), " pid ", world.pid.load(), " tid ",
        world.tid.load(), " depth ", world.depth.load(), world.bare != 0 ? " bare" : "", " parent ",
        world.parent.load(), world.orphaned != 0 ? " orphaned" : "", ", step ", world.steps.load(),
        ": ", storm::Name(world.operation), " on slot ", world.slot.load(), "\n");
    const storm::Slot& slot = world.slots[world.slot % storm::kSlots];
    absl::StrAppend(&text, "    at ", absl::Hex(reinterpret_cast<uint64_t>(slot.data)), ", ",
                    slot.pages, " pages;");
    for (const storm::Step& step : slot.history) {
      absl::StrAppend(&text, " ", step.number, " ", storm::Name(step.operation), " [",
                      step.first_page, ",", step.end_page, ");");
    }
    return text + "\n";
  }

  // Operations of each kind.
  std::string Counts() const {
    std::string text;
    for (size_t i = 1; i < shared_->counts.size(); ++i) {
      absl::StrAppend(&text, text.empty() ? "" : ", ", storm::kOperations[i].name, " ",
                      shared_->counts[i].load());
    }
    return text;
  }
  uint64_t Steps() const {
    uint64_t steps = 0;
    for (const auto& count : shared_->counts) steps += count;
    return steps;
  }

 private:
  UniqueFd fd_;
  Shared* shared_;
};

// A zmemd that can be stopped and started again at the same socket, and what is asked of it
// meanwhile by a thread of its own. Sums up what it did.
class Evictor {
 public:
  Evictor() : daemon_({.config = kAsFastAsItGoes + (file.empty() ? "" : kToAFile + file + "\n")}) {}
  ~Evictor() { StopEvicting(); }

  const Daemon& daemon() const { return daemon_; }
  pid_t pid() { return next_ == nullptr ? daemon_.pid() : next_->pid(); }
  std::string log() const { return daemon_.log() + (next_ == nullptr ? "" : next_->errors()); }

  void StartEvicting() {
    stop_ = false;
    thread_ = std::thread([this] {
      while (!stop_) EvictAll();
    });
  }
  void StopEvicting() {
    stop_ = true;
    if (thread_.joinable()) thread_.join();
  }

  // In the middle of evictions, which then fail until it runs again.
  void Restart() {
    NoteRestored();
    daemon_.Stop();
    std::string config = daemon_.directory().File("zmemd.conf");
    next_ = std::make_unique<Child>(ChildOptions{
        .argv = {Runfile("zmemd/zmemd"), "--config", config, "--socket", daemon_.socket()}});
    WaitUntil("the second zmemd to answer", seconds(10),
              [this] { return daemon_.Ctl({"status"}).status.Succeeded(); });
  }
  void StopForGood() {
    StopEvicting();
    NoteRestored();
    if (next_ == nullptr) return daemon_.Stop();
    next_->Signal(SIGTERM);
    ExitStatus status = next_->Wait(seconds(120));
    if (!status.Succeeded()) throw HarnessError("the second zmemd: " + status.ToString() + log());
  }

  // Drains every process but `pid`, and then, if it is still there, `pid`.
  void DrainAll(pid_t pid) {
    for (const nlohmann::json& process : daemon_.CtlJson({"ps", "--json"})) {
      if (process["pid"] != pid) daemon_.Ctl({"drain", process["pid"].dump()});
    }
    daemon_.Drain(pid);
  }

  uint64_t evictions() const { return evictions_; }
  uint64_t evicted_pages() const { return evicted_pages_; }
  uint64_t restored_pages() const { return restored_pages_; }

 private:
  void EvictAll() {
    CommandResult ps = daemon_.Ctl({"ps", "--json"});
    nlohmann::json processes = nlohmann::json::parse(ps.output, nullptr, false);
    if (!processes.is_array()) return;  // it is being stopped
    for (const nlohmann::json& process : processes) {
      if (stop_ || process["pid"] == 0) continue;
      CommandResult result = daemon_.Ctl({"evict", process["pid"].dump(), "--json"});
      if (!result.status.Succeeded()) continue;  // it ended meanwhile
      ++evictions_;
      evicted_pages_ += nlohmann::json::parse(result.output)["evicted_pages"].get<uint64_t>();
    }
  }

  void NoteRestored() { restored_pages_ += daemon_.Status()["faults_total"].get<uint64_t>(); }

  Daemon daemon_;
  std::unique_ptr<Child> next_;
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> evictions_{0};
  std::atomic<uint64_t> evicted_pages_{0};
  uint64_t restored_pages_ = 0;
  std::thread thread_;
};

// Ends the storm, with a description, when a world has made no step for too long.
class Watchdog {
 public:
  Watchdog(const SharedFile& shared, pid_t program, Evictor* evictor)
      : shared_(shared), program_(program), evictor_(evictor), thread_([this] { Run(); }) {}
  ~Watchdog() {
    stop_ = true;
    thread_.join();
  }
  bool barked() const { return barked_; }

 private:
  struct Progress {
    uint64_t steps = 0;
    pid_t pid = 0;
    steady_clock::time_point changed = steady_clock::now();
  };

  void Run() {
    std::array<Progress, storm::kWorlds> seen;
    while (!stop_ && !barked_) {
      std::this_thread::sleep_for(milliseconds(100));
      auto now = steady_clock::now();
      for (size_t i = 0; i < seen.size(); ++i) {
        const World& world = shared_->worlds[i];
        bool idle = world.state != WorldState::kRunning || world.pid == 0;
        if (idle || world.steps != seen[i].steps || world.pid != seen[i].pid) {
          seen[i] = {world.steps, world.pid, now};
        } else if (now - seen[i].changed > kLongestStep) {
          Bark(i);
          return;
        }
      }
    }
  }

  void Bark(size_t stuck) {
    barked_ = true;
    std::string text =
        absl::StrCat("world ", stuck, " has made no step for ", kLongestStep.count(), " s\n");
    for (const World& world : shared_->worlds) {
      if (world.state == WorldState::kFree) continue;
      absl::StrAppend(&text, shared_.Describe(world));
      if (world.depth == 0) continue;
      absl::StrAppend(&text, FileText(absl::StrCat("/proc/", world.pid.load(), "/status")),
                      DescribeThreads(world.pid));
    }
    absl::StrAppend(&text, FileText(absl::StrCat("/proc/", program_, "/status")),
                    DescribeThreads(program_));
    if (evictor_ != nullptr) {
      absl::StrAppend(&text, "zmemd:\n", DescribeThreads(evictor_->pid()), evictor_->log(),
                      evictor_->daemon().Ctl({"ps"}).output,
                      evictor_->daemon().Ctl({"show", absl::StrCat(program_)}).output);
    }
    ADD_FAILURE() << text;
    kill(-program_, SIGKILL);
  }

  const SharedFile& shared_;
  const pid_t program_;
  Evictor* const evictor_;
  std::atomic<bool> stop_{false};
  std::atomic<bool> barked_{false};
  std::thread thread_;
};

class OperationsStorm : public SystemTest {
 protected:
  // Everything that the program forked ends with the test.
  struct EndGroup {
    explicit EndGroup(pid_t pid) : pid(pid) {}
    ~EndGroup() { kill(-pid, SIGKILL); }
    const pid_t pid;
  };

  ChildOptions Program(uint64_t seed, const std::string& directory) const {
    return {.argv = Subject("operations_storm",
                            {"--shared", shared_.path(), "--directory", directory, "--seconds",
                             absl::StrCat(storm_seconds), "--seed", absl::StrCat(seed)})};
  }

  // Waits for a part of the storm's time, or its end.
  void Sleep(Child& child, double part) const {
    auto deadline =
        steady_clock::now() + milliseconds(static_cast<int>(part * 1000 * storm_seconds));
    while (steady_clock::now() < deadline && child.Running()) {
      std::this_thread::sleep_for(milliseconds(20));
    }
  }

  void Storm(uint64_t seed);
  void StormAlone(uint64_t seed);
  void ExpectEnd(Child& child);

  SharedFile shared_;
};

void OperationsStorm::ExpectEnd(Child& child) {
  ExitStatus status = child.Wait(seconds(storm_seconds) + 2 * kLongestStep);
  EXPECT_TRUE(status.Succeeded()) << status.ToString() << "\n"
                                  << shared_->failure << "\n"
                                  << child.errors();
  std::printf("%s\n%lu steps, %lu orphans, %lu moves or resizings of mappings that were split\n",
              shared_.Counts().c_str(), shared_.Steps(), shared_->orphans.load(),
              shared_->splits.load());
  EXPECT_GT(shared_.Steps(), kLeastStepsPerS * static_cast<uint64_t>(storm_seconds));
}

void OperationsStorm::Storm(uint64_t seed) {
  std::printf("seed %lu, %d s\n", seed, storm_seconds);
  KernelSetting merging("/sys/kernel/mm/ksm/run", "1");
  Evictor evictor;
  ChildOptions options = Program(seed, evictor.daemon().directory().path());
  options.env = Managed(evictor.daemon(), {}).env;
  if (!limit.empty()) options.env["ZMEM_LIMIT"] = limit;
  Child child(options);
  EndGroup group(child.pid());
  WaitReady(evictor.daemon(), child);
  Watchdog watchdog(shared_, child.pid(), &evictor);
  child.Send("go");
  evictor.StartEvicting();
  Sleep(child, 0.45);
  if (child.Running()) {
    evictor.Restart();
    WaitAttached(evictor.daemon(), child);
    Sleep(child, 0.35);
  }
  if (child.Running()) evictor.DrainAll(child.pid());
  ExpectEnd(child);
  WaitPoolEmpty(evictor.daemon());
  evictor.StopForGood();
  std::printf("%lu evictions took %lu pages, %lu were restored\n", evictor.evictions(),
              evictor.evicted_pages(), evictor.restored_pages());
  EXPECT_GT(evictor.evictions(), 0U);
  EXPECT_GT(evictor.restored_pages(), 0U);
}

void OperationsStorm::StormAlone(uint64_t seed) {
  TempDir directory;
  Child child(Program(seed, directory.path()));
  EndGroup group(child.pid());
  EXPECT_EQ(child.ReadLine(kAnswerTimeout), "ready");
  Watchdog watchdog(shared_, child.pid(), nullptr);
  child.Send("go");
  ExpectEnd(child);
}

// One seed for all times, and one for this time: what the second finds, --seed repeats.
TEST_F(OperationsStorm, EveryPageReadsAsItMust) {
  uint64_t seed = fixed_seed != 0 ? fixed_seed : 20241102;
  if (unmanaged) return StormAlone(seed);
  Storm(seed);
}

TEST_F(OperationsStorm, EveryPageReadsAsItMustWithANewSeed) {
  if (fixed_seed != 0 || unmanaged) GTEST_SKIP() << "one seed was asked for";
  Storm(static_cast<uint64_t>(std::time(nullptr)));
}

}  // namespace
}  // namespace zmem

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  int minutes = 0;
  CLI::App app("Does everything to memory that is being taken out.");
  app.add_option("--seconds", zmem::storm_seconds, "how long each storm lasts");
  app.add_option("--minutes", minutes, "the same in minutes");
  app.add_option("--seed", zmem::fixed_seed, "one storm of this seed");
  app.add_flag("--unmanaged", zmem::unmanaged, "without zmem");
  app.add_option("--limit", zmem::limit, "of the program's resident memory, as in ZMEM_LIMIT");
  app.add_option("--file", zmem::file, "a backing file for what a small pool has no room for");
  CLI11_PARSE(app, argc, argv);
  if (minutes > 0) zmem::storm_seconds = minutes * 60;
  return RUN_ALL_TESTS();
}
