#include "zmemd/host_pressure.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "zmemd/pressure_thread.h"

namespace zmem {
namespace {

constexpr int64_t kSecondNs = 1'000'000'000;
constexpr uint64_t kRamPages = 1'000'000;
constexpr uint64_t kLow = kRamPages / 100 * 10;
constexpr uint64_t kHigh = kRamPages / 100 * 15;

struct FakeProgram {
  uint64_t resident_pages = 0;
  uint64_t cold_pages = 0;
  int64_t taken_pages = 0;
  int wakes = 0;
  std::shared_ptr<std::atomic<int64_t>> wanted_pages = std::make_shared<std::atomic<int64_t>>(0);

  int64_t wanted() const { return *wanted_pages; }
  // As its reclaimer does.
  void TakeOut(int64_t pages) {
    *wanted_pages -= pages;
    taken_pages += pages;
  }
  // The same when there is nothing to take.
  void GiveUp() const { *wanted_pages = 0; }
};

class HostPressureTest : public testing::Test {
 protected:
  HostPressureTest() {
    EXPECT_NE(mkdtemp(directory_), nullptr);
    options_.pressure_path = std::string(directory_) + "/pressure";
    options_.meminfo_path = std::string(directory_) + "/meminfo";
    std::ofstream(options_.pressure_path) << "some avg10=0.00\n";
    SetAvailable(kRamPages / 2);
  }
  ~HostPressureTest() override { std::filesystem::remove_all(directory_); }

  void SetAvailable(uint64_t pages) {
    std::ofstream(options_.meminfo_path)
        << "MemTotal:       " << kRamPages * 4 << " kB\nMemFree:        1 kB\n"
        << "MemAvailable:   " << pages * 4 << " kB\nBuffers:        7 kB\n";
  }
  FakeProgram& AddProgram(uint64_t resident_pages, uint64_t cold_pages) {
    programs_.push_back(std::make_unique<FakeProgram>());
    programs_.back()->resident_pages = resident_pages;
    programs_.back()->cold_pages = cold_pages;
    return *programs_.back();
  }
  HostPressure& pressure() {
    if (pressure_ == nullptr) {
      pressure_ = std::make_unique<HostPressure>(options_, clock_, [this] { return Programs(); });
    }
    return *pressure_;
  }
  // A second passes.
  void Turn(short trigger_events = 0) {
    clock_.Advance(kSecondNs);
    pressure().Turn(trigger_events);
  }
  void Turns(int count) {
    for (int i = 0; i < count; ++i) Turn();
  }

  std::vector<SqueezedProgram> Programs() {
    std::vector<SqueezedProgram> squeezed;
    for (const std::unique_ptr<FakeProgram>& program : programs_) {
      FakeProgram* raw = program.get();
      squeezed.push_back({.cold_pages = raw->cold_pages,
                          .resident_pages = [raw] { return raw->resident_pages; },
                          .taken_pages = raw->taken_pages,
                          .wanted_pages = raw->wanted_pages,
                          .wake = [raw] { ++raw->wakes; }});
    }
    return squeezed;
  }

