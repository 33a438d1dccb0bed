// Who looks at a program from outside, or at what is left of it, sees its real pages (FACTS 19):
// after zmemctl thaw, and in a core dump if it was asked for.
#include <elf.h>
#include <signal.h>

#include <filesystem>
#include <fstream>
#include <vector>

#include "tests/page_pattern.h"
#include "tests/system_test.h"

namespace zmem {
namespace {

constexpr int64_t kMib = 16;
constexpr uint64_t kPages = kMib * 256;

class Debugger : public SystemTest {
 protected:
  // The pages subject, evicted.
  void Start(std::vector<std::string> arguments = {}) {
    arguments.insert(arguments.end(), {"--mib", std::to_string(kMib)});
    ChildOptions options = Managed(daemon_, Subject("pages", std::move(arguments)));
    options.env["ZMEM_CORE_DUMPS"] = "1";
    child_ = std::make_unique<Child>(options);
    WaitReady(daemon_, *child_);
    region_ = std::stoull(child_->Ask("where", kAnswerTimeout));
    EvictAtLeast(daemon_, *child_, kPages * 9 / 10);
  }

  std::string Pid() const { return std::to_string(child_->pid()); }

  // How many pages of the region can be read as they must be through /proc/PID/mem.
  uint64_t CountReadable() {
    std::ifstream memory("/proc/" + Pid() + "/mem", std::ios::binary);
    uint64_t right = 0;
    alignas(8) std::byte page[kPageBytes];
    for (uint64_t number = 0; number < kPages; ++number) {
      memory.clear();
      memory.seekg(static_cast<std::streamoff>(region_ + number * kPageBytes));
      memory.read(reinterpret_cast<char*>(page), sizeof page);
      if (memory && VerifyPage(page, number, 1)) ++right;
    }
    return right;
  }

  // The same in the core dump that the program has left in the daemon's directory.
  uint64_t CountInCore() {
    for (const auto& entry : std::filesystem::directory_iterator(daemon_.directory().path())) {
      if (entry.path().filename().string().rfind("core", 0) == 0) return CountIn(entry.path());
    }
    ADD_FAILURE() << "no core dump";
    return 0;
  }

  uint64_t CountIn(const std::filesystem::path& path) {
    std::ifstream core(path, std::ios::binary);
    Elf64_Ehdr header{};
    core.read(reinterpret_cast<char*>(&header), sizeof header);
    std::vector<Elf64_Phdr> segments(header.e_phnum);
    core.seekg(static_cast<std::streamoff>(header.e_phoff));
    core.read(reinterpret_cast<char*>(segments.data()),
              static_cast<std::streamsize>(segments.size() * sizeof segments[0]));
    uint64_t right = 0;
    alignas(8) std::byte page[kPageBytes];
    for (uint64_t number = 0; number < kPages; ++number) {
      Address address = region_ + number * kPageBytes;
      for (const Elf64_Phdr& segment : segments) {
        if (address < segment.p_vaddr || address >= segment.p_vaddr + segment.p_filesz) continue;
        core.seekg(static_cast<std::streamoff>(segment.p_offset + address - segment.p_vaddr));
        core.read(reinterpret_cast<char*>(page), sizeof page);
        if (core && VerifyPage(page, number, 1)) ++right;
      }
    }
    return right;
  }

  // What a program that dies of `command` with its pages out leaves in its dump.
  void ExpectWholeDump(const std::string& command, int signal) {
    std::string pattern;
    std::getline(std::ifstream("/proc/sys/kernel/core_pattern"), pattern);
    if (pattern.empty() || pattern[0] == '|' || pattern[0] == '/') {
      GTEST_SKIP() << "core dumps go to " << pattern;
    }
    Start({"--dump-core", daemon_.directory().path()});
    child_->Send(command);
    ExitStatus status = child_->Wait(kAnswerTimeout);
    EXPECT_TRUE(status.signalled) << status.ToString();
    EXPECT_EQ(status.number, signal);
    EXPECT_EQ(CountInCore(), kPages);
  }

  Daemon daemon_;
  std::unique_ptr<Child> child_;
  Address region_ = 0;
};

TEST_F(Debugger, SeesNothingOfWhatIsOut) {
  Start();
  EXPECT_LT(CountReadable(), kPages / 2);
}

TEST_F(Debugger, SeesEverythingOfAThawedProgram) {
  Start();
  nlohmann::json thawed = daemon_.CtlJson({"thaw", Pid(), "--json"});
  EXPECT_GE(thawed.at("restored_pages"), kPages * 9 / 10);
  EXPECT_EQ(CountReadable(), kPages);
  EXPECT_EQ(daemon_.Process(child_->pid()).at("state"), "thawed");
  EXPECT_EQ(daemon_.Process(child_->pid()).at("stored_pages"), 0);
}

TEST_F(Debugger, NothingIsTakenOutOfAThawedProgram) {
  Start();
  daemon_.CtlJson({"thaw", Pid(), "--json"});
  CommandResult evicted = daemon_.Ctl({"evict", Pid()});
  EXPECT_EQ(evicted.status.ToString(), "exit 1");
  EXPECT_NE(evicted.errors.find("freeze"), std::string::npos) << evicted.errors;
  EXPECT_EQ(CountReadable(), kPages);
}

TEST_F(Debugger, AFrozenProgramIsManagedAsBefore) {
  Start();
  for (int round = 0; round < 3; ++round) {
    daemon_.CtlJson({"thaw", Pid(), "--json"});
    daemon_.CtlJson({"freeze", Pid(), "--json"});
    WaitUntil("the program to be frozen", kAnswerTimeout,
              [&] { return daemon_.Process(child_->pid()).at("state") == "attached"; });
    EvictAtLeast(daemon_, *child_, kPages * 9 / 10);
    ExpectOk(*child_, "verify");
  }
}

TEST_F(Debugger, AThawedProgramCanBeDrained) {
  Start();
  daemon_.CtlJson({"thaw", Pid(), "--json"});
  daemon_.Drain(child_->pid());
  ExpectOk(*child_, "verify");
}

TEST_F(Debugger, ADumpAfterAbortHoldsEveryPage) { ExpectWholeDump("abort", SIGABRT); }
TEST_F(Debugger, ADumpAfterACrashHoldsEveryPage) { ExpectWholeDump("crash", SIGSEGV); }
TEST_F(Debugger, ADumpAfterASignalHoldsEveryPage) {
  ExpectWholeDump("send itself a signal", SIGQUIT);
}

}  // namespace
}  // namespace zmem
