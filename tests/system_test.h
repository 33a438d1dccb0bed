// What whole-system tests share: a fixture that skips, saying why, where zmem cannot run at all,
// and the steps that most of them take.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <vector>

#include "tests/harness.h"

namespace zmem {

// Bound on what takes a subject program well under a second on an idle machine.
inline constexpr std::chrono::milliseconds kAnswerTimeout = std::chrono::seconds(60);

class SystemTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string why = WhyUnsupported();
    if (!why.empty()) GTEST_SKIP() << why;
  }
};

// The arguments of a subject program of tests/programs, found through runfiles.
inline std::vector<std::string> Subject(const std::string& name,
                                        std::vector<std::string> arguments = {}) {
  arguments.insert(arguments.begin(), Runfile("tests/programs/" + name));
  return arguments;
}

// Waits until a subject program has filled its memory and the daemon manages it.
inline void WaitReady(const Daemon& daemon, Child& child) {
  EXPECT_EQ(child.ReadLine(kAnswerTimeout), "ready");
  WaitAttached(daemon, child);
}

// Asks a subject program for something and expects that it went well.
inline void ExpectOk(Child& child, const std::string& command) {
  EXPECT_EQ(child.Ask(command, kAnswerTimeout).substr(0, 2), "ok") << command;
}

inline int64_t Stored(const Daemon& daemon, const Child& child) {
  return daemon.Process(child.pid()).at("stored_pages").get<int64_t>();
}

// Takes a program's pages out, and expects that at least `pages` of them really went.
inline void EvictAtLeast(const Daemon& daemon, const Child& child, int64_t pages) {
  daemon.Evict(child.pid());
  EXPECT_GE(Stored(daemon, child), pages);
}

}  // namespace zmem
