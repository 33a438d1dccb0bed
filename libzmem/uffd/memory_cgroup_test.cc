#include "libzmem/uffd/memory_cgroup.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace zmem {
namespace {

constexpr uint64_t kMib = uint64_t{1} << 20;

// A directory that looks like a mounted cgroup hierarchy.
class MemoryCgroupTest : public testing::Test {
 protected:
  MemoryCgroupTest() : root_(testing::TempDir() + "/cgroups." + std::to_string(getpid())) {}
  ~MemoryCgroupTest() override { std::filesystem::remove_all(root_); }

  void Write(const std::string& cgroup, const std::string& file, const std::string& text) {
    std::filesystem::create_directories(root_ + cgroup);
    std::ofstream(root_ + cgroup + "/" + file) << text << "\n";
  }
  void Unified(const std::string& cgroup, const std::string& max, uint64_t current,
               uint64_t cache = 0) {
    Write(cgroup, "memory.max", max);
    Write(cgroup, "memory.current", std::to_string(current));
    Write(cgroup, "memory.stat", "anon 5\ninactive_file " + std::to_string(cache));
  }
  MemoryCgroup Find(const std::string& cgroup, const std::string& root = "/") {
    return MemoryCgroup::Parse(
        "12:pids:/elsewhere\n0::" + cgroup + "\n",
        "30 20 0:26 " + root + " " + root_ + " rw,nosuid shared:4 - cgroup2 cgroup2 rw\n");
  }

  const std::string root_;
};

TEST_F(MemoryCgroupTest, RoomIsWhatIsLeftBelowTheLimit) {
  Unified("/a", std::to_string(100 * kMib), 30 * kMib);
  MemoryCgroup cgroup = Find("/a");
  EXPECT_TRUE(cgroup.limited());
  EXPECT_EQ(cgroup.RoomBytes(), 70 * kMib);
}

TEST_F(MemoryCgroupTest, PageCacheIsRoom) {
  Unified("/a", std::to_string(100 * kMib), 100 * kMib, 40 * kMib);
  EXPECT_EQ(Find("/a").RoomBytes(), 40 * kMib);
}

TEST_F(MemoryCgroupTest, TheNearestLimitOfAllAncestorsCounts) {
  Unified("/a", std::to_string(50 * kMib), 45 * kMib);
  Unified("/a/b", "max", 10 * kMib);
  Unified("/a/b/c", std::to_string(100 * kMib), 10 * kMib);
  EXPECT_EQ(Find("/a/b/c").RoomBytes(), 5 * kMib);
}

TEST_F(MemoryCgroupTest, WithoutALimitThereIsNone) {
  Unified("/a", "max", 10 * kMib);
  EXPECT_FALSE(Find("/a").limited());
  EXPECT_EQ(Find("/a").RoomBytes(), MemoryCgroup::kNoLimit);
  EXPECT_EQ(Find("/gone").RoomBytes(), MemoryCgroup::kNoLimit);
  EXPECT_EQ(MemoryCgroup::Parse("", "").RoomBytes(), MemoryCgroup::kNoLimit);
}

TEST_F(MemoryCgroupTest, LimitsAreReadAfresh) {
  Unified("/a", "max", 10 * kMib);
  MemoryCgroup cgroup = Find("/a");
  EXPECT_FALSE(cgroup.limited());
  Write("/a", "memory.max", std::to_string(11 * kMib));
  EXPECT_EQ(cgroup.RoomBytes(), kMib);
}

// In a container the mount shows a part of the hierarchy.
TEST_F(MemoryCgroupTest, AMountOfAPartIsUnderstood) {
  Unified("/inner", std::to_string(20 * kMib), 5 * kMib);
  EXPECT_EQ(Find("/box/inner", "/box").RoomBytes(), 15 * kMib);
}

TEST_F(MemoryCgroupTest, Version1IsReadToo) {
  Write("/a", "memory.limit_in_bytes", std::to_string(64 * kMib));
  Write("/a", "memory.usage_in_bytes", std::to_string(60 * kMib));
  Write("/a", "memory.stat",
        "inactive_file 1\nactive_file 1\ntotal_inactive_file " + std::to_string(2 * kMib) +
            "\ntotal_active_file " + std::to_string(kMib));
  Write("", "memory.limit_in_bytes", "9223372036854771712");
  Write("", "memory.usage_in_bytes", "1");
  MemoryCgroup cgroup = MemoryCgroup::Parse(
      "4:cpu,memory:/a\n0::/x\n", "35 31 0:32 / " + root_ + " rw - cgroup cgroup rw,cpu,memory\n");
  EXPECT_EQ(cgroup.RoomBytes(), 7 * kMib);
}

TEST_F(MemoryCgroupTest, ThisProcessCanBeAsked) {
  MemoryCgroup cgroup = MemoryCgroup::Of(getpid());
  EXPECT_EQ(cgroup.RoomBytes() == MemoryCgroup::kNoLimit, !cgroup.limited());
  EXPECT_FALSE(MemoryCgroup::Of(1 << 30).limited());
}

}  // namespace
}  // namespace zmem
