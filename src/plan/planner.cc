// The planner: lengths and a route in, tasks, merge ranges and launches out.
// Not here: prices, K,V data, block tables.
//
// A row's attended tokens are cut at multiples of tile_tokens. With T tiles and S splits, split s has
// the tiles [floor(T s / S), floor(T (s + 1) / S)), clipped to the attended range. Example: 100 tokens,
// tiles of 32 (T = 4), S = 3: tokens [0, 32), [32, 64), [64, 100).
// Grid routes (row, padded, bucket) give every row the same S and keep empty tasks; compact routes
// (split, workqueue, pages) give a row at most T splits and have no empty task, except that with fused
// merges, which have no merge launch, a row with nothing to attend gets one empty task a run of KV heads.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <new>
#include <numeric>

#include "base/math.h"
#include "persistentkv/plan.h"

namespace pkv {
namespace {

// Task lists above this are a mistake in the options, not a step: 2^24 tasks are 400 MB.
constexpr std::int64_t kMaxTasks = std::int64_t{1} << 24;
// A route's own choice aims at this many tasks a worker: enough that the last ones level out,
// few enough that starting and merging them stays under a percent of a long step.
constexpr std::int64_t kTasksPerWorker = 4;
// ... and at no less than this many tiles a task: below, start and merge outweigh the reading.
constexpr std::int64_t kMinTilesPerTask = 4;

bool is_grid(Route route) { return route == Route::kRow || route == Route::kPadded || route == Route::kBucket; }

Status validate_option(std::string_view name, std::int64_t value, std::int64_t low, std::int64_t high) {
  if (value < low || value > high) {
    return Error{ErrorCode::kInvalidArgument, fmt::format("{} is outside {} to {}", value, low, high),
                 std::string(name)};
  }
  return {};
}

Status validate_options(const PlanOptions& options, const AttentionShape& shape) {
  constexpr std::int32_t kMaxSplits = 1 << 20;
  PKV_RETURN_IF_ERROR(validate_option("num_workers", options.num_workers, 1, 1 << 20));
  PKV_RETURN_IF_ERROR(validate_option("tile_tokens", options.tile_tokens, 1, 1 << 16));
  PKV_RETURN_IF_ERROR(validate_option("splits", options.splits.value_or(1), 1, kMaxSplits));
  PKV_RETURN_IF_ERROR(
      validate_option("kv_heads_per_task", options.kv_heads_per_task.value_or(1), 1, shape.num_kv_heads));
  if (options.route == Route::kRow && options.splits.value_or(1) != 1) {
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("route row takes 1 split, not {}; split, workqueue and pages split rows", *options.splits),
                 "splits"};
  }
  if (is_external(options.route) &&
      (options.splits || options.kv_heads_per_task || options.merge == MergeMode::kFused)) {
    return Error{
        ErrorCode::kInvalidArgument,
        fmt::format("route {} plans itself: it takes no splits, heads a task or merge mode", route_name(options.route)),
        "route"};
  }
  return {};
}

}  // namespace

// Fills a Plan; one object a make_plan call.
class PlanBuilder {
 public:
  PlanBuilder(const BatchState& batch, const PlanOptions& options, Plan&& recycled)
      : batch_(batch), options_(options), plan_(std::move(recycled)) {}

  Result<Plan> build();

 private:
  std::int32_t first_tile(std::int32_t row) const { return batch_.attended(row).begin / options_.tile_tokens; }
  std::int32_t num_tiles(std::int32_t row) const {
    return ceil_div(batch_.attended(row).end, options_.tile_tokens) - first_tile(row);
  }
  std::int32_t num_splits(std::int32_t row) const { return plan_.row_splits_[static_cast<std::size_t>(row)]; }
  std::int32_t num_slots(std::int32_t row) const {
    return num_splits(row) > 1 ? num_splits(row) * batch_.shape().num_kv_heads : 0;
  }
  std::int32_t num_head_runs() const { return ceil_div(batch_.shape().num_kv_heads, plan_.kv_heads_per_task_); }

  void reset();
  std::int32_t choose_splits() const;
  void cut_rows();
  Status check_limits() const;
  void assign_slots();
  void order_rows();
  void emit_tasks(std::int32_t row);
  void emit_merge(std::int32_t row);
  void emit_launches(std::size_t row_begin, std::size_t row_end);
  void emit_all();
  void count();
  Plan build_external();

  const BatchState& batch_;
  const PlanOptions& options_;
  Plan plan_;
  std::int32_t max_tiles_ = 0;
  std::int64_t total_tiles_ = 0;
};

void PlanBuilder::reset() {
  const AttentionShape& shape = batch_.shape();
  plan_.route_ = options_.route;
  plan_.shape_ = shape;
  plan_.page_size_ = batch_.page_size();
  plan_.tile_tokens_ = options_.tile_tokens;
  plan_.kv_heads_per_task_ =
      options_.kv_heads_per_task.value_or(options_.route == Route::kPages ? shape.num_kv_heads : 1);
  plan_.seq_lens_.assign(batch_.seq_lens().begin(), batch_.seq_lens().end());
  plan_.merge_mode_ = options_.merge;
  plan_.tasks_.clear();
  plan_.merges_.clear();
  plan_.launches_.clear();
  plan_.counters_ = {};
  for (std::int32_t row = 0; row < batch_.num_rows(); ++row) {
    max_tiles_ = std::max(max_tiles_, num_tiles(row));
    total_tiles_ += num_tiles(row);
  }
}

