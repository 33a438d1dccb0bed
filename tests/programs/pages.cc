// Subject program: a region of pattern pages that it rewrites and verifies when told to, and that
// it leaves by every way out a program has.
//   pages --mib N [--grown-mib N] [--random] [--huge] [--dump-core DIRECTORY]
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <optional>
#include <string>

#include "tests/programs/command_loop.h"
#include "tests/programs/pattern_region.h"

int main(int argc, char** argv) {
  size_t mib = 64;
  size_t grown_mib = 64;
  bool random = false;
  bool huge = false;
  CLI::App app("Holds pattern pages and answers commands on stdin.");
  app.add_option("--mib", mib, "size of the region");
  app.add_option("--grown-mib", grown_mib, "size of what grow adds");
  app.add_flag("--random", random, "pages that cannot be compressed");
  app.add_flag("--huge", huge, "ask for transparent huge pages");
  std::string core_directory;
  app.add_option("--dump-core", core_directory, "dump core there when a signal says so");
  CLI11_PARSE(app, argc, argv);
  if (!core_directory.empty()) {
    rlimit unlimited{RLIM_INFINITY, RLIM_INFINITY};
    if (chdir(core_directory.c_str()) != 0 || setrlimit(RLIMIT_CORE, &unlimited) != 0) return 2;
  }

  zmem::PatternRegion region(
      (mib << 20) / zmem::kPageBytes,
      random ? zmem::PageContent::kRandom : zmem::PageContent::kCompressible);
  if (huge) madvise(region.page(0), region.pages() * zmem::kPageBytes, MADV_HUGEPAGE);
  uint64_t version = 1;
  region.Fill(version);

  std::optional<zmem::PatternRegion> grown;
  auto verify = [&] {
    std::string wrong = region.Verify(version);
    return wrong.empty() ? "ok " + std::to_string(region.pages()) : wrong;
  };
  return zmem::ServeCommands({
      {"verify", verify},
      {"rewrite",
       [&] {
         region.Fill(++version);
         return verify();
       }},
      {"make incompressible",
       [&] {
         ++version;
         for (size_t page = 0; page < region.pages(); ++page) {
           zmem::FillPage(region.page(page), page, version, zmem::PageContent::kRandom);
         }
         return verify();
       }},
      // As fast as it can.
      {"grow",
       [&]() -> std::string {
         grown.emplace((grown_mib << 20) / zmem::kPageBytes, zmem::PageContent::kCompressible);
         grown->Fill(version);
         std::string wrong = grown->Verify(version);
         return wrong.empty() ? verify() : wrong;
       }},
      // Reads for ever; a wrong page is reported on the spot, so that the report outlives us.
      {"watch",
       [&]() -> std::string {
         zmem::Answer("ok");
         while (true) {
           std::string wrong = region.Verify(version);
           if (!wrong.empty()) zmem::Answer(wrong);
         }
       }},
      {"unmap half",
       [&]() -> std::string {
         size_t half = region.pages() / 2 * zmem::kPageBytes;
         return munmap(region.page(0), half) == 0 ? "ok" : "munmap failed";
       }},
      {"where", [&] { return std::to_string(reinterpret_cast<uintptr_t>(region.page(0))); }},
      {"abort", []() -> std::string { std::abort(); }},
      {"crash",
       []() -> std::string {
         volatile int* volatile nowhere = nullptr;
         *nowhere = 1;
         return "still there";
       }},
      {"send itself a signal",
       []() -> std::string {
         raise(SIGQUIT);
         return "still there";
       }},
      {"fork",
       [&]() -> std::string {
         pid_t pid = fork();
         if (pid == 0) _exit(region.Verify(version).empty() ? 0 : 1);
         int status = -1;
         if (waitpid(pid, &status, 0) != pid || status != 0) return "WRONG in a forked child";
         return verify();
       }},
      {"unshare user", [&] { return unshare(CLONE_NEWUSER) == 0 ? verify() : "unshare failed"; }},
      {"exec",
       [&]() -> std::string {
         execv("/proc/self/exe", argv);
         return "exec failed";
       }},
      {"exit", []() -> std::string { _exit(0); }},
  });
}