  char directory_[32] = "/tmp/host-pressure-XXXXXX";
  HostPressure::Options options_;
  FakeClock clock_;
  std::vector<std::unique_ptr<FakeProgram>> programs_;
  std::unique_ptr<HostPressure> pressure_;
};

TEST_F(HostPressureTest, AsksForWhatIsMissingOfTheColdestProgramsFirst) {
  FakeProgram& lukewarm = AddProgram(100'000, 40'000);
  FakeProgram& cold = AddProgram(30'000, 27'000);
  FakeProgram& hot = AddProgram(200'000, 20'000);
  SetAvailable(kLow);
  Turn();
  EXPECT_EQ(cold.wanted() + lukewarm.wanted() + hot.wanted(), 0) << "at the mark, not below it";
  SetAvailable(kLow - 1);
  Turn();
  EXPECT_EQ(cold.wanted(), 27'000);
  EXPECT_EQ(lukewarm.wanted(), 50'001 - 27'000);
  EXPECT_EQ(hot.wanted(), 0);
  EXPECT_EQ(cold.wakes, 1);
  EXPECT_EQ(lukewarm.wakes, 1);
  EXPECT_EQ(hot.wakes, 0);
  HostPressure::Stats stats = pressure().stats();
  EXPECT_EQ(stats.asked_pages, 50'001u);
  EXPECT_EQ(stats.wanted_pages, 50'001u);
  EXPECT_EQ(stats.shortages, 1u);
  EXPECT_EQ(stats.programs, 3u);
  EXPECT_TRUE(stats.is_short);
}

TEST_F(HostPressureTest, BelowTheLowMarkWarmPagesAreAskedForToo) {
  FakeProgram& cold = AddProgram(10'000, 10'000);
  FakeProgram& one = AddProgram(30'000, 0);
  FakeProgram& other = AddProgram(95'000, 5'000);
  SetAvailable(kLow - 10'000);  // 60,000 are missing
  Turn();
  EXPECT_EQ(cold.wanted(), 10'000);
  EXPECT_EQ(one.wanted(), 45'000 / 4);
  EXPECT_EQ(other.wanted(), 5'000 + 45'000 * 3 / 4);
  // Never more than a program has.
  one.TakeOut(one.wanted());
  other.TakeOut(other.wanted());
  cold.TakeOut(cold.wanted());
  cold.resident_pages = cold.cold_pages = 0;
  one.resident_pages = 100;
  other.resident_pages = other.cold_pages = 50;
  Turn();
  EXPECT_EQ(cold.wanted(), 0);
  EXPECT_EQ(one.wanted(), 100);
  EXPECT_EQ(other.wanted(), 50);
}

TEST_F(HostPressureTest, AStallCountsBelowTheHighMarkAndAsksForColdPagesAlone) {
  FakeProgram& program = AddProgram(100'000, 1'000);
  SetAvailable(kHigh);
  Turn(POLLPRI);
  EXPECT_EQ(program.wanted(), 0) << "stalls that taking pages here would not end";
  SetAvailable(kHigh - 30'000);
  Turn();
  EXPECT_EQ(program.wanted(), 0) << "no stall, and not below the low mark";
  Turn(POLLPRI);
  EXPECT_EQ(program.wanted(), 1'000);
  EXPECT_EQ(pressure().stats().stall_events, 2u);
  EXPECT_EQ(pressure().stats().shortages, 1u);
}

TEST_F(HostPressureTest, AboveTheHighMarkDemandsAreTakenBack) {
  FakeProgram& program = AddProgram(200'000, 200'000);
  SetAvailable(kLow - 1);
  Turn();
  program.TakeOut(20'000);
  SetAvailable(kLow + 20'000);
  Turn();
  EXPECT_EQ(program.wanted(), 30'001) << "between the marks the demand stands";
  SetAvailable(kHigh);
  Turn();
  EXPECT_EQ(program.wanted(), 0);
  EXPECT_FALSE(pressure().stats().is_short);
  EXPECT_EQ(pressure().stats().wanted_pages, 0u);
  SetAvailable(kLow);
  Turns(10);
  EXPECT_EQ(program.wanted(), 0) << "it is short again only below the low mark";
}

TEST_F(HostPressureTest, AsksAgainWhenTheDemandIsMet) {
  FakeProgram& program = AddProgram(200'000, 200'000);
  SetAvailable(kLow - 1);
  Turn();
  Turn();
  EXPECT_EQ(program.wanted(), 50'001) << "not added to while it is being met";
  EXPECT_EQ(program.wakes, 1);
  program.TakeOut(50'003);       // the last chunk had more
  SetAvailable(kHigh - 20'000);  // what came out needs room in the pool
  Turn();
  EXPECT_EQ(program.wanted(), 20'000);
  EXPECT_EQ(program.wakes, 2);
  EXPECT_EQ(pressure().stats().asked_pages, 70'001u);
}

TEST_F(HostPressureTest, ADemandMetInPartIsMadeAnewAfterFiveSeconds) {
  FakeProgram& program = AddProgram(200'000, 200'000);
  SetAvailable(kLow - 1);
  Turn();
  program.TakeOut(10'001);
  SetAvailable(kLow - 10'000);
  Turns(4);
  EXPECT_EQ(program.wanted(), 40'000);
  Turn();
  EXPECT_EQ(program.wanted(), 60'000);
}

TEST_F(HostPressureTest, BacksOffWhenNothingComesUntilSomethingDoes) {
  FakeProgram& program = AddProgram(200'000, 200'000);
  SetAvailable(kLow - 1);
  auto seconds_until = [&](bool wanted) {
    int seconds = 0;
    for (; (program.wanted() > 0) != wanted && seconds < 1000; ++seconds) Turn();
    return seconds;
  };
  seconds_until(true);
  // 5 s for the demand, then twice as long in peace, and as long again for the next demand.
  EXPECT_EQ(seconds_until(false), 5);
  EXPECT_EQ(seconds_until(true), 10);
  EXPECT_EQ(seconds_until(false), 10);
  EXPECT_EQ(seconds_until(true), 20);
  EXPECT_EQ(seconds_until(false), 20);
  for (int i = 0; i < 4; ++i) {
    seconds_until(true);
    seconds_until(false);
  }
  EXPECT_EQ(seconds_until(true), 60);
  program.TakeOut(program.wanted());
  Turn();  // asks again at once
  EXPECT_EQ(seconds_until(false), 5);
}

TEST_F(HostPressureTest, AReclaimerThatFindsNothingIsNotAskedEverySecond) {
  FakeProgram& program = AddProgram(200'000, 200'000);
  SetAvailable(kLow - 1);
  Turn();
  program.TakeOut(512);  // of 50,001
  program.GiveUp();
  Turns(10);
  EXPECT_EQ(program.wakes, 1);
  Turn();
  EXPECT_EQ(program.wakes, 2);
}

TEST_F(HostPressureTest, AReclaimerThatFindsSomeIsAskedForTheRestAtOnce) {
  FakeProgram& program = AddProgram(200'000, 200'000);
  SetAvailable(kLow - 1);
  Turn();
  program.TakeOut(2048);
  program.GiveUp();
  SetAvailable(kLow + 2000);
  Turn();
  EXPECT_EQ(program.wanted(), 48'000);
}

TEST_F(HostPressureTest, ADemandIsSmallEnoughToBeTakenBack) {
  options_.available_high_percent = 90;
  FakeProgram& cold = AddProgram(100'000, 100'000);
  FakeProgram& warm = AddProgram(500'000, 0);
  SetAvailable(kLow - 1);
  Turn();
  EXPECT_EQ(cold.wanted(), 100'000);
  EXPECT_EQ(warm.wanted(), (128 << 10) - 100'000);
}

TEST_F(HostPressureTest, AProgramThatGivesNoPagesAnyMoreIsNotAskedAnyMore) {
  std::shared_ptr<std::atomic<int64_t>> wanted = AddProgram(200'000, 200'000).wanted_pages;
  SetAvailable(kLow - 1);
  Turn();
  EXPECT_GT(*wanted, 0);
  programs_.clear();
  Turn();
  EXPECT_EQ(*wanted, 0);
  EXPECT_EQ(pressure().stats().programs, 0u);
}

TEST_F(HostPressureTest, AProgramThatEndedIsForgotten) {
  AddProgram(200'000, 200'000);
  SetAvailable(kLow - 1);
  Turn();
  programs_.clear();
  FakeProgram& other = AddProgram(60'000, 60'000);
  Turn();
  EXPECT_EQ(other.wanted(), 50'001);
  EXPECT_EQ(pressure().stats().wanted_pages, 50'001u);
}

TEST_F(HostPressureTest, TheTriggerIsSetUpWhileAProgramGivesPages) {
  Turn();
  EXPECT_EQ(pressure().trigger_fd(), -1);
  AddProgram(1, 1);
  Turn();
  EXPECT_GE(pressure().trigger_fd(), 0);
  EXPECT_TRUE(pressure().stats().watches_stalls);
  std::string text;
  ASSERT_TRUE(sys::ReadFile(options_.pressure_path, text).ok());
  EXPECT_EQ(text.substr(0, 20), std::string("some 200000 2000000\0", 20));
  programs_.clear();
  Turn();
  EXPECT_EQ(pressure().trigger_fd(), -1);
  EXPECT_FALSE(pressure().stats().watches_stalls);
}

// The default logger's lines while it lives.
class CapturedLog {
 public:
  CapturedLog() : before_(spdlog::default_logger()) {
    spdlog::set_default_logger(std::make_shared<spdlog::logger>(
        "test", std::make_shared<spdlog::sinks::ostream_sink_mt>(text_)));
  }
  ~CapturedLog() { spdlog::set_default_logger(before_); }
  size_t lines() const {
    std::string text = text_.str();
    return static_cast<size_t>(std::count(text.begin(), text.end(), '\n'));
  }
  std::string text() const { return text_.str(); }

 private:
  std::ostringstream text_;
  std::shared_ptr<spdlog::logger> before_;
};

TEST_F(HostPressureTest, WithoutStallInformationItGoesByWhatIsAvailableAndSaysSoOnce) {
  options_.pressure_path += "-missing";
  CapturedLog log;
  FakeProgram& program = AddProgram(200'000, 200'000);
  Turns(3);
  EXPECT_EQ(log.lines(), 1u) << log.text();
  EXPECT_NE(log.text().find(options_.pressure_path), std::string::npos) << log.text();
  EXPECT_FALSE(pressure().stats().watches_stalls);
  SetAvailable(kLow - 1);
  Turn();
  EXPECT_EQ(program.wanted(), 50'001);
}

TEST_F(HostPressureTest, ATriggerThatBreaksIsGivenUp) {
  CapturedLog log;
  AddProgram(1, 1);
  Turn();
  Turn(POLLERR | POLLPRI);
  Turn();
  EXPECT_EQ(pressure().trigger_fd(), -1);
  EXPECT_EQ(log.lines(), 1u) << log.text();
}

TEST_F(HostPressureTest, WhatTheKernelDoesNotTellIsNoShortage) {
  FakeProgram& program = AddProgram(200'000, 200'000);
  for (const char* text : {"", "MemTotal: 4000 kB\n", "MemTotal: x kB\nMemAvailable: y kB\n"}) {
    std::ofstream(options_.meminfo_path) << text;
    Turn(POLLPRI);
    EXPECT_EQ(program.wanted(), 0) << text;
  }
  std::filesystem::remove(options_.meminfo_path);
  Turn(POLLPRI);
  EXPECT_EQ(program.wanted(), 0);
  EXPECT_FALSE(pressure().ReadMemory().has_value());
}

TEST_F(HostPressureTest, AHighMarkBelowTheLowOneIsTheLowOne) {
  options_.available_low_percent = 30;
  FakeProgram& program = AddProgram(kRamPages, kRamPages);
  SetAvailable(kRamPages / 100 * 20);
  Turn();
  EXPECT_EQ(program.wanted(), static_cast<int64_t>(kRamPages / 100 * 10));
}

// The real files: this kernel has them, and takes our trigger.
TEST(HostPressureOfThisHost, ReadsMemoryAndStartsAndStops) {
  MonotonicClock clock;
  std::atomic<int> turns{0};
  auto wanted = std::make_shared<std::atomic<int64_t>>(0);
  HostPressure::Options options;
  options.available_low_percent = 0;  // whatever the machine has
  HostPressure pressure(options, clock, [&] {
    ++turns;
    return std::vector<SqueezedProgram>{
        {.resident_pages = [] { return uint64_t{0}; }, .wanted_pages = wanted, .wake = [] {}}};
  });
  ASSERT_TRUE(pressure.ReadMemory().has_value());
  EXPECT_GT(pressure.ReadMemory()->available_bytes, uint64_t{1} << 20);
  EXPECT_GT(pressure.ReadMemory()->high_bytes, uint64_t{1} << 20);
  // Only a kernel without PSI has no such file.
  bool has_stalls = std::filesystem::exists(options.pressure_path);
  {
    auto thread = PressureThread::Start(pressure);
    ASSERT_TRUE(thread.ok());
    while (turns < 2) std::this_thread::yield();
    EXPECT_EQ(pressure.stats().watches_stalls, has_stalls);
  }
  EXPECT_EQ(pressure.stats().asked_pages, 0u);
}

}  // namespace
}  // namespace zmem
