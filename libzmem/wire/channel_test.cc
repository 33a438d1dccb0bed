#include "libzmem/wire/channel.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>

namespace zmem::wire {
namespace {

class ChannelTest : public testing::Test {
 protected:
  void SetUp() override {
    int ends[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    ours_ = std::make_unique<Channel>(UniqueFd(ends[0]));
    peer_.reset(ends[1]);
  }
  std::unique_ptr<Channel> ours_;
  UniqueFd peer_;
};

TEST_F(ChannelTest, AMessageArrivesWithItsDescriptor) {
  Channel theirs(std::move(peer_));
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  UniqueFd read_end(ends[0]);
  UniqueFd write_end(ends[1]);
  ASSERT_TRUE(theirs.Send(Userfaultfd{}, write_end.get()).ok());
  Userfaultfd message;
  UniqueFd received;
  ASSERT_TRUE(ours_->Receive(message, 0, &received).ok());
  ASSERT_TRUE(received.valid());
  EXPECT_EQ(write(received.get(), "x", 1), 1);
  char byte;
  EXPECT_EQ(read(read_end.get(), &byte, 1), 1);
}

TEST_F(ChannelTest, SilenceIsADeadlineAndAHangUpIsUnavailable) {
  Report report;
  EXPECT_TRUE(absl::IsDeadlineExceeded(ours_->Receive(report, 1)));
  peer_.reset();
  EXPECT_TRUE(absl::IsUnavailable(ours_->Receive(report, 1)));
  EXPECT_TRUE(absl::IsUnavailable(ours_->Send(Detach{})));
}

// Makes `control` a control message with `descriptor`.
void PutDescriptor(char (&control)[CMSG_SPACE(sizeof(int))], int descriptor) {
  auto* rights = reinterpret_cast<cmsghdr*>(control);
  rights->cmsg_len = CMSG_LEN(sizeof descriptor);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  std::memcpy(CMSG_DATA(rights), &descriptor, sizeof descriptor);
}

// Leaves what looks like a message with `descriptor` all over the stack that the next call will
// use.
[[gnu::noinline]] void LitterStack(int descriptor, size_t phase) {
  alignas(cmsghdr) char litter[CMSG_SPACE(sizeof descriptor)] = {};
  PutDescriptor(litter, descriptor);
  char stack[32 << 10];
  for (size_t at = phase; at + sizeof litter <= sizeof stack; at += sizeof litter) {
    std::memcpy(stack + at, litter, sizeof litter);
  }
  asm volatile("" : : "r"(stack) : "memory");
}

// A peer that ends with a message of ours unread resets the connection, and the call that finds out
// writes no control messages: what lies where they would be are no descriptors.
TEST_F(ChannelTest, AResetConnectionHasNoDescriptors) {
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  UniqueFd read_end(ends[0]);
  UniqueFd write_end(ends[1]);
  for (size_t phase = 0; phase < 3 * sizeof(size_t); phase += sizeof(size_t)) {
    SetUp();
    ASSERT_TRUE(ours_->Send(Detach{}).ok());
    peer_.reset();
    Report report;
    LitterStack(read_end.get(), phase);
    EXPECT_TRUE(absl::IsUnavailable(ours_->Receive(report, 0)));
    ASSERT_NE(fcntl(read_end.get(), F_GETFD), -1) << "a descriptor that never came was closed";
  }
}

TEST_F(ChannelTest, AnEmptyMessagesDescriptorIsClosed) {
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  UniqueFd read_end(ends[0]);
  UniqueFd write_end(ends[1]);
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr header{};
  header.msg_control = control;
  header.msg_controllen = sizeof control;
  PutDescriptor(control, write_end.get());
  ASSERT_EQ(sendmsg(peer_.get(), &header, 0), 0);
  write_end.reset();
  Report report;
  EXPECT_TRUE(absl::IsUnavailable(ours_->Receive(report, 0)));
  char byte;
  fcntl(read_end.get(), F_SETFL, O_NONBLOCK);
  EXPECT_EQ(read(read_end.get(), &byte, 1), 0) << "somebody could still write";
}

TEST_F(ChannelTest, AnotherVersionIsToldApartFromRubbish) {
  Hello hello;
  hello.header.version = kVersion + 1;
  ASSERT_EQ(write(peer_.get(), &hello, sizeof hello), static_cast<ssize_t>(sizeof hello));
  Hello received;
  EXPECT_TRUE(absl::IsFailedPrecondition(ours_->Receive(received, 0)));
  EXPECT_EQ(ours_->peer_version(), kVersion + 1);
}

TEST_F(ChannelTest, WrongTypesSizesAndRubbishAreErrors) {
  Report report;
  Hello received;
  ASSERT_GT(write(peer_.get(), &report, sizeof report), 0);
  EXPECT_TRUE(absl::IsInvalidArgument(ours_->Receive(received, 0)));  // a type out of order
  Hello hello;
  ASSERT_GT(write(peer_.get(), &hello, sizeof hello - 1), 0);
  EXPECT_TRUE(absl::IsInvalidArgument(ours_->Receive(received, 0)));  // cut short
  ASSERT_GT(write(peer_.get(), "{}", 2), 0);
  EXPECT_TRUE(absl::IsInvalidArgument(ours_->Receive(received, 0)));  // no header
  char large[2 * kMaxMessageBytes] = {};
  ASSERT_GT(write(peer_.get(), large, sizeof large), 0);
  EXPECT_TRUE(absl::IsInvalidArgument(ours_->Receive(received, 0)));  // no magic, too long
}

TEST_F(ChannelTest, APeerThatDoesNotReadIsGivenUp) {
  absl::Status status;
  for (int i = 0; i < 100'000 && status.ok(); ++i) status = ours_->Send(Detach{});
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
}

TEST(PageSet, FindsRuns) {
  PageSet set;
  for (size_t page : {0u, 1u, 63u, 64u, 511u}) set.Add(page);
  EXPECT_EQ(set.count(), 5u);
  EXPECT_EQ(set.runs(), 3u);
  EXPECT_EQ(set.Next(0, false), 2u);
  EXPECT_EQ(set.Next(2, true), 63u);
  EXPECT_EQ(set.Next(63, false), 65u);
  EXPECT_EQ(set.Next(65, true), 511u);
  EXPECT_EQ(set.Next(511, false), kPagesPerChunk);
  set.Remove(511);
  EXPECT_EQ(set.Next(65, true), kPagesPerChunk);
}

}  // namespace
}  // namespace zmem::wire
