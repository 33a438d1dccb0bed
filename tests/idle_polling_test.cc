// While a program that has room gets its pages back one by one as fast as it can, the host's idle
// CPUs poll (base/cpu_latency.h), and afterwards they sleep again.
#include <fcntl.h>

#include <chrono>
#include <cstdint>
#include <thread>

#include "absl/strings/str_cat.h"
#include "libzmem/base/sys.h"
#include "tests/system_test.h"

namespace zmem {
namespace {

constexpr char kDevice[] = "/dev/cpu_dma_latency";
constexpr int kMib = 64;

// What all that ask for it agree on, in microseconds; -1 if the kernel does not say.
int32_t LatencyUs() {
  UniqueFd device(sys::Open(kDevice, O_RDONLY));
  int32_t latency = -1;
  return sys::Pread(device.get(), &latency, sizeof latency, 0) == sizeof latency ? latency : -1;
}

class IdlePolling : public SystemTest {
 protected:
  void SetUp() override {
    SystemTest::SetUp();
    if (IsSkipped()) return;
    if (std::thread::hardware_concurrency() < 2) GTEST_SKIP() << "there is one CPU only";
    if (LatencyUs() <= 0) GTEST_SKIP() << kDevice << " is not there, or somebody else holds it";
  }

  // Takes a program's pages out, and has it want them back.
  nlohmann::json Run(Daemon& daemon) {
    Child child(Managed(daemon, Subject("touches", {"--mib", std::to_string(kMib), "--seconds", "2",
                                                    "--threads", "1", "--seed", "1"})));
    WaitReady(daemon, child);
    EvictAtLeast(daemon, child, kMib * 256 * 9 / 10);
    child.Send("go");
    ExitStatus status = child.Wait(kAnswerTimeout);
    EXPECT_TRUE(status.Succeeded()) << status.ToString() << child.output() << child.errors();
    WaitPoolEmpty(daemon);
    return daemon.Status().at("host");
  }
};

TEST_F(IdlePolling, LastsAsLongAsPagesComeBackAndNoLonger) {
  Daemon daemon({.config = absl::StrCat(kEvictByHand, "idle_polling_max_cpus=1024\n")});
  nlohmann::json host = Run(daemon);
  EXPECT_GE(host.at("idle_pollings"), 1);
  EXPECT_GT(host.at("idle_polling_ns"), 1'000'000);
  EXPECT_LT(host.at("idle_polling_ns"), 2'500'000'000);
  EXPECT_GT(LatencyUs(), 0);
  daemon.Stop();
}

TEST_F(IdlePolling, IsNotWantedOnHostsOfMoreCpus) {
  Daemon daemon({.config = absl::StrCat(kEvictByHand, "idle_polling_max_cpus=1\n")});
  EXPECT_EQ(Run(daemon).at("idle_pollings"), 0);
  daemon.Stop();
}

}  // namespace
}  // namespace zmem
