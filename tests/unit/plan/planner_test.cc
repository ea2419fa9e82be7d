// The planner on worked examples: bounds, offsets, printed form, refused options, memory reuse.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "persistentkv/plan.h"
#include "support/count_allocations.h"

namespace pkv {
namespace {

using Ints = std::vector<std::int32_t>;

// A batch whose pages all are page 0.
class PlannerTest : public ::testing::Test {
 protected:
  BatchState make_batch(const AttentionShape& shape, const Ints& seq_lens) {
    seq_lens_ = seq_lens;
    indptr_ = {0};
    for (const std::int32_t seq_len : seq_lens_) {
      indptr_.push_back(indptr_.back() + (seq_len + 15) / 16);
    }
    indices_.assign(static_cast<std::size_t>(indptr_.back()), 0);
    return BatchState::make({.shape = shape,
                             .page_size = 16,
                             .seq_lens = seq_lens_,
                             .block_table = BlockTable::csr(indptr_, indices_).value(),
                             .num_pages = 1})
        .value();
  }
  Ints seq_lens_, indptr_, indices_;
};

constexpr AttentionShape kTwoHeads{.num_q_heads = 4, .num_kv_heads = 2, .head_dim = 64};

TEST(SplitTiles, PapersBounds_AreFloors) {
  EXPECT_EQ(split_tiles(4, 0, 3), (TokenRange{0, 1}));
  EXPECT_EQ(split_tiles(4, 1, 3), (TokenRange{1, 2}));
  EXPECT_EQ(split_tiles(4, 2, 3), (TokenRange{2, 4}));
  EXPECT_EQ(split_tiles(2, 0, 3), (TokenRange{0, 0}));  // more splits than tiles: empty
  EXPECT_EQ(split_tiles(1 << 26, (1 << 20) - 1, 1 << 20).end, 1 << 26);
}

TEST_F(PlannerTest, Workqueue_WorkedExample) {
  const BatchState batch = make_batch(kTwoHeads, {100, 20});
  const Plan plan = make_plan(batch, {.route = Route::kWorkqueue, .splits = 3}).value();
  // Row 1 has one tile, so one task a head, which writes its output itself.
  const std::vector<Task> expected = {
      {0, 0, 1, 0, 32, 0, 3},  {0, 0, 1, 32, 64, 1, 3},  {0, 0, 1, 64, 100, 2, 3},     {0, 1, 2, 0, 32, 3, 3},
      {0, 1, 2, 32, 64, 4, 3}, {0, 1, 2, 64, 100, 5, 3}, {1, 0, 1, 0, 20, kNoSlot, 0}, {1, 1, 2, 0, 20, kNoSlot, 0}};
  EXPECT_THAT(plan.tasks(), ::testing::ElementsAreArray(expected));
  EXPECT_THAT(plan.split_offsets(), ::testing::ElementsAre(0, 6, 6));
  EXPECT_THAT(plan.merges(), ::testing::ElementsAre(MergeRange{0, 0, 3}));
  EXPECT_THAT(plan.launches(),
              ::testing::ElementsAre(Launch{LaunchKind::kDecode, 0, 8}, Launch{LaunchKind::kMerge, 0, 1}));
  EXPECT_EQ(plan.counters().merge_state_bytes, 6 * 2 * (64 + 2) * 4);
}

TEST_F(PlannerTest, Padded_KeepsEmptyTasksOfShortRows) {
  const BatchState batch = make_batch(kTwoHeads, {100, 20, 0});
  const Plan plan = make_plan(batch, {.route = Route::kPadded, .splits = 3}).value();
  EXPECT_EQ(plan.counters().num_tasks, 18);
  EXPECT_EQ(plan.counters().num_nonempty_tasks, 2 * (3 + 1));
  EXPECT_EQ(plan.counters().num_partial_slots, 18);
  EXPECT_DOUBLE_EQ(plan.counters().nonempty_share(), 8.0 / 18.0);
}

TEST_F(PlannerTest, Bucket_LaunchesOncePerLength) {
  const BatchState batch = make_batch(kTwoHeads, {64, 128, 64});
  const Plan plan = make_plan(batch, {.route = Route::kBucket, .splits = 2}).value();
  EXPECT_THAT(plan.launches(),
              ::testing::ElementsAre(Launch{LaunchKind::kDecode, 0, 4}, Launch{LaunchKind::kMerge, 0, 1},
                                     Launch{LaunchKind::kDecode, 4, 12}, Launch{LaunchKind::kMerge, 1, 3}));
  EXPECT_EQ(plan.tasks()[4].row, 0);
  EXPECT_EQ(plan.tasks()[8].row, 2);
}

TEST_F(PlannerTest, Split_GivesLongRowsMoreSplits) {
  const BatchState batch = make_batch(kTwoHeads, {1024, 256, 0});
  const Plan plan = make_plan(batch, {.route = Route::kSplit, .splits = 8}).value();
  EXPECT_THAT(plan.split_offsets(), ::testing::ElementsAre(0, 16, 20, 20));
  EXPECT_THAT(plan.merges(),
              ::testing::UnorderedElementsAre(MergeRange{0, 0, 8}, MergeRange{1, 16, 2}, MergeRange{2, 20, 0}));
}

TEST_F(PlannerTest, Pages_TasksOwnAllHeads) {
  const BatchState batch = make_batch({}, {1024});
  const Plan plan = make_plan(batch, {.route = Route::kPages, .splits = 4}).value();
  ASSERT_EQ(plan.tasks().size(), 4U);
  EXPECT_EQ(plan.tasks()[1], (Task{0, 0, 8, 256, 512, 1, 4}));
}

TEST_F(PlannerTest, Window_CostsWhatItReads) {
  AttentionShape shape = kTwoHeads;
  shape.sliding_window_tokens = 50;
  const BatchState batch = make_batch(shape, {1000});
  const Plan plan = make_plan(batch, {.route = Route::kWorkqueue, .splits = 2}).value();
  EXPECT_EQ(plan.counters().attended_tokens, 50);
  EXPECT_EQ(plan.tasks()[0], (Task{0, 0, 1, 950, 960, 0, 2}));
  EXPECT_EQ(plan.tasks()[1], (Task{0, 0, 1, 960, 1000, 1, 2}));
}

TEST_F(PlannerTest, OwnChoice_KeepsWorkersBusy) {
  const BatchState batch = make_batch({}, {32768});
  EXPECT_GE(make_plan(batch, {.route = Route::kWorkqueue, .num_workers = 28})->tasks().size(), 28U * 4);
  EXPECT_GE(make_plan(batch, {.route = Route::kPages, .num_workers = 2})->tasks().size(), 8U);
  EXPECT_EQ(make_plan(batch, {.route = Route::kRow, .num_workers = 28})->tasks().size(), 8U);
}

TEST_F(PlannerTest, LongestLength_DoesNotOverflow) {
  AttentionShape shape{.num_q_heads = 1, .num_kv_heads = 1, .head_dim = 64};
  shape.sliding_window_tokens = 100;
  const Ints seq_lens = {2147483647};
  std::vector<std::int32_t> table(134217728, 0);  // ceil((2^31 - 1) / 16) entries
  const BatchState batch = BatchState::make({.shape = shape,
                                             .page_size = 16,
                                             .seq_lens = seq_lens,
                                             .block_table = BlockTable::dense(table, 1, 134217728).value(),
                                             .num_pages = 1})
                               .value();
  const Plan plan = make_plan(batch, {.route = Route::kSplit, .splits = 2}).value();
  EXPECT_EQ(plan.tasks().front().token_begin, 2147483547);
  EXPECT_EQ(plan.tasks().back().token_end, 2147483647);
}

TEST_F(PlannerTest, BadOptions_AreErrorsThatNameValueAndLimit) {
  const BatchState batch = make_batch({}, {100});
  EXPECT_EQ(make_plan(batch, {.route = Route::kPadded, .splits = 0}).error().message, "0 is outside 1 to 1048576");
  EXPECT_EQ(make_plan(batch, {.route = Route::kPadded, .splits = -3}).error().where, "splits");
  EXPECT_EQ(make_plan(batch, {.route = Route::kRow, .splits = 2}).error().where, "splits");
  EXPECT_EQ(make_plan(batch, {.num_workers = 0}).error().where, "num_workers");
  EXPECT_EQ(make_plan(batch, {.tile_tokens = 0}).error().where, "tile_tokens");
  EXPECT_EQ(make_plan(batch, {.kv_heads_per_task = 9}).error().message, "9 is outside 1 to 8");
}

TEST_F(PlannerTest, FusedMerges_OfAllHeads_LeaveOneEmptyTaskARow) {
  const BatchState batch = make_batch(kTwoHeads, {100, 0});
  const Plan plan = make_plan(batch, {.route = Route::kPages, .splits = 2, .merge = MergeMode::kFused}).value();
  const std::vector<Task> expected = {{0, 0, 2, 0, 64, 0, 2}, {0, 0, 2, 64, 100, 1, 2}, {1, 0, 2, 0, 0, kNoSlot, 0}};
  EXPECT_THAT(plan.tasks(), ::testing::ElementsAreArray(expected));
  EXPECT_EQ(plan.counters().num_merge_launches, 0);
}

TEST_F(PlannerTest, FusedMerges_WorkedExample) {
  const BatchState batch = make_batch(kTwoHeads, {100, 0});
  const Plan plan = make_plan(batch, {.route = Route::kWorkqueue, .splits = 2, .merge = MergeMode::kFused}).value();
  const std::vector<Task> expected = {{0, 0, 1, 0, 64, 0, 2},      {0, 0, 1, 64, 100, 1, 2},
                                      {0, 1, 2, 0, 64, 2, 2},      {0, 1, 2, 64, 100, 3, 2},
                                      {1, 0, 1, 0, 0, kNoSlot, 0}, {1, 1, 2, 0, 0, kNoSlot, 0}};
  EXPECT_THAT(plan.tasks(), ::testing::ElementsAreArray(expected));
  EXPECT_THAT(plan.merges(), ::testing::ElementsAre(MergeRange{0, 0, 2}));
  EXPECT_THAT(plan.launches(), ::testing::ElementsAre(Launch{LaunchKind::kDecode, 0, 6}));
  EXPECT_EQ(plan.counters().num_launches, 1);
  EXPECT_EQ(plan.counters().num_merge_launches, 0);
  EXPECT_EQ(plan.counters().num_nonempty_tasks, 4);
}

TEST_F(PlannerTest, ExternalRoutes_TakeNoOptionsOfOurs) {
  const BatchState batch = make_batch(kTwoHeads, {100});
  for (const Route route : kExternalRoutes) {
    for (const PlanOptions& options :
         {PlanOptions{.route = route, .splits = 2}, PlanOptions{.route = route, .kv_heads_per_task = 1},
          PlanOptions{.route = route, .merge = MergeMode::kFused}}) {
      const Result<Plan> plan = make_plan(batch, options);
      ASSERT_FALSE(plan.ok());
      EXPECT_EQ(plan.error().code, ErrorCode::kInvalidArgument);
      EXPECT_EQ(plan.error().where, "route");
      EXPECT_THAT(plan.error().message, ::testing::HasSubstr(std::string(route_name(route))));
    }
    EXPECT_TRUE(make_plan(batch, {.route = route, .num_workers = 132}).ok());
  }
}

TEST_F(PlannerTest, AbsurdGrid_IsAnErrorBeforeMemoryIsTaken) {
  const BatchState batch = make_batch({}, Ints(512, 64));
  const auto plan = make_plan(batch, {.route = Route::kPadded, .splits = 1 << 20});
  ASSERT_FALSE(plan.ok());
  EXPECT_EQ(plan.error().code, ErrorCode::kOutOfRange);
  EXPECT_NE(plan.error().message.find("4294967296 tasks"), std::string::npos);
}

TEST_F(PlannerTest, NoRows_GiveAnEmptyPlan) {
  const BatchState batch = make_batch({}, {});
  for (const Route route : kAllRoutes) {
    const Plan plan = make_plan(batch, {.route = route}).value();
    EXPECT_TRUE(plan.tasks().empty());
    EXPECT_TRUE(plan.launches().empty());
    EXPECT_DOUBLE_EQ(plan.counters().nonempty_share(), 1.0);
  }
}

TEST_F(PlannerTest, OtherBatch_DoesNotMatch) {
  const Plan plan = make_plan(make_batch({}, {100, 20}), {}).value();
  EXPECT_TRUE(plan.matches(make_batch({}, {100, 20})));
  EXPECT_FALSE(plan.matches(make_batch({}, {100, 21})));
  EXPECT_FALSE(plan.matches(make_batch({}, {100})));
  EXPECT_FALSE(plan.matches(make_batch(kTwoHeads, {100, 20})));
}

TEST_F(PlannerTest, Printed_NamesRouteLaunchesAndTasks) {
  const Plan plan = make_plan(make_batch(kTwoHeads, {100, 20}), {.route = Route::kWorkqueue, .splits = 3}).value();
  const std::string text = plan.to_string(1);
  EXPECT_NE(text.find("plan workqueue: 2 rows, 120 attended tokens, 8 tasks"), std::string::npos) << text;
  EXPECT_NE(text.find("launch merge [0, 1)"), std::string::npos) << text;
  EXPECT_NE(text.find("task 0: row 0 heads [0, 1) tokens [0, 32) -> slot 0 stride 3"), std::string::npos) << text;
  EXPECT_NE(text.find("... 7 more tasks"), std::string::npos) << text;
}

TEST_F(PlannerTest, RecycledPlan_AllocatesNothing) {
  const BatchState batch = make_batch({}, {8192, 300, 0, 4096, 4096});
  for (const Route route : kAllRoutes) {
    const PlanOptions options{.route = route, .num_workers = 16};
    Plan plan = make_plan(batch, options).value();
    const std::int64_t before = pkv::testing::num_allocations();
    for (int i = 0; i < 3; ++i) {
      plan = make_plan(batch, options, std::move(plan)).value();
    }
    EXPECT_EQ(pkv::testing::num_allocations(), before) << route_name(route);
  }
}

TEST(Route, Names_RoundTrip) {
  for (const Route route : kAllRoutes) {
    EXPECT_EQ(parse_route(route_name(route)).value(), route);
  }
  EXPECT_FALSE(parse_route("worqueue").ok());
}

}  // namespace
}  // namespace pkv