// Splits of the longest row such that its tasks are about 1 / (workers * kTasksPerWorker) of the step.
std::int32_t PlanBuilder::choose_splits() const {
  if (options_.route == Route::kRow) {
    return 1;
  }
  if (options_.splits.has_value()) {
    return *options_.splits;
  }
  const std::int64_t units = total_tiles_ * num_head_runs();
  const std::int64_t tiles_per_task = std::max(kMinTilesPerTask, units / (options_.num_workers * kTasksPerWorker));
  return static_cast<std::int32_t>(std::max<std::int64_t>(1, ceil_div<std::int64_t>(max_tiles_, tiles_per_task)));
}

void PlanBuilder::cut_rows() {
  const std::int32_t splits = choose_splits();
  const std::int32_t chunk_tiles = std::max(1, ceil_div(max_tiles_, splits));
  plan_.row_splits_.resize(static_cast<std::size_t>(batch_.num_rows()));
  plan_.max_splits_ = 1;
  for (std::int32_t row = 0; row < batch_.num_rows(); ++row) {
    std::int32_t row_splits = splits;
    if (options_.route == Route::kWorkqueue) {
      row_splits = std::min(splits, num_tiles(row));
    } else if (!is_grid(options_.route)) {
      row_splits = ceil_div(num_tiles(row), chunk_tiles);
    }
    if (options_.merge == MergeMode::kFused) {
      row_splits = std::max(row_splits, 1);  // an empty row's output has no other launch to come from
    }
    plan_.row_splits_[static_cast<std::size_t>(row)] = row_splits;
    plan_.max_splits_ = std::max(plan_.max_splits_, row_splits);
  }
}

Status PlanBuilder::check_limits() const {
  const std::int64_t splits = std::accumulate(plan_.row_splits_.begin(), plan_.row_splits_.end(), std::int64_t{0});
  const std::int64_t tasks = splits * num_head_runs();
  if (tasks > kMaxTasks) {
    return Error{ErrorCode::kOutOfRange,
                 fmt::format("{} tasks ({} row splits, {} head runs) are above the limit of {}", tasks, splits,
                             num_head_runs(), kMaxTasks),
                 fmt::format("plan {}", route_name(options_.route))};
  }
  const std::int64_t slots = splits * batch_.shape().num_kv_heads;
  if (slots > std::numeric_limits<std::int32_t>::max()) {
    return Error{ErrorCode::kOutOfRange, fmt::format("{} partial slots are above the limit of 2147483647", slots),
                 fmt::format("plan {}", route_name(options_.route))};
  }
  return {};
}

void PlanBuilder::assign_slots() {
  plan_.split_offsets_.resize(static_cast<std::size_t>(batch_.num_rows()) + 1);
  plan_.split_offsets_[0] = 0;
  for (std::int32_t row = 0; row < batch_.num_rows(); ++row) {
    const auto i = static_cast<std::size_t>(row);
    plan_.split_offsets_[i + 1] = plan_.split_offsets_[i] + num_slots(row);
  }
}

// Longest task first, so that the short ones level the workers at the end of a launch; buckets by
// length, so that rows of a bucket are neighbours.
void PlanBuilder::order_rows() {
  struct Key {
    std::int32_t measure;
    std::int32_t tokens;
    std::int32_t row;
  };
  thread_local std::vector<Key> keys;  // worked out once a row, not once a comparison
  keys.clear();
  for (std::int32_t row = 0; row < batch_.num_rows(); ++row) {
    const std::int32_t measure = options_.route == Route::kBucket
                                     ? batch_.seq_lens()[static_cast<std::size_t>(row)]
                                     : ceil_div(num_tiles(row), std::max(1, num_splits(row)));
    keys.push_back({.measure = measure, .tokens = batch_.attended(row).size(), .row = row});
  }
  std::ranges::sort(keys, [](const Key& a, const Key& b) {
    if (a.measure != b.measure) {
      return a.measure > b.measure;
    }
    // By tokens, so that the order of rows in the batch does not decide who is last.
    return a.tokens != b.tokens ? a.tokens > b.tokens : a.row < b.row;
  });
  plan_.row_order_.clear();
  for (const Key& key : keys) {
    plan_.row_order_.push_back(key.row);
  }
}

