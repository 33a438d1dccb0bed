// What an agent sends unasked, with this test as the agent.
#include "libzmem/reclaim/agent_link.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <thread>

namespace zmem {
namespace {

class CountingRespondent final : public Respondent {
 public:
  wire::Answer Respond(const wire::Query& query) override {
    ++queries;
    wire::Answer answer{};
    answer.error = static_cast<int32_t>(query.range.start);
    return answer;
  }
  int queries = 0;
};

class AgentLinkTest : public testing::Test {
 protected:
  AgentLinkTest() {
    int ends[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    ours_ = std::make_unique<wire::Channel>(UniqueFd(ends[0]));
    agent_ = std::make_unique<wire::Channel>(UniqueFd(ends[1]));
    link_ = std::make_unique<ChannelAgentLink>(*ours_, respondent_);
  }

  void SendQuery(uint32_t sequence, Address start) {
    wire::Query query{};
    query.header.sequence = sequence;
    query.kind = wire::QueryKind::kCold;
    query.range = {start, start};
    ASSERT_TRUE(agent_->Send(query).ok());
  }
  void ExpectAnswer(uint32_t sequence, int error) {
    wire::Answer answer{};
    ASSERT_TRUE(agent_->Receive(answer, 10'000).ok());
    EXPECT_EQ(answer.header.sequence, sequence);
    EXPECT_EQ(answer.error, error);
  }

  CountingRespondent respondent_;
  std::unique_ptr<wire::Channel> ours_;
  std::unique_ptr<wire::Channel> agent_;
  std::unique_ptr<ChannelAgentLink> link_;
};

TEST_F(AgentLinkTest, QueriesAreAnsweredInTheirOrderBesideWishes) {
  SendQuery(7, 1);
  wire::Request request{};
  request.wish = wire::Wish::kSettle;
  ASSERT_TRUE(agent_->Send(request).ok());
  SendQuery(9, 2);
  EXPECT_TRUE(link_->Asked(wire::Wish::kSettle));
  ExpectAnswer(7, 1);
  ExpectAnswer(9, 2);
}

TEST_F(AgentLinkTest, AQueryIsAnsweredWhileAReportIsAwaited) {
  std::thread agent([this] {
    wire::Move move{};
    ASSERT_TRUE(agent_->Receive(move, 10'000).ok());
    SendQuery(3, 5);
    ExpectAnswer(3, 5);
    wire::Report report{};
    report.header.sequence = move.header.sequence;
    ASSERT_TRUE(agent_->Send(report).ok());
  });
  EXPECT_TRUE(link_->Move({}).ok());
  agent.join();
}

// An agent that does nothing but ask does not hold its zmemd for ever.
TEST_F(AgentLinkTest, OnlySoManyAreTakenInOneGo) {
  constexpr int kFlood = 300;
  std::thread agent([this] {
    for (uint32_t i = 0; i < kFlood; ++i) {
      SendQuery(i, i);
      wire::Answer ignored{};
      while (agent_->Receive(ignored, 0).ok()) {
      }
    }
  });
  int rounds = 0;
  while (respondent_.queries < kFlood) {
    int before = respondent_.queries;
    ASSERT_TRUE(link_->TakeRequests().ok());
    EXPECT_LE(respondent_.queries - before, 256);
    ++rounds;
  }
  agent.join();
  EXPECT_GT(rounds, 1);
}

TEST_F(AgentLinkTest, MessagesOutOfOrderEndTheConnection) {
  ASSERT_TRUE(agent_->Send(wire::Hello{}).ok());
  EXPECT_TRUE(absl::IsUnavailable(link_->TakeRequests()));
}

}  // namespace
}  // namespace zmem
