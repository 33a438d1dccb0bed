#include "bench/redis_load.h"

#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "tests/harness.h"
#include "tests/redis.h"

namespace zmem {
namespace {

constexpr uint32_t kItems = 2000;

const KeyedValues& Values() {
  static const KeyedValues* values = new KeyedValues;
  return *values;
}

std::string Value(uint32_t item, uint32_t version) {
  std::string value;
  Values().Append(item, version, value);
  return value;
}

TEST(KeyedValuesTest, AreRightForTheirItemAndVersionAlone) {
  std::string value = Value(7, 3);
  EXPECT_TRUE(KeyedValues::Right(value, 7, 3));
  EXPECT_FALSE(KeyedValues::Right(value, 7, 2));
  EXPECT_FALSE(KeyedValues::Right(value, 8, 3));
  EXPECT_FALSE(KeyedValues::Right("", 7, 3));
  EXPECT_FALSE(KeyedValues::Right(std::string(value.size(), '\0'), 7, 3));
}

TEST(KeyedValuesTest, AreWrongWithAnyByteChanged) {
  std::string value = Value(7, 3);
  for (char& byte : value) {
    byte = static_cast<char>(byte ^ 1);
    EXPECT_FALSE(KeyedValues::Right(value, 7, 3)) << &byte - value.data();
    byte = static_cast<char>(byte ^ 1);
  }
}

TEST(KeyedValuesTest, HaveAboutTheMeanSize) {
  uint64_t bytes = 0;
  for (uint32_t item = 0; item < kItems; ++item) {
    size_t value_bytes = Value(item, 0).size();
    EXPECT_GE(value_bytes, 512u);
    EXPECT_LE(value_bytes, 1536u);
    bytes += value_bytes;
  }
  EXPECT_NEAR(static_cast<double>(bytes) / kItems, kMeanValueBytes, 30);
}

class RedisLoadTest : public testing::Test {
 protected:
  const TempDir directory_;
  RedisServer server_{directory_};
  RedisClient client_{server_.socket()};
  RedisLoad load_{server_.socket(), Values(), {.items = kItems}};
};

TEST_F(RedisLoadTest, FillsTheServerAndReadsItBack) {
  load_.Fill();
  EXPECT_EQ(client_.Call({"DBSIZE"}), absl::StrCat(kItems));
  EXPECT_EQ(client_.Call({"GET", KeyedValues::Key(17)}), Value(17, 0));
  load_.VerifyAll();
}

TEST_F(RedisLoadTest, AWrongValueIsNoticed) {
  load_.Fill();
  client_.Call({"SET", KeyedValues::Key(17), Value(17, 1)});
  EXPECT_THROW(load_.VerifyAll(), WrongValue);
}

TEST_F(RedisLoadTest, AMissingValueIsNoticed) {
  load_.Fill();
  client_.Call({"DEL", KeyedValues::Key(17)});
  EXPECT_THROW(load_.VerifyAll(), WrongValue);
}

TEST_F(RedisLoadTest, AnEndedServerIsNoticed) {
  load_.Fill();
  server_.Stop();
  EXPECT_THROW(load_.VerifyAll(), HarnessError);
}

TEST_F(RedisLoadTest, NineOfTenRequestsReadAndThePopularAreAskedForMost) {
  load_.Fill();
  client_.Call({"CONFIG", "RESETSTAT"});
  LoadResult result = load_.AskAtRate(5000, 0.5);
  EXPECT_NEAR(static_cast<double>(result.requests), 2500, 5 * 50);
  EXPECT_EQ(result.dropped, 0u);
  std::string stats = client_.Call({"INFO", "commandstats"}).value();
  size_t sets = std::stoul(stats.substr(stats.find("cmdstat_set:calls=") + 18));
  EXPECT_NEAR(static_cast<double>(sets), 250, 5 * 15);
  load_.VerifyAll();
}

TEST_F(RedisLoadTest, AsFastAsPossibleIsFasterThanARate) {
  load_.Fill();
  LoadResult result = load_.AskAsFastAsPossible(0.3);
  EXPECT_GT(result.reached_per_s, 2000);
  EXPECT_GT(result.requests, 600u);
  load_.VerifyAll();
}

// The server sleeps for 0.4 s of the 0.5 s: most requests are due meanwhile. A generator that waits
// for one answer before it asks for the next would see a few slow ones.
TEST_F(RedisLoadTest, WhoeverHadToWaitCounts) {
  load_.Fill();
  client_.Send({"DEBUG", "SLEEP", "0.4"});
  client_.Flush();
  LoadResult result = load_.AskAtRate(2000, 0.5);
  EXPECT_GT(result.p50_ns, 50'000'000u);
  EXPECT_GT(result.max_ns, 300'000'000u);
  EXPECT_NEAR(static_cast<double>(result.requests), 1000, 5 * 32);
}

}  // namespace
}  // namespace zmem
