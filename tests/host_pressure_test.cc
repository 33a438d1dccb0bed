// Programs in mode pressure: what they have goes out when the host is short of memory, and only
// then. The marks say whether it is.
#include <chrono>
#include <thread>

#include "tests/system_test.h"

namespace zmem {
namespace {

using HostPressure = SystemTest;

constexpr int64_t kMib = 64;
constexpr int64_t kPages = kMib * 256;

DaemonOptions WithMarks(const std::string& low, const std::string& high) {
  return {.config =
              "[policy]\nmode=pressure\ncold_age=1h\nscan_interval=1h\nmin_resident=1M\n"
              "available_low_percent=" +
              low + "\navailable_high_percent=" + high + "\n"};
}

// Waits until `is_so`; what it waits for is a second's turn of the daemon.
template <typename Condition>
bool Await(Condition is_so) {
  auto deadline = std::chrono::steady_clock::now() + kAnswerTimeout;
  while (!is_so()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  return true;
}

TEST_F(HostPressure, PagesGoOutOfAProgramWhenTheHostIsShortAndAreStillThere) {
  Daemon daemon(WithMarks("100", "100"));  // no host has all of its memory available
  Child child(Managed(daemon, Subject("pages", {"--mib", std::to_string(kMib)})));
  WaitReady(daemon, child);
  EXPECT_TRUE(Await([&] { return Stored(daemon, child) >= kPages * 9 / 10; }));
  nlohmann::json host = daemon.Status().at("host");
  EXPECT_EQ(host.at("reclaim_mode"), "pressure");
  EXPECT_TRUE(host.at("is_short"));
  EXPECT_EQ(host.at("shortages"), 1);
  EXPECT_EQ(host.at("squeezed_processes"), 1);
  EXPECT_GE(host.at("asked_pages"), kPages * 9 / 10);
  EXPECT_GT(host.at("available_bytes"), 1 << 20);
  EXPECT_LT(host.at("available_bytes"), host.at("high_bytes"));
  ExpectOk(child, "verify");
}

TEST_F(HostPressure, NothingGoesOutWhileTheHostHasEnough) {
  Daemon daemon(WithMarks("0", "0"));
  Child child(Managed(daemon, Subject("pages", {"--mib", std::to_string(kMib)})));
  WaitReady(daemon, child);
  EXPECT_TRUE(Await([&] { return daemon.Status().at("host").at("squeezed_processes") == 1; }));
  nlohmann::json host = daemon.Status().at("host");
  EXPECT_FALSE(host.at("is_short"));
  EXPECT_EQ(host.at("asked_pages"), 0);
  EXPECT_EQ(daemon.Process(child.pid()).at("isolated_pages"), 0);
}

TEST_F(HostPressure, AProgramInAnotherModeIsNotAsked) {
  Daemon daemon({.config = std::string(kEvictByHand) +
                           "available_low_percent=100\navailable_high_percent=100\n"});
  Child child(Managed(daemon, Subject("pages", {"--mib", std::to_string(kMib)})));
  WaitReady(daemon, child);
  std::this_thread::sleep_for(std::chrono::seconds(2));  // a turn passes, and nothing tells of it
  nlohmann::json host = daemon.Status().at("host");
  EXPECT_EQ(host.at("squeezed_processes"), 0);
  EXPECT_EQ(host.at("asked_pages"), 0);
  EXPECT_FALSE(host.at("watches_stalls"));
  EXPECT_EQ(Stored(daemon, child), 0);
}

}  // namespace
}  // namespace zmem
