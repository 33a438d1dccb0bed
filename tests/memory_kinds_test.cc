// Memory of other kinds than the ordinary: locked, protected, guarded, huge, merged, pinned,
// generated, reserved, in pieces, shared with a child, served by the program itself. Taking pages
// out must neither change what such memory holds nor what it is. The numbers are those of the
// kernel hazards that the design rests on.
#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "tests/kernel_setting.h"
#include "tests/system_test.h"

namespace zmem {
namespace {

using std::chrono::seconds;

constexpr int64_t kMib = int64_t{1} << 20;
constexpr int64_t kLeastOut = 7000;  // of the 8,192 pages of programs/memory_kinds.cc

// The number after `name` in a file of lines "name: number" or "name number"; 0 without one.
int64_t Field(const std::string& path, const std::string& name) {
  std::ifstream file(path);
  std::string word;
  int64_t number = 0;
  while (file >> word) {
    if (word == name || word == name + ":") {
      file >> number;
      return number;
    }
  }
  return 0;
}

int64_t StatusBytes(pid_t pid, const std::string& name) {
  return Field(absl::StrCat("/proc/", pid, "/status"), name) * 1024;
}

// A sum over all mappings, such as Pss or AnonHugePages.
int64_t RollupBytes(pid_t pid, const std::string& name) {
  return Field(absl::StrCat("/proc/", pid, "/smaps_rollup"), name) * 1024;
}

int64_t CountMappings(pid_t pid) {
  std::ifstream maps(absl::StrCat("/proc/", pid, "/maps"));
  int64_t lines = 0;
  for (std::string line; std::getline(maps, line);) ++lines;
  return lines;
}

class MemoryKinds : public SystemTest {
 protected:
  void Start(const std::vector<std::string>& flags = {}) {
    std::vector<std::string> arguments = {"--directory", daemon_.directory().path()};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    child_ = std::make_unique<Child>(Managed(daemon_, Subject("memory_kinds", arguments)));
    WaitReady(daemon_, *child_);
  }
  void StartAndEvict(const std::vector<std::string>& flags = {}) {
    Start(flags);
    EvictAtLeast(daemon_, *child_, kLeastOut);
  }

  void ExpectDone(const std::string& command) {
    EXPECT_EQ(child_->Ask(command, kAnswerTimeout), "ok") << command << "\n" << child_->errors();
  }

  void TearDown() override {
    if (child_ == nullptr) return;
    ExpectDone("verify");
    if (again_at_end_ > 0) EvictAtLeast(daemon_, *child_, again_at_end_);
    ExpectDone("verify");
    daemon_.Stop();
    child_->CloseInput();
    EXPECT_TRUE(child_->Wait(kAnswerTimeout).Succeeded()) << child_->errors();
  }

  pid_t pid() const { return child_->pid(); }

