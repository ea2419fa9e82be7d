// The rule that divides a step on a GPU: a few chunk lengths, and for ragged rows a few counts a row, are priced with
// every kernel of the shape's class, and the cheapest is kept, counts where they are nearly as cheap, and many waves
// instead of a part of one. Host arithmetic over lengths, a few nanoseconds a row and cut. Not here: prices
// (gpu_kernels.cc), the paper's formula (paper_price.cc).
#include <algorithm>
#include <array>
#include <cstdlib>
#include <limits>
#include <optional>
#include <vector>

#include "base/math.h"
#include "cost/gpu_kernels.h"
#include "persistentkv/decision.h"
#include "persistentkv/layout.h"

namespace pkv {
namespace {

constexpr std::int32_t kTileTokens = 64;
constexpr std::int64_t kMinChunkTokens = 64;      // a tile of the plan
constexpr std::int64_t kMaxChunkTokens = 8192;    // above, only what fills the blocks once, and whole rows
constexpr std::int64_t kMaxBetweenTokens = 3072;  // chunks between powers of two are tried up to here
constexpr std::int64_t kMaxTasksPerSm = 64;       // of cut rows
constexpr std::int64_t kMaxSplits = 1 << 16;
// Equal counts are tried where the longest row is longer than the shortest by more than a quarter, for tasks of the
// longest row between these bounds.
constexpr std::int64_t kMinCountTokens = 512;
constexpr std::int64_t kMaxCountTokens = 4096;
constexpr std::int64_t kMinBetweenCountTokens = 1536;
// Between equals, counts: they end with the tasks of the shortest rows, and vary less from one GPU to the next (B4
// bimodal in 824 equal chunks 110 to 113 us on five H100s, in 992 equal counts 108.4 to 110.0).
constexpr double kCountShare = 0.992;
// A plan that leaves SMs idle (leaves_sms_idle) is kept only if every plan of so many waves is dearer by more.
constexpr double kIdleShare = 1.04;
constexpr double kManyWaves = 1.5;

constexpr std::size_t kMaxCuts = 48;      // remembered as perhaps near; a search looks at some 30
constexpr std::int64_t kOtherTasks = 10;  // near cuts have at least a tenth more tasks or fewer

class Search {
 public:
  /// `near_share`: cuts dearer than the cheapest by at most so much are remembered; none for 1. More cuts are priced
  /// for it, so that one of many waves may be found for a choice that leaves SMs idle where the rule alone finds none.
  Search(const BatchState& batch, const GpuMachine& machine, double near_share = 1.0)
      : shape_(batch.shape()), kernels_(gpu_kernel_class(batch.shape())), machine_(machine), near_share_(near_share) {
    rows_.reserve(static_cast<std::size_t>(batch.num_rows()));
    for (std::int32_t row = 0; row < batch.num_rows(); ++row) {
      const std::int64_t tokens = batch.attended(row).size();
      if (tokens > 0) {
        const auto len = static_cast<std::int32_t>(tokens);
        rows_.push_back({.len = len, .tiles = ceil_div(len, kTileTokens)});
        longest_ = std::max(longest_, tokens);
        shortest_ = std::min(shortest_, tokens);
        tokens_ += tokens * shape_.num_kv_heads;
      }
    }
  }

  /// Route and splits of the longest row; of that route only, if one is named.
  PlanOptions best(std::optional<Route> route) {
    chosen_.route = route.value_or(Route::kSplit);
    if (rows_.empty()) {
      return options_of(chosen_);
    }
    if (route != Route::kWorkqueue) {
      try_chunks();
    }
    const bool is_ragged = 4 * longest_ > 5 * shortest_;
    if (route == Route::kWorkqueue || (!route.has_value() && is_ragged)) {
      try_counts();
    }
    chosen_ = best_.leaves_idle && many_waves_.price < kIdleShare * best_.price ? many_waves_ : best_;
    return options_of(chosen_);
  }

