// Runs that take turns in one memory: rounds, oracle, stopping.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "replay/measure.h"
#include "replay/step.h"
#include "unit/replay/replay_fixture.h"

namespace pkv {
namespace {

using ::testing::HasSubstr;

Turn make_turn(const AttentionShape& shape, KvOrder order, std::int32_t page_size) {
  StepOptions step;
  step.run = testing::tiny_options().run;
  step.run.shape = shape;
  step.run.order = order;
  step.run.routes = {{.route = Route::kSplit, .splits = 2}, {.route = Route::kPages, .splits = std::nullopt}};
  step.run.cpu = {.threads = 1, .pin = false};
  step.run.verify = VerifyMode::kEvery;
  step.run.memory_limit_bytes = std::int64_t{256} << 20;
  step.seq_lens = {70, 0, 16, 1};
  step.page_size = page_size;
  step.repeats = 2;
  const auto source = make_repeated_source(step).value();
  return {.options = step.run,
          .make_source = [step] { return make_repeated_source(step); },
          .records = begin_records(step.run, page_size, *source, {})};
}

std::vector<Turn> make_turns() {
  return {make_turn({.num_q_heads = 4, .num_kv_heads = 2, .head_dim = 16}, KvOrder::kHND, 16),
          make_turn({.num_q_heads = 4, .num_kv_heads = 2, .head_dim = 16}, KvOrder::kNHD, 1),
          make_turn({.num_q_heads = 6, .num_kv_heads = 2, .head_dim = 16}, KvOrder::kHND, 256)};
}

TEST(TakeTurns, EveryRound_MeasuresAndVerifiesEveryRun) {
  std::vector<Turn> turns = make_turns();
  RunObserver observer;
  const Status status = take_turns(turns, 3, observer);
  ASSERT_TRUE(status.ok()) << status.error().to_string();
  for (const Turn& turn : turns) {
    ASSERT_FALSE(turn.records.error) << turn.records.error->to_string();
    EXPECT_EQ(turn.round_ends, (std::vector<std::int64_t>{2, 4, 6}));
    for (const RouteRecords& route : turn.records.routes) {
      EXPECT_EQ(route.steps.size(), 6U);
      EXPECT_EQ(route.errors->num_steps, 6);  // another layout of the same memory is right, too
    }
    EXPECT_GT(turn.records.pool_pages, 0);
  }
}

class StopAfter : public RunObserver {
 public:
  explicit StopAfter(std::int64_t steps) : steps_(steps) {}
  void on_progress(const Progress& progress) override { seen_ = progress.done; }
  [[nodiscard]] bool cancelled() const override { return seen_ >= steps_; }

 private:
  std::int64_t steps_;
  std::int64_t seen_ = 0;
};

TEST(TakeTurns, Cancelled_MarksAllAndKeepsCompleteRounds) {
  std::vector<Turn> turns = make_turns();
  StopAfter observer(9);  // in the second round
  ASSERT_TRUE(take_turns(turns, 100, observer).ok());
  for (const Turn& turn : turns) {
    EXPECT_TRUE(turn.records.interrupted);
    EXPECT_GE(turn.round_ends.size(), 1U);
    EXPECT_LE(turn.round_ends.size(), 2U);
  }
}

TEST(TakeTurns, MixedTypes_AreRefused) {
  std::vector<Turn> turns = make_turns();
  turns[1].options.kv_dtype = DType::kF32;
  RunObserver observer;
  EXPECT_THAT(take_turns(turns, 1, observer).error().message, HasSubstr("must be the same"));
}

TEST(TakeTurns, MemoryOfTheLargest_IsCheckedFirst) {
  std::vector<Turn> turns = make_turns();
  turns[0].options.memory_limit_bytes = turns[2].options.memory_limit_bytes = 1 << 16;
  RunObserver observer;
  const Status status = take_turns(turns, 1, observer);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::kResourceExhausted);
}

}  // namespace
}  // namespace pkv
