// Subject program: says what it knows of its memory (libzmem/zmem.h) when told to.
//   advises --mib N
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "libzmem/zmem.h"
#include "tests/programs/command_loop.h"
#include "tests/programs/pattern_region.h"

namespace zmem {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

struct Stats : ::zmem_stats {
  Stats() : ::zmem_stats{} { struct_bytes = sizeof(struct ::zmem_stats); }
};

// "ok", or the errno's name.
std::string Outcome(int result) { return result == 0 ? "ok" : strerrorname_np(errno); }

int g_in_handler = -1;
void OnSignal(int) {
  Stats stats;
  g_in_handler = zmem_stats(&stats);
}

class Subject {
 public:
  explicit Subject(size_t pages) : region_(pages, PageContent::kCompressible) { region_.Fill(1); }

  std::string Advise(size_t first, size_t pages, int advice) const {
    return Outcome(zmem_advise(region_.page(first), pages * kPageBytes, advice));
  }
  std::string Advise(int advice) const { return Advise(0, region_.pages(), advice); }

  std::string Verify() const {
    std::string wrong = region_.Verify(1);
    return wrong.empty() ? "ok" : wrong;
  }

  // How many pages are in memory.
  std::string CountPresent() const {
    constexpr uint64_t kPresent = uint64_t{1} << 63;
    std::vector<uint64_t> entries(region_.pages());
    std::ifstream pagemap("/proc/self/pagemap", std::ios::binary);
    Address start = reinterpret_cast<Address>(region_.page(0));
    pagemap.seekg(static_cast<std::streamoff>(start / kPageBytes * sizeof(uint64_t)));
    pagemap.read(reinterpret_cast<char*>(entries.data()),
                 static_cast<std::streamsize>(entries.size() * sizeof(uint64_t)));
    if (!pagemap) return "cannot read the page map";
    int64_t present = 0;
    for (uint64_t entry : entries) present += (entry & kPresent) != 0;
    return std::to_string(present);
  }

  std::string ReportStats() const {
    Stats stats;
    if (zmem_stats(&stats) != 0) return Outcome(-1);
    std::string text = "{";
    auto add = [&text](const char* name, uint64_t value) {
      text += (text.size() > 1 ? ",\"" : "\"") + std::string(name) + "\":" + std::to_string(value);
    };
    add("resident_bytes", stats.resident_bytes);
    add("out_bytes", stats.out_bytes);
    add("held_bytes", stats.held_bytes);
    add("disk_bytes", stats.disk_bytes);
    add("faults_total", stats.faults_total);
    add("stall_ns", stats.stall_ns);
    add("limit_bytes", stats.limit_bytes);
    add("stall_target_ppm", stats.stall_target_ppm);
    add("kept_bytes", stats.kept_bytes);
    add("connections", stats.connections);
    return text + "}";
  }

  // Every mistake gets its errno and nothing else; sizes other than this header's are served.
  std::string Misuse() const {
    std::byte* page = region_.page(0);
    auto fails = [](int error, int result) { return result == -1 && errno == error; };
    if (!fails(EINVAL, zmem_advise(page + 1, kPageBytes, ZMEM_COLD))) return "unaligned";
    if (!fails(EINVAL, zmem_advise(page, kPageBytes, 4))) return "unknown advice";
    if (!fails(EINVAL, zmem_advise(page, kPageBytes, -1))) return "negative advice";
    if (!fails(EINVAL, zmem_advise(page, ~size_t{0}, ZMEM_COLD))) return "too long";
    if (!fails(EINVAL, zmem_advise(page, ~size_t{0} - 8191, ZMEM_COLD))) return "beyond the end";
    if (zmem_advise(page, 0, ZMEM_KEEP) != 0) return "nothing";
    if (zmem_advise(page, ~(Address{1} << 63) - reinterpret_cast<Address>(page), ZMEM_NORMAL) != 0)
      return "everything";
    if (!fails(EFAULT, zmem_stats(nullptr))) return "no struct";
    struct {
      Stats known;
      uint64_t later[2] = {~0ull, ~0ull};
    } newer;
    newer.known.struct_bytes = sizeof newer;
    if (zmem_stats(&newer.known) != 0) return "a newer struct";
    if (newer.later[0] != 0 || newer.known.struct_bytes != sizeof(struct ::zmem_stats))
      return "its tail";
    newer.known.struct_bytes = 80;
    if (!fails(EINVAL, zmem_stats(&newer.known))) return "too small a struct";
    newer.known.struct_bytes = kPageBytes + 8;
    if (!fails(EINVAL, zmem_stats(&newer.known))) return "too large a struct";
    return "ok";
  }

  // Every other page is kept until that is too much.
  std::string KeepTooMuch() const {
    size_t kept = 0;
    for (; 2 * kept < region_.pages(); ++kept) {
      if (zmem_advise(region_.page(2 * kept), kPageBytes, ZMEM_KEEP) != 0) break;
    }
    int error = errno;
    if (2 * kept >= region_.pages() || error != ENOMEM || kept != 512) {
      return "kept " + std::to_string(kept) + ", then " + strerrorname_np(error);
    }
    return Advise(ZMEM_NORMAL);
  }

