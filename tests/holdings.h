// What a daemon holds for its programs, and that it lets go of it when they are gone.
#pragma once

#include <chrono>
#include <filesystem>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/harness.h"

namespace zmem {

// What the allocator keeps of what was freed: an arena for each of the threads there were at once.
inline constexpr int64_t kResidentSlackBytes = int64_t{16} << 20;
// The table of objects that relatives share keeps the size it had to have at some time.
inline constexpr int64_t kMetadataSlackBytes = int64_t{1} << 20;

inline size_t CountEntries(const std::string& directory) {
  size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(directory)) ++count;
  return count;
}

// What a daemon has and holds.
struct Holdings {
  size_t descriptors;
  size_t threads;
  size_t processes;
  int64_t objects;
  int64_t held_bytes;
  int64_t metadata_bytes;
  int64_t resident_bytes;

  // Counts before it asks: the connection that asks is something the daemon has.
  static Holdings Of(const Daemon& daemon) {
    Holdings now{};
    now.descriptors = CountEntries(absl::StrCat("/proc/", daemon.pid(), "/fd"));
    now.threads = CountEntries(absl::StrCat("/proc/", daemon.pid(), "/task"));
    now.resident_bytes = ResidentBytes(daemon.pid());
    nlohmann::json status = daemon.Status();
    now.processes = status.at("processes").size();
    now.objects = status.at("pool").at("objects");
    now.held_bytes = status.at("pool").at("held_bytes");
    now.metadata_bytes = status.at("metadata_bytes");
    return now;
  }

  bool NoMoreThan(const Holdings& other) const {
    return descriptors <= other.descriptors && threads <= other.threads &&
           processes <= other.processes && objects <= other.objects &&
           held_bytes <= other.held_bytes &&
           metadata_bytes <= other.metadata_bytes + kMetadataSlackBytes &&
           resident_bytes <= other.resident_bytes + kResidentSlackBytes;
  }

  std::string ToString() const {
    return absl::StrCat(descriptors, " descriptors, ", threads, " threads, ", processes,
                        " processes, ", objects, " objects, ", held_bytes, " bytes held, ",
                        metadata_bytes, " bytes of metadata, ", resident_bytes >> 10,
                        " KiB resident");
  }
};

// Waits until the daemon has no more than it had; what is freed is freed after programs ended.
// Returns what it has. Throws if it keeps something.
inline Holdings AwaitNoMoreThan(const Daemon& daemon, const Holdings& before) {
  Holdings now = Holdings::Of(daemon);
  try {
    WaitUntil("the daemon to have let go", std::chrono::seconds(20), [&] {
      now = Holdings::Of(daemon);
      return now.NoMoreThan(before);
    });
  } catch (const HarnessError& error) {
    throw HarnessError(
        absl::StrCat(error.what(), "\nbefore: ", before.ToString(), "\nnow:    ", now.ToString()));
  }
  return now;
}

}  // namespace zmem