  /// Of best(), which is called first; 0 if there is nothing to attend to.
  [[nodiscard]] double price_us() const { return rows_.empty() ? 0.0 : chosen_.price; }

  /// Of best(), which is called first.
  void near(GpuCuts& into) {
    const auto end = cuts_.begin() + static_cast<std::ptrdiff_t>(num_cuts_);
    std::sort(cuts_.begin(), end, [](const Cut& a, const Cut& b) { return a.price < b.price; });
    std::array<std::int64_t, GpuCuts::kMaxNear + 1> tasks = {chosen_.num_tasks};
    for (auto cut = cuts_.begin(); cut != end && into.num_near < GpuCuts::kMaxNear; ++cut) {
      const auto alike = [&](std::int64_t other) {
        return kOtherTasks * std::abs(cut->num_tasks - other) < std::max(cut->num_tasks, other);
      };
      if (cut->price <= near_share_ * chosen_.price && !cut->leaves_idle &&
          std::none_of(tasks.begin(), tasks.begin() + static_cast<std::ptrdiff_t>(into.num_near) + 1, alike)) {
        into.near[into.num_near++] = {.options = options_of(*cut), .us = cut->price};
        tasks[into.num_near] = cut->num_tasks;
      }
    }
  }

 private:
  void try_chunks() {
    consider_chunk(longest_);
    try_even_waves();
    const std::int64_t least =
        std::max({kMinChunkTokens, tokens_ / (kMaxTasksPerSm * machine_.num_sms), longest_ / kMaxSplits});
    for (std::int64_t chunk = kMinChunkTokens; chunk < longest_ && chunk <= std::max(kMaxChunkTokens, 2 * least);
         chunk *= 2) {
      if (chunk >= least) consider_chunk(chunk);
      const std::int64_t between = chunk + chunk / 2;
      if (between <= kMaxBetweenTokens && between >= least && between < longest_) consider_chunk(between);
    }
  }

  void try_counts() {
    const std::int64_t least = std::max(kMinCountTokens, longest_ / kMaxSplits);
    for (std::int64_t chunk = least; chunk <= std::max(kMaxCountTokens, 2 * least); chunk *= 2) {
      consider_count(ceil_div(longest_, std::min(longest_, chunk)));
      if (chunk >= longest_) break;
      const std::int64_t between = chunk + chunk / 2;
      if (between >= kMinBetweenCountTokens && between <= kMaxCountTokens && between < longest_) {
        consider_count(ceil_div(longest_, between));
      }
    }
  }

  /// As many splits as fill the blocks of each kernel once.
  void try_even_waves() {
    const auto units = static_cast<std::int64_t>(rows_.size()) * shape_.num_kv_heads;
    for (const GpuKernelCost& kernel : kernels_.widths) {
      const std::int64_t splits = std::int64_t{machine_.num_sms} * kernel.blocks_per_sm / units;
      if (splits > 1) {
        const std::int64_t chunk = ceil_div(longest_, splits);
        if (chunk >= kMinChunkTokens) consider_chunk(chunk);
      }
    }
  }

  /// Rows in chunks of one length, as make_plan cuts them by route split.
  void consider_chunk(std::int64_t chunk) {
    const std::int64_t splits = ceil_div(longest_, chunk);
    const auto chunk_tiles = static_cast<std::int32_t>(ceil_div(ceil_div<std::int64_t>(longest_, kTileTokens), splits));
    for (Row& row : rows_) {
      row.splits = ceil_div(row.tiles, chunk_tiles);
    }
    consider(Route::kSplit, splits, std::min(longest_, std::int64_t{chunk_tiles} * kTileTokens));
  }

  /// Every row in as many tasks, by route workqueue: tasks of short rows are small and run last, so that a launch
  /// ends level.
  void consider_count(std::int64_t splits) {
    const std::int64_t tiles = ceil_div<std::int64_t>(longest_, kTileTokens);
    for (Row& row : rows_) {
      row.splits = std::min(static_cast<std::int32_t>(splits), row.tiles);
    }
    consider(Route::kWorkqueue, splits, std::min(longest_, ceil_div(tiles, splits) * kTileTokens));
  }

