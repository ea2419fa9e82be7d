// Plan: one decode step as an immutable list of tasks, merges and launches. Pure host data.
// Not here: prices (decision.h), execution (backend.h).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "persistentkv/batch.h"
#include "persistentkv/dtype.h"
#include "persistentkv/result.h"

namespace pkv {

/// How a step is divided (paper, "The schedules"; `split` and `pages` are ours).
enum class Route : std::uint8_t {
  kRow,        // one task a row and KV head; no merge
  kPadded,     // one rectangular grid (row, KV head, split); short rows pay for empty splits
  kBucket,     // rows of equal length share a decode and a merge launch
  kSplit,      // one chunk length for all rows, so long rows get more splits (Flash-Decoding)
  kWorkqueue,  // the same number of splits a row, non-empty tasks only, compact slots
  kPages,      // as split, but a task walks whole pages: all KV heads of its token range
  // A kernel of another project plans and runs the step; the plan only names it (no tasks, one launch).
  kFlashInferCore,    // FlashInfer's paged batch decode on CUDA cores
  kFlashInferTensor,  // FlashInfer's paged batch decode on tensor cores
};

inline constexpr Route kAllRoutes[] = {Route::kRow,   Route::kPadded,    Route::kBucket,
                                       Route::kSplit, Route::kWorkqueue, Route::kPages};

/// The routes that are not ours: run only by a backend that was built with that project.
inline constexpr Route kExternalRoutes[] = {Route::kFlashInferCore, Route::kFlashInferTensor};
constexpr bool is_external(Route route) { return route == Route::kFlashInferCore || route == Route::kFlashInferTensor; }

/// "row", "padded", "bucket", "split", "workqueue", "pages", "flashinfer-core", "flashinfer-tensor".
std::string_view route_name(Route route);
/// Errors: kInvalidArgument that lists the names.
Result<Route> parse_route(std::string_view name);

/// partial_slot of a task that writes its output itself.
inline constexpr std::int32_t kNoSlot = -1;

/// A unit of work: tokens [token_begin, token_end) of one row, for the KV heads
/// [kv_head_begin, kv_head_end) and all query heads of their groups.
struct Task {
  std::int32_t row = 0;
  std::int16_t kv_head_begin = 0;
  std::int16_t kv_head_end = 0;
  std::int32_t token_begin = 0;
  std::int32_t token_end = 0;
  /// Slot of kv_head_begin, or kNoSlot. KV head h uses partial_slot + (h - kv_head_begin) * slot_stride.
  std::int32_t partial_slot = kNoSlot;
  /// Splits of the row: slots from one KV head to the next.
  std::int32_t slot_stride = 0;

  [[nodiscard]] bool empty() const { return token_begin == token_end; }
  friend bool operator==(const Task&, const Task&) = default;
};

/// Slots of one row to merge: KV head h owns [slot_begin + h * num_splits, + num_splits).
/// num_splits 0 is a row with nothing to attend: the merge writes its empty output.
struct MergeRange {
  std::int32_t row = 0;
  std::int32_t slot_begin = 0;
  std::int32_t num_splits = 0;

  friend bool operator==(const MergeRange&, const MergeRange&) = default;
};

/// Who merges the partial states of a (row, KV head).
enum class MergeMode : std::uint8_t {
  kSeparate,  // a merge launch after the decode launch
  kFused,     // the task that finishes last, inside the decode launch (the paper's ablation)
};

/// "separate", "fused".
std::string_view merge_mode_name(MergeMode mode);
/// Errors: kInvalidArgument that lists the names.
Result<MergeMode> parse_merge_mode(std::string_view name);

enum class LaunchKind : std::uint8_t { kDecode, kMerge };

/// A kernel launch (GPU) or a fork-join of the workers (CPU) over tasks or merge ranges
/// [begin, end). Launches run one after the other; work inside one is independent.
struct Launch {
  LaunchKind kind = LaunchKind::kDecode;
  std::int32_t begin = 0;
  std::int32_t end = 0;

  friend bool operator==(const Launch&, const Launch&) = default;
};

/// The paper's workload counters of one step.
struct PlanCounters {
  std::int32_t num_launches = 0;  // decode and merge
  std::int32_t num_merge_launches = 0;
  std::int32_t num_tasks = 0;  // empty ones included
  std::int32_t num_nonempty_tasks = 0;
  std::int32_t num_partial_slots = 0;  // (row, KV head, split) states
  std::int64_t attended_tokens = 0;    // over rows
  std::int64_t merge_state_bytes = 0;  // slots * group_size * (head_dim + 2) * 4

