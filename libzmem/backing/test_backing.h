// Backing files for tests: a directory of their own, objects whose bytes follow from a key, and
// failures of the disk to order.
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "libzmem/backing/backing_file.h"
#include "libzmem/base/sys.h"

namespace zmem {

inline constexpr uint64_t kMib = uint64_t{1} << 20;

// A new directory on a disk, gone with all it holds when the test ends.
class TestDirectory {
 public:
  TestDirectory() {
    const char* parent = std::getenv("TEST_TMPDIR");
    path_ = std::string(parent != nullptr ? parent : "/var/tmp") + "/backing.XXXXXX";
    EXPECT_NE(mkdtemp(path_.data()), nullptr) << path_;
  }
  ~TestDirectory() { std::filesystem::remove_all(path_); }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// The nameless file with the data, opened again without direct I/O.
inline UniqueFd OpenData(const TestDirectory& directory) {
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code gone;
    std::string target = std::filesystem::read_symlink(entry.path(), gone).string();
    if (target.starts_with(directory.path()) && target.ends_with(" (deleted)")) {
      return UniqueFd(open(entry.path().c_str(), O_RDWR | O_CLOEXEC));
    }
  }
  ADD_FAILURE() << "no nameless file of " << directory.path() << " is open";
  return UniqueFd();
}

// Waits until `condition` holds, at most ten seconds. False if it never did.
template <typename Condition>
bool Await(Condition condition) {
  auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

inline std::unique_ptr<BackingFile> MustOpen(const BackingFile::Options& options) {
  auto file = BackingFile::Open(options);
  EXPECT_TRUE(file.ok()) << file.status();
  return file.ok() ? *std::move(file) : nullptr;
}

inline std::unique_ptr<DiskReader> MustHaveReader(BackingFile& file) {
  auto reader = file.NewReader();
  EXPECT_TRUE(reader.ok()) << reader.status();
  return *std::move(reader);
}

using Bytes = std::vector<std::byte>;

// Distinct keys give distinct bytes.
inline Bytes BytesOfKey(uint64_t key, size_t bytes) {
  Bytes content(bytes);
  uint64_t word = 0;
  for (size_t at = 0; at < bytes; ++at) {
    if (at % 8 == 0) word = (key + at * 0x100000001b3) * 0x9e3779b97f4a7c15;
    content[at] = static_cast<std::byte>(word >> (at % 8 * 8));
  }
  return content;
}

// What a test has appended.
struct Stored {
  DiskObject object;
  uint64_t key = 0;
};

inline std::optional<Stored> Store(BackingFile& file, uint64_t key, size_t bytes) {
  DiskHandle handle;
  if (file.Append(BytesOfKey(key, bytes), &handle) != AppendResult::kDone) return std::nullopt;
  return Stored{{handle, bytes}, key};
}

// Fills the file with objects of whole pages up to `most`, or until it is full.
inline std::vector<Stored> StoreMany(BackingFile& file, uint64_t first_key, size_t most) {
  std::vector<Stored> all;
  while (all.size() < most) {
    DiskHandle handle;
    uint64_t key = first_key + all.size();
    AppendResult result = file.Append(BytesOfKey(key, kPageBytes), &handle);
    if (result == AppendResult::kDone) {
      all.push_back({{handle, kPageBytes}, key});
    } else if (result == AppendResult::kBusy) {
      EXPECT_TRUE(file.Flush());
    } else {
      EXPECT_EQ(result, AppendResult::kFull);
      break;
    }
  }
  return all;
}

// Appends, waiting for the disk where Append does not.
inline Stored MustStore(BackingFile& file, uint64_t key, size_t bytes) {
  std::optional<Stored> stored = Store(file, key, bytes);
  if (!stored) {
    EXPECT_TRUE(file.Flush());
    stored = Store(file, key, bytes);
  }
  EXPECT_TRUE(stored.has_value()) << "key " << key;
  return stored.value_or(Stored{});
}

inline DiskReadStatus ReadNow(BackingFile& file, const Stored& stored, Bytes& out) {
  out.assign(stored.object.bytes, std::byte{0});
  return file.ReadNow(stored.object, out);
}

inline bool IsIntact(BackingFile& file, const Stored& stored) {
  Bytes out;
  return ReadNow(file, stored, out) == DiskReadStatus::kOk &&
         out == BytesOfKey(stored.key, stored.object.bytes);
}

// What came of one read through a reader.
struct ReadOutcome {
  DiskReadStatus status = DiskReadStatus::kOk;
  int error = 0;
  std::optional<Bytes> bytes;
};

inline bool AwaitReadable(const DiskReader& reader) {
  pollfd readable = {.fd = reader.fd(), .events = POLLIN};
  return sys::Poll(&readable, 1, 10'000) == 1;
}

// Reads one object as a fault thread would.
inline ReadOutcome ReadThrough(DiskReader& reader, DiskObject object) {
  ReadOutcome outcome;
  bool is_over = false;
  auto take = [&](const DiskReadResult& result) {
    is_over = true;
    outcome.status = result.status;
    outcome.error = result.error;
    if (auto bytes = result.Record(object)) outcome.bytes = Bytes(bytes->begin(), bytes->end());
  };
  EXPECT_NE(reader.Begin(DiskReadRequest::Of(object, 1)), DiskReader::BeginResult::kBusy);
  reader.Complete(take);
  while (!is_over && AwaitReadable(reader)) reader.Complete(take);
  EXPECT_TRUE(is_over);
  return outcome;
}

inline bool IsIntactThrough(DiskReader& reader, const Stored& stored) {
  ReadOutcome outcome = ReadThrough(reader, stored.object);
  return outcome.status == DiskReadStatus::kOk &&
         outcome.bytes == BytesOfKey(stored.key, stored.object.bytes);
}

// Fails transfers of one kind as long as it lives. The injector behind it lives on: the writing
// thread may be about to ask it.
class DiskTrouble {
 public:
  explicit DiskTrouble(sys::Call call) {
    static Injector injector;
    injector_ = &injector;
    injector.error.store(0);
    injector.failures_left.store(0);
    injector.most_bytes.store(SIZE_MAX);
    injector.seen.store(0);
    injector.failing_call.store(call);
    sys::SetFailureInjector(&injector);
  }
  ~DiskTrouble() { sys::SetFailureInjector(nullptr); }
  DiskTrouble(const DiskTrouble&) = delete;
  DiskTrouble& operator=(const DiskTrouble&) = delete;

  // The next `count` of them fail with `error`.
  void FailNext(uint64_t count, int error) {
    injector_->error.store(error);
    injector_->failures_left.store(count);
  }
  // Transfers are cut to `bytes` at most.
  void CutTo(size_t bytes) { injector_->most_bytes.store(bytes); }
  uint64_t seen() const { return injector_->seen.load(); }

 private:
  struct Injector : sys::FailureInjector {
    int ErrnoFor(sys::Call call, uint64_t) override {
      if (call != failing_call.load()) return 0;
      seen.fetch_add(1);
      uint64_t left = failures_left.load();
      while (left > 0 && !failures_left.compare_exchange_weak(left, left - 1)) {
      }
      return left > 0 ? error.load() : 0;
    }
    size_t BytesFor(sys::Call call, size_t bytes) override {
      return call == failing_call.load() ? std::min(bytes, most_bytes.load()) : bytes;
    }
    std::atomic<sys::Call> failing_call{sys::Call::kRead};
    std::atomic<int> error{0};
    std::atomic<uint64_t> failures_left{0};
    std::atomic<size_t> most_bytes{SIZE_MAX};
    std::atomic<uint64_t> seen{0};
  };

  Injector* injector_;
};

}  // namespace zmem
