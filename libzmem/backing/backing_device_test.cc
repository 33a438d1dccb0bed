// Block devices and a full disk, by loop devices: needs root.
#include <fcntl.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "libzmem/backing/test_backing.h"
#include "libzmem/base/page.h"

namespace zmem {
namespace {

// A loop device over a sparse file, detached when the test ends.
class LoopDevice {
 public:
  LoopDevice(const std::string& image, uint64_t size_bytes) {
    UniqueFd file(open(image.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    if (!file.valid() || ftruncate(file.get(), static_cast<off_t>(size_bytes)) != 0) return;
    UniqueFd control(open("/dev/loop-control", O_RDWR | O_CLOEXEC));
    if (!control.valid()) return;
    // Another process may take the same free one first.
    for (int attempt = 0; attempt < 8 && !device_.valid(); ++attempt) {
      path_ = "/dev/loop" + std::to_string(ioctl(control.get(), LOOP_CTL_GET_FREE));
      UniqueFd device(open(path_.c_str(), O_RDWR | O_CLOEXEC));
      if (device.valid() && ioctl(device.get(), LOOP_SET_FD, file.get()) == 0) {
        device_ = std::move(device);
      }
    }
  }
  ~LoopDevice() {
    if (device_.valid()) ioctl(device_.get(), LOOP_CLR_FD, 0);
  }
  bool valid() const { return device_.valid(); }
  const std::string& path() const { return path_; }

 private:
  UniqueFd device_;
  std::string path_;
};

// An ext4 file system on a device, unmounted when the test ends.
class Mounted {
 public:
  Mounted(const LoopDevice& device, const std::string& directory) : directory_(directory) {
    std::string command = "mkfs.ext4 -q -F -O ^has_journal " + device.path() + " >/dev/null 2>&1";
    if (std::system(command.c_str()) != 0) return;
    std::filesystem::create_directory(directory);
    is_mounted_ = mount(device.path().c_str(), directory.c_str(), "ext4", 0, nullptr) == 0;
  }
  ~Mounted() { EXPECT_EQ(is_mounted_ ? umount(directory_.c_str()) : 0, 0); }
  bool valid() const { return is_mounted_; }

 private:
  const std::string directory_;
  bool is_mounted_ = false;
};

class BackingDevice : public testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "needs root";
    if (access("/dev/loop-control", R_OK | W_OK) != 0) GTEST_SKIP() << "no loop devices here";
  }

  TestDirectory directory_;
};

TEST_F(BackingDevice, ADeviceKeepsObjectsIsTakenOnceAndGivenBackEmpty) {
  std::string image = directory_ / "image";
  LoopDevice device(image, 4 * kMib + 4096);
  ASSERT_TRUE(device.valid());
  auto image_bytes = [&] {
    struct stat info;
    EXPECT_EQ(stat(image.c_str(), &info), 0);
    return static_cast<uint64_t>(info.st_blocks) * 512;
  };
  auto file = MustOpen({.path = device.path()});
  ASSERT_NE(file, nullptr);
  EXPECT_EQ(file->stats().segments, 8u);
  absl::Status in_use = BackingFile::Open({.path = device.path()}).status();
  EXPECT_TRUE(absl::IsUnavailable(in_use)) << in_use;

  auto reader = MustHaveReader(*file);
  auto all = StoreMany(*file, 0, 600);
  ASSERT_TRUE(file->Flush());
  for (const Stored& stored : all) {
    ASSERT_TRUE(IsIntact(*file, stored));
    ASSERT_TRUE(IsIntactThrough(*reader, stored));
  }
  EXPECT_GE(image_bytes(), 2 * kMib);
  for (size_t at = 0; at < 500; ++at) file->Free(all[at].object);
  EXPECT_TRUE(Await([&] { return image_bytes() < 2 * kMib; }));
  for (size_t at = 500; at < 600; ++at) ASSERT_TRUE(IsIntact(*file, all[at]));
  reader.reset();
  file.reset();
  EXPECT_LT(image_bytes(), 64u << 10);
  EXPECT_NE(MustOpen({.path = device.path()}), nullptr);
}

TEST_F(BackingDevice, ADeviceThatIsTooSmallIsRefused) {
  LoopDevice device(directory_ / "image", 1 * kMib);
  ASSERT_TRUE(device.valid());
  absl::Status status = BackingFile::Open({.path = device.path()}).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
}

TEST_F(BackingDevice, AFullDiskLosesNothingAndIsUsedAgainWhenThereIsRoom) {
  LoopDevice device(directory_ / "image", 16 * kMib);
  ASSERT_TRUE(device.valid());
  Mounted mounted(device, directory_ / "mounted");
  if (!mounted.valid()) GTEST_SKIP() << "no ext4 can be made and mounted here";
  std::string path = directory_ / "mounted/backing";
  absl::Status no_space =
      BackingFile::Open({.path = path, .size_bytes = 64 * kMib, .preallocate = true}).status();
  EXPECT_TRUE(absl::IsResourceExhausted(no_space)) << no_space;

  auto file = MustOpen({.path = path, .size_bytes = 64 * kMib});
  ASSERT_NE(file, nullptr);
  auto reader = MustHaveReader(*file);
  std::string hog_path = directory_ / "mounted/hog";
  UniqueFd hog(open(hog_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  off_t hog_bytes = 16 << 20;
  while (hog_bytes > 0 && posix_fallocate(hog.get(), 0, hog_bytes) != 0) hog_bytes -= 64 << 10;
  auto all = StoreMany(*file, 0, 300);
  EXPECT_FALSE(file->Flush());
  for (const Stored& stored : all) {
    ASSERT_TRUE(IsIntact(*file, stored));
    ASSERT_TRUE(IsIntactThrough(*reader, stored));
  }
  ASSERT_EQ(ftruncate(hog.get(), 0), 0);
  ASSERT_TRUE(Await([&] { return !file->stats().is_suspended; }));
  ASSERT_TRUE(file->Flush());
  for (const Stored& stored : all) ASSERT_TRUE(IsIntactThrough(*reader, stored));
}

}  // namespace
}  // namespace zmem
