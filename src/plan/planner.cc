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
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <new>
#include <numeric>
#include <type_traits>

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

// A task as three words, so that it is written by three stores and not by six.
struct TaskHeads {
  std::int32_t row;
  std::int16_t kv_head_begin;
  std::int16_t kv_head_end;
};
struct TaskSlot {
  std::int32_t partial_slot;
  std::int32_t slot_stride;
};
static_assert(std::is_trivially_copyable_v<Task> && sizeof(Task) == 24 && offsetof(Task, row) == 0 &&
              offsetof(Task, kv_head_begin) == 4 && offsetof(Task, kv_head_end) == 6 &&
              offsetof(Task, token_begin) == 8 && offsetof(Task, token_end) == 12 &&
              offsetof(Task, partial_slot) == 16 && offsetof(Task, slot_stride) == 20);

/// One task a cut, in consecutive slots: three stores each. Words are copied one by one: gcc 12 takes an assigned Task
/// apart into members, and writes a copied array of words to the stack first; both take twice as long.
void write_tasks(Task* tasks, const TaskHeads& heads, std::span<const std::uint64_t> cuts, const TaskSlot& first_slot) {
  constexpr auto kNextSlot = std::bit_cast<std::uint64_t>(TaskSlot{.partial_slot = 1, .slot_stride = 0});
  const auto heads_word = std::bit_cast<std::uint64_t>(heads);
  auto slot_word = std::bit_cast<std::uint64_t>(first_slot);
  auto* to = reinterpret_cast<std::byte*>(tasks);
  for (const std::uint64_t cut : cuts) {
    std::memcpy(to + offsetof(Task, row), &heads_word, sizeof(heads_word));
    std::memcpy(to + offsetof(Task, token_begin), &cut, sizeof(cut));
    std::memcpy(to + offsetof(Task, partial_slot), &slot_word, sizeof(slot_word));
    slot_word += kNextSlot;
    to += sizeof(Task);
  }
}

}  // namespace

// Fills a Plan; one object a make_plan call.
class PlanBuilder {
 public:
  PlanBuilder(const BatchState& batch, const PlanOptions& options, Plan&& recycled)
      : batch_(batch), options_(options), plan_(std::move(recycled)) {}

  Result<Plan> build();

 private:
  std::int32_t num_tiles(std::int32_t row) const { return row_tiles_[static_cast<std::size_t>(row)].size(); }
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
  void cut_row(std::int32_t row);
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
  std::size_t num_emitted_ = 0;  // of plan_.tasks_, which has room for all

  // Memory that a thread keeps from plan to plan. By row: the tiles that its attended tokens lie in.
  std::vector<TokenRange>& row_tiles_ = scratch().row_tiles;
  // Token ranges of the splits of the row that is emitted.
  std::vector<std::uint64_t>& cuts_ = scratch().cuts;

