// libzmem.so's way into a program: a constructor that reads the environment and starts the agent,
// and a fork hook that starts one in the child. It registers nothing, wraps only what no program
// calls often (step_aside.h), and never fails a program that did not ask for it (ZMEM_REQUIRED=1).

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/sysinfo.h>
#include <sys/un.h>
#include <unistd.h>

#include <new>

#include "preload/agent.h"
#include "preload/core_dump.h"
#include "preload/keep.h"
#include "preload/line.h"
#include "preload/step_aside.h"

namespace zmem {
namespace {

constexpr char kDefaultSocket[] = "/run/zmem/zmemd.sock";
constexpr int kUnavailable = 69;  // EX_UNAVAILABLE of sysexits.h

bool IsOn(const char* name) {
  const char* value = getenv(name);
  return value != nullptr && value[0] == '1';
}

// "16M" and the like: digits with at most one of K, M, G. Anything else leaves `bytes` alone.
bool ParseBytes(const char* text, uint64_t* bytes) {
  uint64_t value = 0;
  const char* at = text;
  for (; *at >= '0' && *at <= '9'; ++at) {
    if (value > (uint64_t{1} << 50)) return false;
    value = value * 10 + static_cast<uint64_t>(*at - '0');
  }
  if (at == text) return false;
  unsigned shift = 0;
  if (*at == 'K' || *at == 'k') shift = 10;
  if (*at == 'M' || *at == 'm') shift = 20;
  if (*at == 'G' || *at == 'g') shift = 30;
  if (shift != 0) ++at;
  if (*at != '\0') return false;
  *bytes = value << shift;
  return true;
}

// "512M", "60%" of RAM from 1 to 100, or "none", which leaves `bytes` zero.
bool ParseLimit(const char* text, uint64_t* bytes) {
  if (strcmp(text, "none") == 0) return true;
  uint64_t percent = 0;
  const char* at = text;
  for (; *at >= '0' && *at <= '9' && percent <= 100; ++at) {
    percent = percent * 10 + static_cast<uint64_t>(*at - '0');
  }
  if (at == text || strcmp(at, "%") != 0) return ParseBytes(text, bytes) && *bytes > 0;
  struct sysinfo host;
  if (percent < 1 || percent > 100 || sysinfo(&host) != 0) return false;
  *bytes = uint64_t{host.totalram} * host.mem_unit / 100 * percent;
  return true;
}

void Print(const Line& line) {
  ssize_t ignored = write(STDERR_FILENO, line.data(), line.length());
  (void)ignored;
}

void ReadLimit(AgentOptions* options) {
  const char* text = getenv("ZMEM_LIMIT");
  if (text == nullptr || text[0] == '\0') return;
  if (ParseLimit(text, &options->limit_bytes)) return;
  options->limit_bytes = 0;
  if (options->verbose || options->required) {
    Line line;
    Print(line << "zmem: ZMEM_LIMIT takes a size like 512M, 1% to 100% of RAM, or none"
               << (options->required ? "\n" : "; the program is not limited\n"));
  }
  if (options->required) _exit(kUnavailable);
}

void ReadEnvironment(AgentOptions* options) {
  options->verbose = IsOn("ZMEM_VERBOSE");
  options->required = IsOn("ZMEM_REQUIRED");
  const char* path = getenv("ZMEM_SOCKET");
  if (path == nullptr || path[0] == '\0') path = kDefaultSocket;
  if (strlen(path) >= sizeof options->socket_path) {
    if (options->verbose || options->required) {
      Line line;
      Print(line << "zmem: ZMEM_SOCKET is longer than a socket's path may be; using "
                 << kDefaultSocket << "\n");
    }
    path = kDefaultSocket;
  }
  strcpy(options->socket_path, path);
  options->min_resident_bytes = kDefaultMinResidentBytes;
  if (const char* text = getenv("ZMEM_MIN_RESIDENT")) {
    options->min_resident_given = ParseBytes(text, &options->min_resident_bytes);
    if (!options->min_resident_given && options->verbose) {
      Line line;
      Print(line << "zmem: ZMEM_MIN_RESIDENT takes a size like 16M; using the default\n");
    }
  }
  ReadLimit(options);
  if (const char* text = getenv("ZMEM_DAEMON_TIMEOUT")) {
    uint64_t seconds = 0;
    if (ParseBytes(text, &seconds) && seconds > 0 && seconds <= 86'400) {
      options->daemon_timeout_s = static_cast<uint32_t>(seconds);
    } else if (options->verbose) {
      Line line;
      Print(line << "zmem: ZMEM_DAEMON_TIMEOUT takes seconds, 1 to 86400; using "
                 << options->daemon_timeout_s << "\n");
    }
  }
}

// Whether somebody listens at `path`; errno tells why not.
bool DaemonListens(const char* path) {
  int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  if (fd < 0) return false;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  strcpy(address.sun_path, path);
  bool connected = connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  int error = errno;
  close(fd);
  errno = error;
  return connected;
}

void RequireDaemon(const AgentOptions& options) {
  if (DaemonListens(options.socket_path)) return;
  Line line;
  line << "zmem: ZMEM_REQUIRED=1, but "
       << (errno == EACCES ? "this user may not connect to zmemd at " : "no zmemd is listening at ")
       << options.socket_path << "\n";
  Print(line);
  _exit(kUnavailable);
}

void* Map(size_t bytes, int flags) {
  void* mapping = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | flags, -1, 0);
  return mapping == MAP_FAILED ? nullptr : mapping;
}

void Unmap(void* mapping, size_t bytes) {
  if (mapping != nullptr) munmap(mapping, bytes);
}

// Maps the agent's state and stack, and the token page. Returns null when there is no room.
AgentState* MapAgent(const AgentOptions& options) {
  void* mapping = Map(kAgentMappingBytes, MAP_PRIVATE | MAP_NORESERVE | MAP_STACK);
  void* token_page = Map(kPageBytes, MAP_PRIVATE | MAP_NORESERVE);
  void* family = Map(kPageBytes, MAP_SHARED);
  bool complete = mapping != nullptr && token_page != nullptr && family != nullptr &&
                  madvise(token_page, kPageBytes, MADV_WIPEONFORK) == 0;
  if (!complete) {
    Unmap(family, kPageBytes);
    Unmap(token_page, kPageBytes);
    Unmap(mapping, kAgentMappingBytes);
    return nullptr;
  }
  auto* state = static_cast<AgentState*>(mapping);
  new (&state->options) AgentOptions(options);
  new (&state->bell) Bell();
  new (&state->desk) Desk();
  state->family = new (family) Family();
  Address start = reinterpret_cast<Address>(mapping);
  state->mapping = {start, start + kAgentMappingBytes};
  state->token_page = static_cast<wire::Token*>(token_page);
  return state;
}

// Under somebody's seccomp filter the agent's system calls could end the program.
bool IsSandboxed() { return prctl(PR_GET_SECCOMP, 0, 0, 0, 0) != 0; }

// Pages in the staging area would be missing in a child, which has none.
void BeforeFork() {
  // What cannot be had in this time, because zmemd is busy or gone, zmemd copies after the fork.
  constexpr int64_t kPatienceMs = 100;
  Bell& bell = g_agent->bell;
  bell.forks.fetch_add(1);
  if (bell.staged.load()) Ask(bell, wire::Wish::kSettle, kPatienceMs);
}

void AfterForkInParent() { g_agent->bell.forks.fetch_sub(1); }

bool DeservesAgent(Family& family) {
  uint32_t number = family.forks.fetch_add(1);
  uint32_t credit = family.credit.load();
  while (credit > 0) {
    if (family.credit.compare_exchange_weak(credit, credit - 1)) return true;
  }
  return number % Family::kSample == 0;
}

// A child of fork has the agent's mapping but not its thread.
void AfterForkInChild() {
  new (&g_agent->bell) Bell();
  new (&g_agent->desk) Desk();
  ResetKept(g_agent->kept);
  g_agent->is_child = true;
  if (!g_sandboxed && DeservesAgent(*g_agent->family)) StartAgentThread(g_agent);
}

// False if there is no memory or no thread for an agent. The fork hook comes first: a child without
// it would wait for its parent's agent.
bool StartAgent(const AgentOptions& options) {
  g_agent = MapAgent(options);
  if (g_agent == nullptr) return false;
  if (pthread_atfork(BeforeFork, AfterForkInParent, AfterForkInChild) != 0) {
    g_agent = nullptr;
    return false;
  }
  return StartAgentThread(g_agent) == 0;
}

// Starts the agent. Returns why not, or null.
const char* Manage(const AgentOptions& options) {
  if (IsSandboxed()) return "it was started under a seccomp filter";
  if (options.required) RequireDaemon(options);
  if (!StartAgent(options)) return "the kernel gives no memory or no thread for the agent";
  if (IsOn("ZMEM_CORE_DUMPS")) CatchCoreDumps();
  return nullptr;
}

__attribute__((constructor)) void Start() {
  if (getauxval(AT_SECURE) != 0) return;
  const char* off = getenv("ZMEM");
  if (off != nullptr && off[0] == '0' && off[1] == '\0') return;
  int saved_errno = errno;
  AgentOptions options;
  ReadEnvironment(&options);
  const char* why = Manage(options);
  if (why != nullptr && (options.required || options.verbose)) {
    Line line;
    Print(line << "zmem: this program is not managed: " << why << "\n");
    if (options.required) _exit(kUnavailable);
  }
  errno = saved_errno;
}

}  // namespace
}  // namespace zmem