  /// The rows' splits, unless they cannot be cheapest.
  void consider(Route route, std::int64_t splits, std::int64_t longest_task) {
    std::int64_t num_tasks = 0;
    for (const Row& row : rows_) {
      num_tasks += std::int64_t{row.splits} * shape_.num_kv_heads;
    }
    const double share = route == Route::kWorkqueue ? kCountShare : 1.0;
    const bool may_win_dearer = best_.leaves_idle && static_cast<double>(num_tasks) >= kManyWaves * machine_.num_sms;
    const double to_win = may_win_dearer ? std::min(kIdleShare * best_.price, many_waves_.price) : best_.price;
    const double limit = std::max(to_win, near_share_ * best_.price) / share;
    if (least_gpu_price(shape_, kernels_, num_tasks, tokens_, longest_task, machine_).least_us() > limit) {
      return;
    }
    TaskSizes sizes(longest_task);
    for (const Row& row : rows_) {
      const std::int64_t tasks = std::int64_t{row.splits} * shape_.num_kv_heads;
      sizes.add(ceil_div(row.len, row.splits), tasks);
      sizes.add_slots(row.splits > 1 ? tasks : 0);
    }
    const WidthPrice cheapest = cheapest_width(shape_, kernels_, sizes, machine_, limit);
    const std::int32_t blocks_per_sm = kernels_.at(cheapest.width).blocks_per_sm;
    const Cut cut = {.price = cheapest.price.total_us() * share,
                     .route = route,
                     .splits = static_cast<std::int32_t>(splits),
                     .num_tasks = num_tasks,
                     .leaves_idle = leaves_sms_idle(shape_, blocks_per_sm, num_tasks, tokens_, longest_task, machine_)};
    if (near_share_ > 1.0 && num_cuts_ < kMaxCuts) {
      cuts_[num_cuts_++] = cut;
    }
    if (cut.price < best_.price) {
      best_ = cut;
    }
    const double waves = static_cast<double>(num_tasks) / (static_cast<double>(machine_.num_sms) * blocks_per_sm);
    if (waves >= kManyWaves && cut.price < many_waves_.price) {
      many_waves_ = cut;
    }
  }

  struct Row {
    std::int32_t len = 0;  // attended tokens, at least one
    std::int32_t tiles = 0;
    std::int32_t splits = 0;  // of the cut that is considered
  };
  struct Cut {
    double price = std::numeric_limits<double>::infinity();
    Route route = Route::kSplit;
    std::int32_t splits = 1;
    std::int64_t num_tasks = 0;
    bool leaves_idle = false;
  };

  [[nodiscard]] PlanOptions options_of(const Cut& cut) const {
    return {.route = cut.route, .splits = cut.splits, .num_workers = machine_.num_sms, .tile_tokens = kTileTokens};
  }

  const AttentionShape& shape_;
  const GpuKernelClass& kernels_;
  const GpuMachine machine_;
  const double near_share_;
  std::vector<Row> rows_;  // that attend to anything
  std::int64_t longest_ = 0;
  std::int64_t shortest_ = std::numeric_limits<std::int64_t>::max();
  std::int64_t tokens_ = 0;  // of all (row, KV head)
  Cut best_;
  Cut many_waves_;  // the cheapest of kManyWaves and more
  Cut chosen_;
  std::array<Cut, kMaxCuts> cuts_;
  std::size_t num_cuts_ = 0;
};

}  // namespace

PlanOptions gpu_rule(const BatchState& batch, const GpuMachine& machine, std::optional<Route> route) {
  return Search(batch, machine).best(route);
}

GpuCuts gpu_cuts(const BatchState& batch, const GpuMachine& machine, std::optional<Route> route, double share) {
  Search search(batch, machine, share);
  GpuCuts cuts;
  cuts.chosen.options = search.best(route);
  cuts.chosen.us = search.price_us();
  search.near(cuts);
  return cuts;
}

}  // namespace pkv