void PlanBuilder::emit_tasks(std::int32_t row) {
  const std::int32_t splits = num_splits(row);
  const std::int32_t tiles = num_tiles(row);
  const std::int32_t tile_begin = first_tile(row);
  const TokenRange attended = batch_.attended(row);
  const std::int32_t num_kv_heads = batch_.shape().num_kv_heads;
  const std::int32_t row_slot = plan_.split_offsets_[static_cast<std::size_t>(row)];
  for (std::int32_t head = 0; head < num_kv_heads; head += plan_.kv_heads_per_task_) {
    for (std::int32_t s = 0; s < splits; ++s) {
      const TokenRange cut = split_tiles(tiles, s, splits);
      const auto token = [&](std::int32_t tile) {  // 64 bits: a length near 2^31 rounds up past it
        return static_cast<std::int32_t>(std::clamp<std::int64_t>(
            std::int64_t{tile_begin + tile} * options_.tile_tokens, attended.begin, attended.end));
      };
      plan_.tasks_.push_back(
          {.row = row,
           .kv_head_begin = static_cast<std::int16_t>(head),
           .kv_head_end = static_cast<std::int16_t>(std::min(head + plan_.kv_heads_per_task_, num_kv_heads)),
           .token_begin = token(cut.begin),
           .token_end = token(cut.end),
           .partial_slot = splits > 1 ? row_slot + head * splits + s : kNoSlot,
           .slot_stride = splits > 1 ? splits : 0});
    }
  }
}

void PlanBuilder::emit_merge(std::int32_t row) {
  const std::int32_t splits = num_splits(row);
  if (splits == 1) {
    return;
  }
  plan_.merges_.push_back(
      {.row = row, .slot_begin = plan_.split_offsets_[static_cast<std::size_t>(row)], .num_splits = splits});
}

// One decode launch and, where rows were split, one merge launch over the rows
// row_order_[row_begin, row_end).
void PlanBuilder::emit_launches(std::size_t row_begin, std::size_t row_end) {
  const auto task_begin = static_cast<std::int32_t>(plan_.tasks_.size());
  const auto merge_begin = static_cast<std::int32_t>(plan_.merges_.size());
  for (std::size_t i = row_begin; i < row_end; ++i) {
    emit_tasks(plan_.row_order_[i]);
    emit_merge(plan_.row_order_[i]);
  }
  const auto task_end = static_cast<std::int32_t>(plan_.tasks_.size());
  const auto merge_end = static_cast<std::int32_t>(plan_.merges_.size());
  if (task_end > task_begin) {
    plan_.launches_.push_back({LaunchKind::kDecode, task_begin, task_end});
  }
  if (merge_end > merge_begin && options_.merge == MergeMode::kSeparate) {
    plan_.launches_.push_back({LaunchKind::kMerge, merge_begin, merge_end});
  }
}

void PlanBuilder::emit_all() {
  if (options_.route != Route::kBucket) {
    emit_launches(0, plan_.row_order_.size());
    return;
  }
  const auto seq_len = [&](std::size_t i) { return batch_.seq_lens()[static_cast<std::size_t>(plan_.row_order_[i])]; };
  for (std::size_t begin = 0; begin < plan_.row_order_.size();) {
    std::size_t end = begin + 1;
    while (end < plan_.row_order_.size() && seq_len(end) == seq_len(begin)) {
      ++end;
    }
    emit_launches(begin, end);
    begin = end;
  }
}

void PlanBuilder::count() {
  const AttentionShape& shape = batch_.shape();
  PlanCounters& counters = plan_.counters_;
  counters.num_launches = static_cast<std::int32_t>(plan_.launches_.size());
  counters.num_merge_launches =
      static_cast<std::int32_t>(std::ranges::count(plan_.launches_, LaunchKind::kMerge, &Launch::kind));
  counters.num_tasks = static_cast<std::int32_t>(plan_.tasks_.size());
  counters.num_nonempty_tasks =
      static_cast<std::int32_t>(std::ranges::count_if(plan_.tasks_, [](const Task& task) { return !task.empty(); }));
  counters.num_partial_slots = plan_.split_offsets_.back();
  counters.attended_tokens = batch_.attended_tokens();
  counters.merge_state_bytes = std::int64_t{counters.num_partial_slots} * shape.group_size() * (shape.head_dim + 2) * 4;
}

// The step belongs to another project's planner; what is counted is the one launch that the paper counts for it.
Plan PlanBuilder::build_external() {
  plan_.max_splits_ = 1;
  plan_.row_splits_.clear();
  plan_.row_order_.clear();
  plan_.split_offsets_.assign(static_cast<std::size_t>(batch_.num_rows()) + 1, 0);
  if (batch_.num_rows() > 0) {
    plan_.launches_.push_back({LaunchKind::kDecode, 0, 0});
  }
  count();
  return std::move(plan_);
}

Result<Plan> PlanBuilder::build() {
  PKV_RETURN_IF_ERROR(validate_options(options_, batch_.shape()));
  reset();
  if (is_external(options_.route)) {
    return build_external();
  }
  cut_rows();
  PKV_RETURN_IF_ERROR(check_limits());
  assign_slots();
  order_rows();
  emit_all();
  count();
  return std::move(plan_);
}

Result<Plan> make_plan(const BatchState& batch, const PlanOptions& options, Plan&& recycled) {
  try {
    return PlanBuilder(batch, options, std::move(recycled)).build();
  } catch (const std::bad_alloc&) {
    return Error{ErrorCode::kResourceExhausted, fmt::format("no memory for the tasks of {} rows", batch.num_rows()),
                 fmt::format("plan {}", route_name(options.route))};
  }
}

}  // namespace pkv