  struct Scratch {
    std::vector<TokenRange> row_tiles;
    std::vector<std::uint64_t> cuts;
  };
  static Scratch& scratch() {
    thread_local Scratch scratch;
    return scratch;
  }
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
  plan_.merges_.clear();
  plan_.launches_.clear();
  plan_.counters_ = {};
  row_tiles_.resize(static_cast<std::size_t>(batch_.num_rows()));
  for (std::int32_t row = 0; row < batch_.num_rows(); ++row) {
    const TokenRange attended = batch_.attended(row);
    TokenRange& tiles = row_tiles_[static_cast<std::size_t>(row)];
    tiles = {.begin = attended.begin / options_.tile_tokens, .end = ceil_div(attended.end, options_.tile_tokens)};
    max_tiles_ = std::max(max_tiles_, tiles.size());
    total_tiles_ += tiles.size();
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

// cuts_[s] = split_tiles(tiles, s, splits) in tokens, without a division a split: s * tiles / splits is carried as
// quotient and remainder.
void PlanBuilder::cut_row(std::int32_t row) {
  const std::int32_t splits = num_splits(row);
  const TokenRange tiles = row_tiles_[static_cast<std::size_t>(row)];
  const TokenRange attended = batch_.attended(row);
  const std::int32_t quotient = tiles.size() / splits;
  const std::int32_t step = tiles.size() % splits;
  std::int64_t tile = tiles.begin;
  std::int32_t remainder = 0;
  TokenRange cut = {.begin = attended.begin, .end = attended.begin};
  cuts_.resize(static_cast<std::size_t>(splits));
  for (std::uint64_t& words : cuts_) {
    remainder += step;
    const bool carry = remainder >= splits;
    remainder -= carry ? splits : 0;
    tile += quotient + (carry ? 1 : 0);
    cut.begin = cut.end;
    // 64 bits: a length near 2^31 rounds up past it.
    cut.end =
        static_cast<std::int32_t>(std::clamp<std::int64_t>(tile * options_.tile_tokens, attended.begin, attended.end));
    words = std::bit_cast<std::uint64_t>(cut);
  }
}

// Only the heads and the slot differ from one run of heads to the next.
void PlanBuilder::emit_tasks(std::int32_t row) {
  const std::int32_t splits = num_splits(row);
  if (splits == 0) {
    return;
  }
  cut_row(row);
  const std::int32_t num_kv_heads = batch_.shape().num_kv_heads;
  const std::int32_t row_slot = plan_.split_offsets_[static_cast<std::size_t>(row)];
  for (std::int32_t head = 0; head < num_kv_heads; head += plan_.kv_heads_per_task_) {
    const TaskHeads heads = {
        .row = row,
        .kv_head_begin = static_cast<std::int16_t>(head),
        .kv_head_end = static_cast<std::int16_t>(std::min(head + plan_.kv_heads_per_task_, num_kv_heads))};
    const TaskSlot slot = {.partial_slot = splits > 1 ? row_slot + head * splits : kNoSlot,
                           .slot_stride = splits > 1 ? splits : 0};
    write_tasks(plan_.tasks_.data() + num_emitted_, heads, cuts_, slot);
    num_emitted_ += static_cast<std::size_t>(splits);
  }
  // With no more splits than tiles none is empty, with more each tile is one.
  plan_.counters_.num_nonempty_tasks += std::min(splits, num_tiles(row)) * num_head_runs();
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
  const auto task_begin = static_cast<std::int32_t>(num_emitted_);
  const auto merge_begin = static_cast<std::int32_t>(plan_.merges_.size());
  for (std::size_t i = row_begin; i < row_end; ++i) {
    emit_tasks(plan_.row_order_[i]);
    emit_merge(plan_.row_order_[i]);
  }
  const auto task_end = static_cast<std::int32_t>(num_emitted_);
  const auto merge_end = static_cast<std::int32_t>(plan_.merges_.size());
  if (task_end > task_begin) {
    plan_.launches_.push_back({LaunchKind::kDecode, task_begin, task_end});
  }
  if (merge_end > merge_begin && options_.merge == MergeMode::kSeparate) {
    plan_.launches_.push_back({LaunchKind::kMerge, merge_begin, merge_end});
  }
}

void PlanBuilder::emit_all() {
  // Not cleared before: what a recycled plan holds is overwritten, so only growth is initialised first.
  const std::int64_t splits = std::accumulate(plan_.row_splits_.begin(), plan_.row_splits_.end(), std::int64_t{0});
  plan_.tasks_.resize(static_cast<std::size_t>(splits * num_head_runs()));
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
  counters.num_partial_slots = plan_.split_offsets_.back();
  counters.attended_tokens = batch_.attended_tokens();
  counters.merge_state_bytes = std::int64_t{counters.num_partial_slots} * shape.group_size() * (shape.head_dim + 2) * 4;
}

// The step belongs to another project's planner; what is counted is the one launch that the paper counts for it.
Plan PlanBuilder::build_external() {
  plan_.max_splits_ = 1;
  plan_.tasks_.clear();
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