  // Threads that say everything of everything while others read it.
  std::string Quarrel(uint64_t seed) const {
    std::atomic<bool> failed{false};
    std::vector<std::thread> threads;
    for (uint64_t number = 0; number < 20; ++number) {
      threads.emplace_back([&, number] {
        uint64_t random = seed + number;
        for (int round = 0; round < 25; ++round) {
          random = random * 6364136223846793005 + 1442695040888963407;
          size_t first = (random >> 33) % region_.pages();
          size_t pages = std::min<size_t>(region_.pages() - first, 1 + (random >> 20) % 700);
          int advice = static_cast<int>((random >> 60) % 4);
          Stats stats;
          bool well =
              zmem_advise(region_.page(first), pages * kPageBytes, advice) == 0 || errno == EAGAIN;
          well &= zmem_stats(&stats) == 0;
          for (size_t page = first; page < first + pages; page += 16) {
            well &= VerifyPage(region_.page(page), page, 1);
          }
          if (!well) failed = true;
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    if (failed) return "WRONG or refused";
    std::string ended = Advise(ZMEM_NORMAL);
    return ended == "ok" ? Verify() : ended;
  }

  // What threads that ask all at once are told, if that is the same.
  std::string Crowd() const {
    std::vector<std::string> outcomes(24);
    std::vector<std::thread> threads;
    for (std::string& outcome : outcomes) {
      threads.emplace_back([&outcome] {
        Stats stats;
        outcome = Outcome(zmem_stats(&stats));
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (const std::string& outcome : outcomes) {
      if (outcome != outcomes[0]) return outcomes[0] + " and " + outcome;
    }
    return outcomes[0];
  }

  // A child is nobody's until its agent has come, and then it is heard as its parent is.
  std::string Fork() const {
    pid_t pid = fork();
    if (pid == 0) _exit(AdviseInChild());
    return Await(pid);
  }

  // Without libc's hooks there is no agent in the child, and its parent's does not answer it.
  std::string ForkWithoutLibc() const {
    auto pid = static_cast<pid_t>(syscall(SYS_fork));
    if (pid == 0) {
      Stats stats;
      syscall(SYS_exit_group, zmem_stats(&stats) == -1 && errno == ENOTCONN ? 0 : 1);
    }
    return Await(pid);
  }

  std::string InSignalHandler() const {
    signal(SIGUSR1, OnSignal);
    raise(SIGUSR1);
    return g_in_handler == 0 ? "ok" : "failed in a signal handler";
  }

  // Another mapping in the place of all of it.
  std::string Replace() const {
    void* place = mmap(region_.page(0), region_.pages() * kPageBytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    if (place == MAP_FAILED) return "mmap failed";
    region_.Fill(1);
    return "ok";
  }

 private:
  int AdviseInChild() const {
    Stats stats;
    if (zmem_stats(&stats) != -1 || errno != ENOTCONN) return 1;
    auto until = steady_clock::now() + std::chrono::seconds(20);
    while (zmem_stats(&stats) != 0) {
      if (errno != ENOTCONN || steady_clock::now() > until) return 2;
      std::this_thread::sleep_for(milliseconds(10));
    }
    if (stats.kept_bytes != 0) return 3;
    region_.Fill(1);  // what it shares with its parent cannot go out
    if (Advise(ZMEM_COLD) != "ok") return 4;
    while (CountPresent() != "0") {
      if (steady_clock::now() > until) return 5;
      std::this_thread::sleep_for(milliseconds(10));
    }
    return Verify() == "ok" ? 0 : 6;
  }

  static std::string Await(pid_t pid) {
    int status = -1;
    if (pid < 0 || waitpid(pid, &status, 0) != pid) return "fork or wait failed";
    return status == 0 ? "ok" : "a child's wait status is " + std::to_string(status);
  }

  PatternRegion region_;
};

}  // namespace
}  // namespace zmem

int main(int argc, char** argv) {
  size_t mib = 64;
  uint64_t seed = 1;
  CLI::App app("Advises zmem of its memory as commands on stdin say.");
  app.add_option("--mib", mib, "size of its memory");
  app.add_option("--seed", seed, "of the quarrel");
  CLI11_PARSE(app, argc, argv);
  zmem::Subject subject((mib << 20) / zmem::kPageBytes);
  size_t half = (mib << 20) / zmem::kPageBytes / 2;
  return zmem::ServeCommands({
      {"library",
       [] { return zmem_advise != nullptr && zmem_stats != nullptr ? "there" : "none"; }},
      {"cold", [&] { return subject.Advise(ZMEM_COLD); }},
      {"will need", [&] { return subject.Advise(ZMEM_WILLNEED); }},
      {"keep", [&] { return subject.Advise(ZMEM_KEEP); }},
      {"keep half", [&] { return subject.Advise(0, half, ZMEM_KEEP); }},
      {"normal", [&] { return subject.Advise(ZMEM_NORMAL); }},
      {"present", [&] { return subject.CountPresent(); }},
      {"stats", [&] { return subject.ReportStats(); }},
      {"verify", [&] { return subject.Verify(); }},
      {"misuse", [&] { return subject.Misuse(); }},
      {"keep too much", [&] { return subject.KeepTooMuch(); }},
      {"crowd", [&] { return subject.Crowd(); }},
      {"quarrel", [&] { return subject.Quarrel(seed); }},
      {"fork", [&] { return subject.Fork(); }},
      {"fork without libc", [&] { return subject.ForkWithoutLibc(); }},
      {"in a signal handler", [&] { return subject.InSignalHandler(); }},
      {"replace", [&] { return subject.Replace(); }},
  });
}