  Daemon daemon_;
  std::unique_ptr<Child> child_;
  int64_t again_at_end_ = kLeastOut;  // what must go out when everything is as it was
};

// ---- locked ----

TEST_F(MemoryKinds, LockedMemoryComesBackAndStays) {
  StartAndEvict();
  ExpectDone("lock all");
  ExpectDone("all present");
  daemon_.Evict(pid());
  ExpectDone("all present");
  ExpectDone("verify");
  ExpectDone("unlock all");
  EXPECT_EQ(StatusBytes(pid(), "VmLck"), 0);
}

TEST_F(MemoryKinds, LockingAllMemoryDoesNotFillTheStagingArea) {
  Start();
  int64_t before = ResidentBytes(pid());
  EvictAtLeast(daemon_, *child_, kLeastOut);
  ExpectDone("lock all");
  EXPECT_LE(ResidentBytes(pid()), before + 16 * kMib);
  ExpectDone("unlock all");
}

TEST_F(MemoryKinds, LockingOnFaultLeavesPagesOutUntilTheyAreTouched) {
  StartAndEvict();
  ExpectDone("lock all on fault");
  EXPECT_LT(ResidentBytes(pid()), 24 * kMib);
  ExpectDone("verify");
  daemon_.Evict(pid());
  ExpectDone("all present");
  ExpectDone("unlock all");
}

// It may be left alone altogether: there is nothing in it to take.
TEST_F(MemoryKinds, AProgramThatLocksEverythingFromTheStartKeepsItsSize) {
  std::vector<std::string> program = Subject("memory_kinds", {"--lock-future"});
  child_ = std::make_unique<Child>(Managed(daemon_, program));
  EXPECT_EQ(child_->ReadLine(kAnswerTimeout), "ready");
  WaitUntil("the program to be attached, or libzmem.so to say why not", seconds(20),
            [&] { return daemon_.Attached(pid()) || !child_->errors().empty(); });
  EXPECT_LE(ResidentBytes(pid()), 32 * kMib + 24 * kMib);
  daemon_.Ctl({"evict", absl::StrCat(pid())});
  ExpectDone("all present");
  ExpectDone("verify");
  again_at_end_ = 0;
}

// ---- protected (13) ----

TEST_F(MemoryKinds, ProtectionsHoldForPagesThatAreOut) {
  StartAndEvict();
  for (const char* protection : {"none", "read", "execute", "all", "none", "write", "execute",
                                 "write", "read", "none", "all", "read", "write"}) {
    ExpectDone(absl::StrCat("protect ", protection));
    daemon_.Evict(pid());
  }
}

// ---- guarded (11) ----

TEST_F(MemoryKinds, PagesThatWereGuardedForAMomentReadAsZeros) {
  StartAndEvict();
  ExpectDone("guard for a moment");
}

TEST_F(MemoryKinds, ReadaheadStopsAtGuards) {
  StartAndEvict();
  ExpectDone("guard between");
  daemon_.Evict(pid());
  ExpectDone("read around guards");
  ExpectDone("unguard");
}

// ---- huge (17) ----

int64_t SplitHugePages() { return Field("/proc/vmstat", "thp_split_page"); }

TEST_F(MemoryKinds, AHugePageGoesOutWhole) {
  Start({"--huge"});
  int64_t huge = RollupBytes(pid(), "AnonHugePages");
  if (huge < 24 * kMib) GTEST_SKIP() << "the kernel gave only " << huge << " bytes of huge pages";
  int64_t before = SplitHugePages();
  EvictAtLeast(daemon_, *child_, kLeastOut);
  EXPECT_EQ(RollupBytes(pid(), "AnonHugePages"), 0);
  // Splitting one costs more than compressing it. The last of the region may share its chunk.
  EXPECT_LE(SplitHugePages() - before, 2);
  ExpectDone("verify");
}

// One that is touched on probation comes back as it was, and is not taken apart for it.
TEST_F(MemoryKinds, AHotHugePageStaysHuge) {
  daemon_.Stop();
  Daemon probing({.config = "[policy]\ncold_age=300ms\nscan_interval=100ms\nmin_resident=1M\n"});
  Child child(Managed(
      probing, Subject("memory_kinds", {"--directory", daemon_.directory().path(), "--huge"})));
  WaitReady(probing, child);
  if (RollupBytes(child.pid(), "AnonHugePages") < 24 * kMib) {
    GTEST_SKIP() << "the kernel gave too few huge pages";
  }
  constexpr int64_t kOnProbation = 16 * kMib;
  WaitUntil("huge pages to be on probation", seconds(30), [&] {
    return probing.Process(child.pid()).at("staged_pages").get<int64_t>() * 4096 >= kOnProbation;
  });
  int64_t huge = RollupBytes(child.pid(), "AnonHugePages");  // those in the staging area too
  EXPECT_EQ(child.Ask("verify", kAnswerTimeout), "ok");
  probing.Drain(child.pid());  // and with it goes the staging area
  EXPECT_GE(RollupBytes(child.pid(), "AnonHugePages"), huge - kOnProbation / 4);
  probing.Stop();
  child.CloseInput();
  EXPECT_TRUE(child.Wait(kAnswerTimeout).Succeeded()) << child.errors();
}

// ---- merged ----

TEST_F(MemoryKinds, MergedPagesStayRightAndApart) {
  KernelSetting run("/sys/kernel/mm/ksm/run", "1");
  KernelSetting eager("/sys/kernel/mm/ksm/pages_to_scan", "20000");
  Start();
  ExpectDone("map twins");
  std::string merged_file = absl::StrCat("/proc/", pid(), "/ksm_stat");
  WaitUntil("pages to be merged", seconds(30),
            [&] { return Field(merged_file, "ksm_merging_pages") > 4000; });
  daemon_.Evict(pid());
  ExpectDone("verify twins");
  ExpectDone("rewrite twins");
  daemon_.Evict(pid());
  ExpectDone("verify twins");
  daemon_.Evict(pid());
  ExpectDone("rewrite twins");
}

// ---- pinned (14) ----

TEST_F(MemoryKinds, AReadInFlightLandsInItsRegisteredPages) {
  StartAndEvict();
  ExpectDone("start fixed read");
  for (int round = 0; round < 3; ++round) daemon_.Evict(pid());
  ExpectDone("finish fixed read");
}

TEST_F(MemoryKinds, DirectReadsLandInPagesThatAreBeingTaken) {
  StartAndEvict();
  ExpectDone("start direct reads");
  for (int round = 0; round < 30; ++round) daemon_.Evict(pid());
  ExpectDone("stop direct reads");
}

// ---- generated code ----

TEST_F(MemoryKinds, GeneratedCodeRunsThoughItWasOut) {
  Start();
  for (int round = 0; round < 3; ++round) {
    ExpectDone("write code");
    EvictAtLeast(daemon_, *child_, kLeastOut + 900);
    ExpectDone("run code");
    daemon_.Evict(pid());
    ExpectDone("run code");
  }
}

// ---- reserved, and in pieces (17) ----

TEST_F(MemoryKinds, HugeReservesCostNothing) {
  Start();
  int64_t daemon_before = ResidentBytes(daemon_.pid());
  ExpectDone("map reserve");
  auto start = std::chrono::steady_clock::now();
  EvictAtLeast(daemon_, *child_, kLeastOut + 3000);  // of 4,096 more
  EXPECT_LT(std::chrono::steady_clock::now() - start, seconds(10));
  EXPECT_LT(ResidentBytes(daemon_.pid()) - daemon_before, 64 * kMib);  // 48 MiB, compressed
  ExpectDone("verify reserve");
  daemon_.Evict(pid());
  start = std::chrono::steady_clock::now();
  ExpectDone("unmap reserve");
  EXPECT_LT(std::chrono::steady_clock::now() - start, seconds(5));
}

TEST_F(MemoryKinds, ManyMappingsStayAsManyAsTheyWere) {
  Start();
  ExpectDone("map pieces");
  int64_t mappings = CountMappings(pid());
  ASSERT_GT(mappings, 20'000);
  auto start = std::chrono::steady_clock::now();
  EvictAtLeast(daemon_, *child_, kLeastOut + 9000);  // half of the 20,000 are read-only
  EXPECT_LT(std::chrono::steady_clock::now() - start, seconds(30));
  EXPECT_LE(CountMappings(pid()), mappings + 64);
  ExpectDone("map more pieces");
  ExpectDone("verify pieces");
  daemon_.Evict(pid());
  ExpectDone("verify pieces");
}

// ---- shared with a child (15) ----

TEST_F(MemoryKinds, WhatAChildSharesIsNotCopied) {
  Start();
  ExpectDone("fork sleeper");
  pid_t sleeper = std::stoi(child_->Ask("sleeper", kAnswerTimeout));
  WaitUntil("the child to be attached", seconds(20), [&] { return daemon_.Attached(sleeper); });
  for (int round = 0; round < 2; ++round) {
    daemon_.Evict(pid());
    daemon_.Evict(sleeper);
    EXPECT_LT(RollupBytes(pid(), "Pss") + RollupBytes(sleeper, "Pss"), 48 * kMib);
  }
  ExpectDone("verify");
  ExpectDone("end sleeper");
}

TEST_F(MemoryKinds, AChildSharesNothingWithWhatWasOut) {
  StartAndEvict();
  ExpectDone("fork sleeper");
  pid_t sleeper = std::stoi(child_->Ask("sleeper", kAnswerTimeout));
  WaitUntil("the child to be attached", seconds(20), [&] { return daemon_.Attached(sleeper); });
  ExpectDone("verify");
  ExpectDone("rewrite");
  daemon_.Evict(sleeper);
  daemon_.Evict(pid());
  ExpectDone("end sleeper");
}

// ---- served by the program itself ----

TEST_F(MemoryKinds, AProgramsOwnUserfaultfdIsLeftAlone) {
  Start();
  ExpectDone("serve own faults");
  for (int round = 0; round < 3; ++round) {
    daemon_.Evict(pid());
    ExpectDone("verify own faults");
  }
}

// A mapping has room for one userfaultfd, and zmem's is there first: it makes way, and comes back
// for the rest.
class MemoryKindsTakenOver : public MemoryKinds {
 protected:
  static constexpr int64_t kTakenOver = 3000;  // pages
  static constexpr int64_t kMoreTakenOver = 1000;
  static constexpr int64_t kInAll = 8192 + 192;  // with what the program has beside its region

  void ComeBackAndEvict(int64_t all_but) {
    WaitAttached(daemon_, *child_);
    EvictAtLeast(daemon_, *child_, kLeastOut - all_but);
    EXPECT_LE(Stored(daemon_, *child_), kInAll - all_but) << "of the program's own range";
  }
  // How often zmem has let go of the program.
  int64_t Detachments() {
    std::string log = daemon_.log();
    std::string line = absl::StrCat("PID ", pid(), " detached");
    int64_t count = 0;
    for (size_t at = 0; (at = log.find(line, at)) != std::string::npos; ++at) ++count;
    return count;
  }
};

TEST_F(MemoryKindsTakenOver, AProgramsOwnUserfaultfdMayTakeManagedMemory) {
  StartAndEvict();
  ExpectDone("take over");
  ExpectDone("verify");
  ComeBackAndEvict(kTakenOver);
  ExpectDone("drop what was taken over");
  ExpectDone("verify");
  ComeBackAndEvict(kTakenOver);
  EXPECT_EQ(Detachments(), 1);
  again_at_end_ = kLeastOut - kTakenOver;
}

TEST_F(MemoryKindsTakenOver, AndMoreOfIt) {
  StartAndEvict();
  ExpectDone("take over");
  ComeBackAndEvict(kTakenOver);
  ExpectDone("take over more");
  ComeBackAndEvict(kTakenOver + kMoreTakenOver);
  ExpectDone("drop what was taken over");
  ExpectDone("drop more of what was taken over");
  EXPECT_EQ(Detachments(), 2);
  again_at_end_ = kLeastOut - kTakenOver - kMoreTakenOver;
}

TEST_F(MemoryKindsTakenOver, ByManyThreadsAtOnce) {
  constexpr int kRounds = 3;  // it comes back later each time
  StartAndEvict();
  for (int round = 0; round < kRounds; ++round) {
    ExpectDone("take over from many threads");
    ComeBackAndEvict(kTakenOver);
    ExpectDone("drop what was taken over");
    ExpectDone("let go");
  }
  again_at_end_ = 0;
}

TEST_F(MemoryKindsTakenOver, WhatIsSomebodyElsesIsStillRefused) {
  StartAndEvict();
  ExpectDone("take over");
  ComeBackAndEvict(kTakenOver);
  EXPECT_EQ(child_->Ask("take over twice", kAnswerTimeout),
            absl::StrCat("UFFDIO_REGISTER: ", strerror(EBUSY)));
  ComeBackAndEvict(kTakenOver);
  ExpectDone("drop what was taken over");
  EXPECT_EQ(Detachments(), 2);
  again_at_end_ = kLeastOut - kTakenOver;
}

}  // namespace
}  // namespace zmem
