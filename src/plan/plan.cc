// Plan: names, counters and the printed form.
// Not here: how a plan is made (planner.cc).
#include "persistentkv/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

namespace pkv {

std::string_view route_name(Route route) {
  switch (route) {
    case Route::kRow: return "row";
    case Route::kPadded: return "padded";
    case Route::kBucket: return "bucket";
    case Route::kSplit: return "split";
    case Route::kWorkqueue: return "workqueue";
    case Route::kPages: return "pages";
    case Route::kFlashInferCore: return "flashinfer-core";
    case Route::kFlashInferTensor: return "flashinfer-tensor";
  }
  return "unknown";
}

Result<Route> parse_route(std::string_view name) {
  for (const Route route : kAllRoutes) {
    if (name == route_name(route)) {
      return route;
    }
  }
  for (const Route route : kExternalRoutes) {
    if (name == route_name(route)) {
      return route;
    }
  }
  return Error{ErrorCode::kInvalidArgument,
               fmt::format("unknown route '{}'; known: row, padded, bucket, split, workqueue, pages, flashinfer-core, "
                           "flashinfer-tensor",
                           name),
               "routes"};
}

std::string_view merge_mode_name(MergeMode mode) { return mode == MergeMode::kFused ? "fused" : "separate"; }

Result<MergeMode> parse_merge_mode(std::string_view name) {
  if (name == "separate") {
    return MergeMode::kSeparate;
  }
  if (name == "fused") {
    return MergeMode::kFused;
  }
  return Error{ErrorCode::kInvalidArgument, fmt::format("unknown merge mode '{}'; known: separate, fused", name),
               "merge"};
}

double PlanCounters::nonempty_share() const {
  return num_tasks == 0 ? 1.0 : static_cast<double>(num_nonempty_tasks) / num_tasks;
}

bool Plan::matches(const BatchState& batch) const {
  return page_size_ == batch.page_size() && shape_ == batch.shape() && std::ranges::equal(seq_lens_, batch.seq_lens());
}

std::string Plan::to_string(std::size_t max_tasks) const {
  std::string text = fmt::format(
      "plan {}: {} rows, {} attended tokens, {} tasks ({} non-empty) of {} KV heads, up to {} splits, {} partial "
      "slots, "
      "{} merge bytes\n",
      route_name(route_), seq_lens_.size(), counters_.attended_tokens, counters_.num_tasks,
      counters_.num_nonempty_tasks, kv_heads_per_task_, max_splits_, counters_.num_partial_slots,
      counters_.merge_state_bytes);
  auto out = std::back_inserter(text);
  for (const Launch& launch : launches_) {
    fmt::format_to(out, "  launch {} [{}, {})\n", launch.kind == LaunchKind::kDecode ? "decode" : "merge", launch.begin,
                   launch.end);
  }
  for (std::size_t i = 0; i < std::min(max_tasks, tasks_.size()); ++i) {
    const Task& task = tasks_[i];
    const std::string target =
        task.partial_slot == kNoSlot ? "output" : fmt::format("slot {} stride {}", task.partial_slot, task.slot_stride);
    fmt::format_to(out, "  task {}: row {} heads [{}, {}) tokens [{}, {}) -> {}\n", i, task.row, task.kv_head_begin,
                   task.kv_head_end, task.token_begin, task.token_end, target);
  }
  if (tasks_.size() > max_tasks) {
    fmt::format_to(out, "  ... {} more tasks\n", tasks_.size() - max_tasks);
  }
  return text;
}

}  // namespace pkv
