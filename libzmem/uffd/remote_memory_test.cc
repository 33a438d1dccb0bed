#include "libzmem/uffd/remote_memory.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <string>

#include "libzmem/testing/memory.h"

namespace zmem {
namespace {

// Two pipes to a child: it reads one and writes the other. All ends are closed by an exec but those
// made its standard input and output.
struct Pipes {
  Pipes() {
    int ends[2];
    EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
    child_in.reset(ends[0]);
    to_child.reset(ends[1]);
    EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
    from_child.reset(ends[0]);
    child_out.reset(ends[1]);
  }
  UniqueFd child_in, to_child, from_child, child_out;
};

char ReadByte(const UniqueFd& fd) {
  char byte = 0;
  return read(fd.get(), &byte, 1) == 1 ? byte : 0;
}

RemoteMemory Open(pid_t pid) {
  absl::StatusOr<RemoteMemory> memory = RemoteMemory::Open(pid);
  EXPECT_TRUE(memory.ok()) << memory.status();
  return *std::move(memory);
}

TEST(RemoteMemory, ReadsAnotherProcessesPages) {
  Mapping memory(1);
  Pipes pipes;
  pid_t child = ForkChild([&] {
    memory.Write(3, CompressiblePage(3));
    if (write(pipes.child_out.get(), "w", 1) != 1) return 1;
    return ReadByte(pipes.child_in) == 'e' ? 0 : 1;
  });
  ASSERT_EQ(ReadByte(pipes.from_child), 'w');
  PageBytes bytes;
  EXPECT_TRUE(Open(child).Read(memory.address(3), &bytes, sizeof bytes));
  EXPECT_EQ(bytes, CompressiblePage(3));
  ASSERT_EQ(write(pipes.to_child.get(), "e", 1), 1);
  EXPECT_EQ(Await(child), 0);
}

TEST(RemoteMemory, AMissingPageIsAFailureNotAWait) {
  Mapping memory(1);
  Userfaultfd uffd = ReadyUserfaultfd();
  ASSERT_EQ(uffd.Register(memory.range()), 0);
  RemoteMemory remote = Open(getpid());
  size_t filled;
  PageBytes bytes = CompressiblePage(1);
  ASSERT_EQ(uffd.Copy(memory.address(0), bytes.bytes.data(), 1, &filled), FillResult::kDone);
  std::array<PageBytes, 2> two;
  EXPECT_TRUE(remote.Read(memory.address(0), &two, kPageBytes));
  EXPECT_FALSE(remote.Read(memory.address(1), &two, kPageBytes));
  EXPECT_FALSE(remote.Read(memory.address(0), &two, 2 * kPageBytes)) << "only half was there";
}

TEST(RemoteMemory, AnUnmappedPageIsAFailure) {
  Mapping memory(1);
  memory.Unmap(0, 1);
  PageBytes bytes;
  EXPECT_FALSE(Open(getpid()).Read(memory.address(0), &bytes, sizeof bytes));
}

TEST(RemoteMemory, NothingIsReadAfterAnExec) {
  Mapping memory(1);
  memory.Write(0, CompressiblePage(0));
  Pipes pipes;
  pid_t child = ForkChild([&] {
    if (ReadByte(pipes.child_in) != 'e') return 1;
    dup2(pipes.child_in.get(), 0);
    dup2(pipes.child_out.get(), 1);
    execl("/bin/cat", "cat", nullptr);
    return 1;
  });
  RemoteMemory remote = Open(child);
  PageBytes bytes;
  ASSERT_TRUE(remote.Read(memory.address(0), &bytes, sizeof bytes));
  ASSERT_EQ(write(pipes.to_child.get(), "ec", 2), 2);
  ASSERT_EQ(ReadByte(pipes.from_child), 'c') << "that was cat";
  EXPECT_FALSE(remote.Read(memory.address(0), &bytes, sizeof bytes));
  // Nor anything of the program that is there now.
  std::string maps;
  ASSERT_TRUE(sys::ReadFile("/proc/" + std::to_string(child) + "/maps", maps).ok());
  Address text = std::stoull(maps, nullptr, 16);
  EXPECT_TRUE(Open(child).Read(text, &bytes, sizeof bytes));
  EXPECT_FALSE(remote.Read(text, &bytes, sizeof bytes));
  pipes.to_child.reset();
  EXPECT_EQ(Await(child), 0);
}

TEST(RemoteMemory, OfNoProcessCannotBeOpened) {
  absl::Status status = RemoteMemory::Open(1 << 30).status();
  EXPECT_TRUE(absl::IsNotFound(status)) << status;
  EXPECT_NE(status.message().find("1073741824"), absl::string_view::npos);
}

}  // namespace
}  // namespace zmem
