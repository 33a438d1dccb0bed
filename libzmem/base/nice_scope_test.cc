#include "libzmem/base/nice_scope.h"

#include <gtest/gtest.h>
#include <linux/capability.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <thread>

namespace zmem {
namespace {

int Nice() { return getpriority(PRIO_PROCESS, 0); }

bool MayBeLessNice() {
  bool may = false;
  std::thread([&may] {
    int before = Nice();
    setpriority(PRIO_PROCESS, 0, before + 1);
    may = setpriority(PRIO_PROCESS, 0, before) == 0;
  }).join();
  return may;
}

TEST(NiceScopeTest, TheThreadIsNiceWithinAndNoOtherIs) {
  if (!MayBeLessNice()) GTEST_SKIP() << "neither CAP_SYS_NICE nor RLIMIT_NICE";
  int before = Nice();
  {
    NiceScope scope(true);
    EXPECT_EQ(Nice(), std::min(before + 10, 19));
    pid_t self = static_cast<pid_t>(syscall(SYS_gettid));
    std::thread([before, self] {
      // Threads begin with their maker's.
      EXPECT_EQ(getpriority(PRIO_PROCESS, static_cast<id_t>(self)), Nice());
      setpriority(PRIO_PROCESS, 0, before);
      EXPECT_NE(getpriority(PRIO_PROCESS, static_cast<id_t>(self)), Nice());
    }).join();
  }
  EXPECT_EQ(Nice(), before);
}

TEST(NiceScopeTest, NotWantedNothingChanges) {
  int before = Nice();
  NiceScope scope(false);
  EXPECT_EQ(Nice(), before);
}

// In a process of its own: what it may do is asked once.
TEST(NiceScopeDeathTest, WhoCouldNotComeBackStaysAsItIs) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  auto try_it = [] {
    rlimit none{};
    setrlimit(RLIMIT_NICE, &none);
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct no_capabilities[2] = {};
    syscall(SYS_capset, &header, no_capabilities);
    int before = Nice();
    NiceScope scope(true);
    std::exit(MayBeLessNice() ? 2 : Nice() == before ? 0 : 1);
  };
  EXPECT_EXIT(try_it(), testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace zmem
