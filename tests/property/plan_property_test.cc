// Properties of every plan: each (row, KV head, token) is covered once, slots are compact, merges exact.
// Not here: counters of the paper (golden), execution (differential).
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "base/math.h"
#include "base/random.h"
#include "persistentkv/plan.h"
#include "support/random_step.h"

namespace pkv {
namespace {

using testing::random_step;
using testing::Step;

PlanOptions random_options(SplitMix64& random, Route route, MergeMode merge, const AttentionShape& shape) {
  PlanOptions options{.route = route, .merge = merge};
  const std::int32_t tiles[] = {1, 16, 32, 48, 64, 256};
  options.tile_tokens = tiles[random.below(6)];
  options.num_workers = static_cast<std::int32_t>(1 + random.below(140));
  if (route != Route::kRow && random.below(3) != 0) {
    options.splits = static_cast<std::int32_t>(1 + random.below(40));
  }
  if (random.below(2) == 0) {
    options.kv_heads_per_task =
        static_cast<std::int32_t>(1 + random.below(static_cast<std::uint64_t>(shape.num_kv_heads)));
  }
  return options;
}

using RowHead = std::pair<std::int32_t, std::int32_t>;

// Tasks of each (row, KV head), and the slot that each writes.
struct Piece {
  TokenRange tokens;
  std::int32_t slot;
};

std::map<RowHead, std::vector<Piece>> pieces_by_head(const Plan& plan) {
  std::map<RowHead, std::vector<Piece>> pieces;
  for (const Task& task : plan.tasks()) {
    for (std::int32_t head = task.kv_head_begin; head < task.kv_head_end; ++head) {
      const std::int32_t slot =
          task.partial_slot == kNoSlot ? kNoSlot : task.partial_slot + (head - task.kv_head_begin) * task.slot_stride;
      pieces[{task.row, head}].push_back({{task.token_begin, task.token_end}, slot});
    }
  }
  return pieces;
}

// The non-empty pieces, sorted, touch one another from end to end of the attended range.
void expect_exact_cover(const BatchState& batch, const Plan& plan) {
  auto pieces = pieces_by_head(plan);
  for (std::int32_t row = 0; row < batch.num_rows(); ++row) {
    const TokenRange attended = batch.attended(row);
    for (std::int32_t head = 0; head < batch.shape().num_kv_heads; ++head) {
      std::vector<Piece>& list = pieces[{row, head}];
      std::erase_if(list, [](const Piece& piece) { return piece.tokens.size() == 0; });
      std::ranges::sort(list, {}, [](const Piece& piece) { return piece.tokens.begin; });
      std::int32_t next = attended.begin;
      for (const Piece& piece : list) {
        ASSERT_EQ(piece.tokens.begin, next) << "row " << row << " head " << head;
        ASSERT_GT(piece.tokens.end, piece.tokens.begin);
        next = piece.tokens.end;
      }
      ASSERT_EQ(next, attended.end) << "row " << row << " head " << head;
    }
  }
}

void expect_tile_borders(const BatchState& batch, const Plan& plan) {
  for (const Task& task : plan.tasks()) {
    const TokenRange attended = batch.attended(task.row);
    ASSERT_TRUE(task.token_begin % plan.tile_tokens() == 0 || task.token_begin == attended.begin ||
                task.token_begin == attended.end);
    ASSERT_LT(task.kv_head_begin, task.kv_head_end);
    ASSERT_LE(task.kv_head_end - task.kv_head_begin, plan.kv_heads_per_task());
  }
}

// Every (row, head) output has one writer: a task without a slot, or a merge of exactly the slots
// that tasks write, in token order.
void expect_one_writer(const BatchState& batch, const Plan& plan) {
  std::map<RowHead, int> writers;
  std::map<std::int32_t, TokenRange> slot_tokens;
  for (const auto& [row_head, pieces] : pieces_by_head(plan)) {
    for (const Piece& piece : pieces) {
      if (piece.slot == kNoSlot) {
        ++writers[row_head];
        ASSERT_EQ(pieces.size(), 1U);
      } else {
        ASSERT_TRUE(slot_tokens.emplace(piece.slot, piece.tokens).second) << "slot " << piece.slot << " written twice";
      }
    }
  }
  std::size_t merged_slots = 0;
  for (const MergeRange& merge : plan.merges()) {
    for (std::int32_t head = 0; head < batch.shape().num_kv_heads; ++head) {
      ++writers[{merge.row, head}];
      std::int32_t last = 0;
      for (std::int32_t s = 0; s < merge.num_splits; ++s, ++merged_slots) {
        const auto found = slot_tokens.find(merge.slot_begin + head * merge.num_splits + s);
        ASSERT_NE(found, slot_tokens.end());
        ASSERT_GE(found->second.begin, last);
        last = found->second.end;
      }
    }
  }
  ASSERT_EQ(merged_slots, slot_tokens.size());
  ASSERT_EQ(writers.size(), batch.seq_lens().size() * static_cast<std::size_t>(batch.shape().num_kv_heads));
  for (const auto& [row_head, count] : writers) {
    ASSERT_EQ(count, 1) << "row " << row_head.first << " head " << row_head.second;
  }
}

void expect_compact_offsets(const BatchState& batch, const Plan& plan) {
  ASSERT_EQ(plan.split_offsets().size(), batch.seq_lens().size() + 1);
  ASSERT_EQ(plan.split_offsets().front(), 0);
  ASSERT_EQ(plan.split_offsets().back(), plan.counters().num_partial_slots);
  std::map<std::int32_t, int> seen;
  for (const auto& [row_head, pieces] : pieces_by_head(plan)) {
    for (const Piece& piece : pieces) {
      if (piece.slot == kNoSlot) {
        continue;
      }
      ++seen[piece.slot];
      const auto row = static_cast<std::size_t>(row_head.first);
      ASSERT_GE(piece.slot, plan.split_offsets()[row]);
      ASSERT_LT(piece.slot, plan.split_offsets()[row + 1]);
    }
  }
  ASSERT_EQ(seen.size(), static_cast<std::size_t>(plan.counters().num_partial_slots));
  ASSERT_TRUE(seen.empty() ||
              (seen.begin()->first == 0 && seen.rbegin()->first == plan.counters().num_partial_slots - 1));
}

// Launches take tasks and merges in order, all of them, and a merge comes after the tasks it needs. Where
// merges are fused no launch covers them.
void expect_ordered_launches(const Plan& plan) {
  std::int32_t task_end = 0;
  std::int32_t merge_end = 0;
  std::map<std::int32_t, std::int32_t> row_last_task;
  for (std::size_t i = 0; i < plan.tasks().size(); ++i) {
    row_last_task[plan.tasks()[i].row] = static_cast<std::int32_t>(i);
  }
  for (const Launch& launch : plan.launches()) {
    ASSERT_LT(launch.begin, launch.end);
    if (launch.kind == LaunchKind::kDecode) {
      ASSERT_EQ(launch.begin, task_end);
      task_end = launch.end;
      continue;
    }
    ASSERT_EQ(launch.begin, merge_end);
    merge_end = launch.end;
    for (std::int32_t i = launch.begin; i < launch.end; ++i) {
      const auto found = row_last_task.find(plan.merges()[static_cast<std::size_t>(i)].row);
      ASSERT_TRUE(found == row_last_task.end() || found->second < task_end);
    }
  }
  ASSERT_EQ(task_end, static_cast<std::int32_t>(plan.tasks().size()));
  const std::size_t launched_merges = plan.merge_mode() == MergeMode::kSeparate ? plan.merges().size() : 0;
  ASSERT_EQ(merge_end, static_cast<std::int32_t>(launched_merges));
}

// Inside a decode launch no task is longer than the first one's row by more than a tile.
void expect_longest_first(const Plan& plan) {
  for (const Launch& launch : plan.launches()) {
    if (launch.kind != LaunchKind::kDecode) {
      continue;
    }
    std::int32_t shortest = plan.tasks()[static_cast<std::size_t>(launch.begin)].token_end;
    for (std::int32_t i = launch.begin; i < launch.end; ++i) {
      const Task& task = plan.tasks()[static_cast<std::size_t>(i)];
      const std::int32_t size = task.token_end - task.token_begin;
      ASSERT_LE(size, shortest + 2 * plan.tile_tokens()) << "task " << i;
      shortest = std::min(shortest, size);
    }
  }
}

std::int32_t num_empty_rows(const BatchState& batch) {
  std::int32_t empty = 0;
  for (std::int32_t row = 0; row < batch.num_rows(); ++row) {
    empty += batch.attended(row).size() == 0 ? 1 : 0;
  }
  return empty;
}

void expect_bucket_launches(const BatchState& batch, const Plan& plan) {
  const PlanCounters& counters = plan.counters();
  std::vector<std::int32_t> lengths(batch.seq_lens().begin(), batch.seq_lens().end());
  std::ranges::sort(lengths);
  const auto buckets = std::ranges::distance(lengths.begin(), std::ranges::unique(lengths).begin());
  const bool merges = plan.max_splits() > 1 && plan.merge_mode() == MergeMode::kSeparate;
  ASSERT_EQ(counters.num_launches - counters.num_merge_launches, buckets);
  ASSERT_EQ(counters.num_merge_launches, merges ? buckets : 0);
}

void expect_route_rules(const BatchState& batch, const Plan& plan) {
  const PlanCounters& counters = plan.counters();
  const bool compact =
      plan.route() == Route::kSplit || plan.route() == Route::kWorkqueue || plan.route() == Route::kPages;
  if (compact) {
    const bool fused = plan.merge_mode() == MergeMode::kFused;
    const std::int32_t head_runs = ceil_div(batch.shape().num_kv_heads, plan.kv_heads_per_task());
    ASSERT_EQ(counters.num_tasks - counters.num_nonempty_tasks, fused ? num_empty_rows(batch) * head_runs : 0);
    ASSERT_LE(counters.num_launches, fused ? 1 : 2);
  }
  if (plan.route() == Route::kRow || plan.route() == Route::kPadded) {
    const std::int64_t head_runs = ceil_div(batch.shape().num_kv_heads, plan.kv_heads_per_task());
    ASSERT_EQ(counters.num_tasks, batch.num_rows() * head_runs * plan.max_splits());
  }
  if (plan.route() == Route::kBucket) {
    expect_bucket_launches(batch, plan);
  }
}

// No merge launch, no range of less than two splits, and in compact routes one empty task a run of KV heads that writes
// the output of a row without tokens.
void expect_fused_rules(const BatchState& batch, const Plan& plan) {
  ASSERT_EQ(plan.merge_mode(), MergeMode::kFused);
  ASSERT_EQ(plan.counters().num_merge_launches, 0);
  for (const Launch& launch : plan.launches()) {
    ASSERT_EQ(launch.kind, LaunchKind::kDecode);
  }
  for (const MergeRange& range : plan.merges()) {
    ASSERT_GE(range.num_splits, 2);
  }
  for (const auto& [row_head, pieces] : pieces_by_head(plan)) {
    const bool compact = plan.route() != Route::kPadded && plan.route() != Route::kBucket;
    if (compact && batch.attended(row_head.first).size() == 0) {
      ASSERT_EQ(pieces.size(), 1U);
      ASSERT_EQ(pieces[0].tokens.size(), 0);
      ASSERT_EQ(pieces[0].slot, kNoSlot);
    }
  }
}

void expect_plan_properties(const BatchState& batch, const Plan& plan) {
  expect_exact_cover(batch, plan);
  expect_tile_borders(batch, plan);
  expect_one_writer(batch, plan);
  expect_compact_offsets(batch, plan);
  expect_ordered_launches(plan);
  expect_route_rules(batch, plan);
  if (plan.route() != Route::kBucket) {
    expect_longest_first(plan);
  }
}

class PlanProperty : public ::testing::TestWithParam<Route> {};

void expect_random_batches_hold(Route route, MergeMode merge) {
  SplitMix64 random(static_cast<std::uint64_t>(route) + 100);
  Plan recycled;
  for (int i = 0; i < 400; ++i) {
    SCOPED_TRACE("case " + std::to_string(i));
    const Step step = random_step(random);
    const BatchState batch = step.batch();
    const PlanOptions options = random_options(random, route, merge, step.shape);
    Result<Plan> plan = make_plan(batch, options, std::move(recycled));
    ASSERT_TRUE(plan.ok()) << plan.error().to_string();
    ASSERT_EQ(plan->route(), route);
    ASSERT_TRUE(plan->matches(batch));
    expect_plan_properties(batch, *plan);
    if (merge == MergeMode::kFused) {
      expect_fused_rules(batch, *plan);
    }
    if (::testing::Test::HasFatalFailure()) {
      FAIL() << plan->to_string(200);
    }
    recycled = *std::move(plan);
  }
}

TEST_P(PlanProperty, RandomBatches_HoldEveryProperty) { expect_random_batches_hold(GetParam(), MergeMode::kSeparate); }

TEST_P(PlanProperty, RandomBatchesWithFusedMerges_HoldEveryProperty) {
  expect_random_batches_hold(GetParam(), MergeMode::kFused);
}

// Another project plans these steps: what is left of a plan is one launch, and what run() checks.
TEST(ExternalPlanProperty, RandomBatches_HaveOneLaunchAndNoTasks) {
  SplitMix64 random(7);
  Plan recycled;
  for (int i = 0; i < 200; ++i) {
    const Step step = random_step(random);
    const BatchState batch = step.batch();
    recycled = make_plan(batch, {.route = Route::kSplit, .splits = 9}, std::move(recycled)).value();
    for (const Route route : kExternalRoutes) {
      recycled = make_plan(batch, {.route = route, .num_workers = 132}, std::move(recycled)).value();
      ASSERT_EQ(recycled.route(), route);
      ASSERT_TRUE(recycled.matches(batch));
      ASSERT_TRUE(recycled.tasks().empty());
      ASSERT_TRUE(recycled.merges().empty());
      ASSERT_EQ(recycled.launches().size(), 1U);
      ASSERT_EQ(recycled.launches()[0], (Launch{LaunchKind::kDecode, 0, 0}));
      ASSERT_EQ(recycled.split_offsets().size(), batch.seq_lens().size() + 1);
      ASSERT_EQ(recycled.counters().num_launches, 1);
      ASSERT_EQ(recycled.counters().num_tasks, 0);
      ASSERT_EQ(recycled.counters().num_partial_slots, 0);
      ASSERT_EQ(recycled.counters().attended_tokens, batch.attended_tokens());
    }
  }
}

TEST_P(PlanProperty, RecycledPlan_EqualsAFreshOne) {
  SplitMix64 random(9);
  Plan recycled;
  for (int i = 0; i < 50; ++i) {
    const Step step = random_step(random);
    const PlanOptions options{.route = GetParam(), .num_workers = 8};
    recycled = make_plan(step.batch(), options, std::move(recycled)).value();
    const Plan fresh = make_plan(step.batch(), options).value();
    ASSERT_TRUE(std::ranges::equal(fresh.tasks(), recycled.tasks()));
    ASSERT_TRUE(std::ranges::equal(fresh.merges(), recycled.merges()));
    ASSERT_TRUE(std::ranges::equal(fresh.launches(), recycled.launches()));
    ASSERT_TRUE(std::ranges::equal(fresh.split_offsets(), recycled.split_offsets()));
    ASSERT_EQ(fresh.to_string(), recycled.to_string());
  }
}

// Planning work is one pass over tasks: a plan holds nothing that grows faster. (Time itself is
// measured by bench/planner: timings are no assertions.)
TEST_P(PlanProperty, MoreSplits_GrowThePlanLinearly) {
  Step step;
  step.seq_lens.assign(64, 32768);
  step.make_table();
  if (GetParam() == Route::kRow) {
    EXPECT_EQ(make_plan(step.batch(), {.route = Route::kRow})->tasks().size(), 64U * 8);
    return;
  }
  const std::size_t heads = GetParam() == Route::kPages ? 1 : 8;
  for (const std::int32_t splits : {2, 8, 32, 128}) {
    const Plan plan = make_plan(step.batch(), {.route = GetParam(), .splits = splits}).value();
    EXPECT_EQ(plan.tasks().size(), 64 * heads * static_cast<std::size_t>(splits));
    EXPECT_EQ(plan.merges().size(), 64U);
    EXPECT_LE(plan.launches().size(), 2U);
  }
}

INSTANTIATE_TEST_SUITE_P(Routes, PlanProperty, ::testing::ValuesIn(kAllRoutes),
                         [](const auto& param_info) { return std::string(route_name(param_info.param)); });

}  // namespace
}  // namespace pkv