  /// Non-empty tasks / tasks; 1 for no tasks.
  [[nodiscard]] double nonempty_share() const;
};

struct PlanOptions {
  Route route = Route::kWorkqueue;
  /// Splits a row (padded, bucket, workqueue) or of the longest row (split, pages); the route chooses
  /// from num_workers when not set. `row` takes none or 1.
  std::optional<std::int32_t> splits = std::nullopt;
  /// Workers or SMs that the route's own choice should keep busy.
  std::int32_t num_workers = 1;
  /// Tokens a tile; splits begin at multiples of it.
  std::int32_t tile_tokens = 32;
  /// KV heads a task; all heads for `pages`, else one, when not set. The last task of a row takes
  /// what is left.
  std::optional<std::int32_t> kv_heads_per_task = std::nullopt;
  /// kFused: the last finisher of each (row, run of KV heads) is counted. GPUs take one KV head a task with it.
  MergeMode merge = MergeMode::kSeparate;
};

/// Immutable after make_plan; any backend runs any plan. It carries the lengths and the shape that
/// it was made for, and run() refuses a batch that differs. A row that attends to no token has no task
/// in a compact route (split, workqueue, pages); its output comes from a merge range with no splits, or,
/// where merges are fused, from one empty task a run of KV heads.
class Plan {
 public:
  Plan() = default;

  [[nodiscard]] Route route() const { return route_; }
  [[nodiscard]] const AttentionShape& shape() const { return shape_; }
  [[nodiscard]] std::int32_t page_size() const { return page_size_; }
  [[nodiscard]] std::int32_t tile_tokens() const { return tile_tokens_; }
  [[nodiscard]] std::int32_t kv_heads_per_task() const { return kv_heads_per_task_; }
  /// Splits of the row that has most.
  [[nodiscard]] std::int32_t max_splits() const { return max_splits_; }
  /// kFused: merges() lists the ranges, and no launch covers them.
  [[nodiscard]] MergeMode merge_mode() const { return merge_mode_; }
  [[nodiscard]] std::span<const std::int32_t> seq_lens() const { return seq_lens_; }
  /// In the order they should be taken: longest first inside a launch.
  [[nodiscard]] std::span<const Task> tasks() const { return tasks_; }
  [[nodiscard]] std::span<const MergeRange> merges() const { return merges_; }
  [[nodiscard]] std::span<const Launch> launches() const { return launches_; }
  /// Row r owns the slots [split_offsets[r], split_offsets[r + 1]); [num_rows + 1].
  [[nodiscard]] std::span<const std::int32_t> split_offsets() const { return split_offsets_; }
  [[nodiscard]] const PlanCounters& counters() const { return counters_; }
  /// True if the batch may be run with this plan: same shape, page size and lengths.
  [[nodiscard]] bool matches(const BatchState& batch) const;

  /// Human-readable: route, counters, launches, and the first `max_tasks` tasks.
  [[nodiscard]] std::string to_string(std::size_t max_tasks = 16) const;

 private:
  friend class PlanBuilder;
  Route route_ = Route::kRow;
  AttentionShape shape_;
  std::int32_t page_size_ = 0;
  std::int32_t tile_tokens_ = 0;
  std::int32_t kv_heads_per_task_ = 1;
  std::int32_t max_splits_ = 1;
  MergeMode merge_mode_ = MergeMode::kSeparate;
  std::vector<std::int32_t> seq_lens_;
  std::vector<Task> tasks_;
  std::vector<MergeRange> merges_;
  std::vector<Launch> launches_;
  std::vector<std::int32_t> split_offsets_;
  std::vector<std::int32_t> row_splits_;  // by row
  std::vector<std::int32_t> row_order_;   // rows in the order of their tasks
  PlanCounters counters_;
};

/// Tiles of split s of num_splits over num_tiles (paper, "The engine"):
/// [floor(T s / S), floor(T (s + 1) / S)).
constexpr TokenRange split_tiles(std::int32_t num_tiles, std::int32_t s, std::int32_t num_splits) {
  const auto bound = [&](std::int64_t i) { return static_cast<std::int32_t>(num_tiles * i / num_splits); };
  return {.begin = bound(s), .end = bound(s + 1)};
}

/// Divides a step by a route. Touches no K,V data and no block table; time linear in tasks plus
/// rows * log(rows). `recycled` is a plan that is no longer needed: its memory is reused, so that a
/// steady stream of steps allocates nothing.
/// Errors: kInvalidArgument (options), kOutOfRange (more than 2^24 tasks or INT32_MAX slots),
/// kResourceExhausted (memory).
Result<Plan> make_plan(const BatchState& batch, const PlanOptions& options, Plan&& recycled = {});

}  // namespace pkv
