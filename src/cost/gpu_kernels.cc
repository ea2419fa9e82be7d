// Prices fitted to 829 steps on an H100: 29 of ../shared/gpu and the random samples of bench/gpu with seeds 20260623,
// 1, 2 and 3, each in equal chunks of 128 to 8192 tokens or uncut, ragged ones in equal counts, too, and run by every
// kernel of its class (bench/gpu/sweep.py, fit_prices.py; the standard steps weighed six times). On them the cheapest
// by price is 1.0% slower than the fastest on average, 5% at the 95th percentile, 20% at worst; prices err by 5 to 11%
// at the median. Not here: the search (gpu_rule.cc).
#include "cost/gpu_kernels.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/math.h"

namespace pkv {
namespace {

constexpr double kReadBytesPerUs = 3.2e6 / 132;  // of an SM, when all read
constexpr std::int64_t kMaxWaves = 64;           // looked at one by one

// head_dim, group, start, merge, merge a MB, evening, sparing, then {blocks, task us, token ns, uneven}: wide, half,
// quarter, single.
constexpr GpuKernelClass kClasses[] = {
    {64,
     8,
     1.22,
     1.41,
     0.42,
     0.59,
     1.92,
     {{{1, 2.54, 3.99, 0.209}, {2, 3.31, 6.72, 0.116}, {5, 3.09, 15.33, 0.185}, {12, 3.81, 41.91, 0.104}}}},
    {64,
     16,
     2.28,
     0.46,
     0.58,
     1.00,
     3.32,
     {{{1, 3.47, 3.79, 0.425}, {2, 3.57, 7.60, 0.280}, {}, {10, 4.71, 59.24, 0.014}}}},
    {64, 32, 1.72, 1.23, 0.53, 1.00, 3.31, {{{1, 4.84, 6.05, 0.390}, {2, 5.20, 12.69, 0.190}, {}, {}}}},
    {128,
     8,
     1.79,
     1.28,
     0.59,
     0.73,
     1.51,
     {{{1, 2.62, 7.15, 0.082}, {2, 2.58, 12.67, 0.101}, {4, 3.22, 26.75, 0.092}, {8, 3.25, 56.74, 0.071}}}},
    {128, 16, 1.32, 1.45, 0.34, 1.00, 1.80, {{{1, 4.57, 8.20, 0.134}, {2, 4.69, 15.97, 0.185}, {}, {}}}},
    {128, 32, 1.59, 1.51, 0.47, 0.87, 2.82, {{{1, 6.85, 14.09, 0.002}, {2, 5.61, 34.54, 0.003}, {}, {}}}},
    {256,
     8,
     1.85,
     1.44,
     0.59,
     0.71,
     2.20,
     {{{1, 5.24, 9.76, 0.079}, {2, 4.56, 26.19, 0.049}, {}, {6, 5.94, 91.44, 0.012}}}},
    {256, 16, 3.14, 0.53, 0.32, 0.81, 3.92, {{{1, 5.39, 17.23, 0.139}, {2, 5.61, 41.25, 0.051}, {}, {}}}},
    {256, 32, 2.23, 1.90, 0.07, 1.00, 4.00, {{{1, 7.17, 29.05, 0.002}, {}, {}, {}}}},
};

/// Tasks drawn longest first: the k-th wave ends no earlier than k + 1 times the task that begins it.
double blocks_us(const GpuKernelCost& kernel, const TaskSizes& sizes, std::int64_t blocks) {
  const auto cost = [&](double tokens) { return kernel.task_us + kernel.token_ns * 1e-3 * tokens; };
  const auto num_tasks = static_cast<double>(sizes.num_tasks());
  const double even = (num_tasks * kernel.task_us + static_cast<double>(sizes.tokens()) * kernel.token_ns * 1e-3) /
                      static_cast<double>(blocks);
  double most = std::max(even, cost(static_cast<double>(sizes.longest())));
  const std::int64_t last = std::min(kMaxWaves, (sizes.num_tasks() - 1) / blocks);
  std::int64_t seen = 0;  // waves that have begun; of those that begin in one bin the last counts
  sizes.descend([&](std::int64_t tasks_so_far, double tokens) {
    if (seen < last && (seen + 1) * blocks < tasks_so_far) {
      seen = std::min(last, (tasks_so_far - 1) / blocks);
      most = std::max(most, static_cast<double>(seen + 1) * cost(tokens));
    }
  });
  return most;
}

}  // namespace

const GpuKernelClass& gpu_kernel_class(const AttentionShape& shape) {
  for (const GpuKernelClass& kernels : kClasses) {
    if (shape.head_dim <= kernels.head_dim && shape.group_size() <= kernels.group_size) {
      return kernels;
    }
  }
  return kClasses[std::size(kClasses) - 1];
}

void TaskSizes::add(std::int64_t tokens, std::int64_t count) {
  // As in whole numbers: the quotient of two of them is never rounded up to the next.
  const auto bin = static_cast<std::size_t>(static_cast<double>(std::min(tokens, longest_) * kBins) /
                                            static_cast<double>(longest_ + 1));
  counts_[bin] += count;
  sums_[bin] += tokens * count;
  num_tasks_ += count;
  tokens_ += tokens * count;
}

double TaskSizes::last() const {
  const double wanted = kLastShare * static_cast<double>(tokens_);
  double left = wanted;
  double weighed = 0.0;
  for (std::size_t bin = 0; bin < kBins && left > 0.0; ++bin) {
    if (counts_[bin] > 0) {
      const double taken = std::min(left, static_cast<double>(sums_[bin]));
      weighed += taken * static_cast<double>(sums_[bin]) / static_cast<double>(counts_[bin]);
      left -= taken;
    }
  }
  return wanted > 0.0 ? weighed / wanted : 0.0;
}

template <typename Visit>
void TaskSizes::descend(Visit visit) const {
  std::int64_t above = 0;
  for (std::size_t bin = kBins; bin-- > 0;) {
    if (counts_[bin] > 0) {
      above += counts_[bin];
      visit(above, static_cast<double>(sums_[bin]) / static_cast<double>(counts_[bin]));
    }
  }
}

double GpuPrice::decode_us() const { return std::sqrt(read_us * read_us + busy_us * busy_us); }

namespace {

/// As if SMs read evenly: no more than the price.
GpuPrice even_price(const AttentionShape& shape, const GpuKernelClass& kernels, KernelWidth width,
                    const TaskSizes& sizes, std::int32_t num_sms) {
  const GpuKernelCost& kernel = kernels.at(width);
  GpuPrice price;
  price.start_us = kernels.start_us;
  price.read_us = static_cast<double>(sizes.tokens()) * shape.head_dim * 4 / (kReadBytesPerUs * num_sms);
  price.busy_us = blocks_us(kernel, sizes, std::int64_t{num_sms} * kernel.blocks_per_sm);
  if (sizes.num_slots() > 0) {
    const double state_bytes = static_cast<double>(sizes.num_slots()) * shape.group_size() * shape.head_dim * 4;
    price.merge_us = kernels.merge_us + kernels.merge_us_per_mb * state_bytes * 1e-6;
  }
  return price;
}

/// What unevenness multiplies reading by.
double uneven_factor(const GpuKernelClass& kernels, KernelWidth width, const TaskSizes& sizes, std::int32_t num_sms) {
  const GpuKernelCost& kernel = kernels.at(width);
  const auto num_tasks = static_cast<double>(sizes.num_tasks());
  const double blocks_a_task = static_cast<double>(std::int64_t{num_sms} * kernel.blocks_per_sm) / num_tasks;
  const double full =
      blocks_a_task < 1.0 ? std::pow(blocks_a_task, kernels.evening) : std::pow(blocks_a_task, -kernels.sparing);
  const double last_of_mean = sizes.last() * num_tasks / std::max(static_cast<double>(sizes.tokens()), 1.0);
  return 1.0 + kernel.uneven * full * last_of_mean;
}

}  // namespace

GpuPrice gpu_price(const AttentionShape& shape, const GpuKernelClass& kernels, KernelWidth width,
                   const TaskSizes& sizes, std::int32_t num_sms) {
  GpuPrice price = even_price(shape, kernels, width, sizes, num_sms);
  price.read_us *= uneven_factor(kernels, width, sizes, num_sms);
  return price;
}

WidthPrice cheapest_width(const AttentionShape& shape, const GpuKernelClass& kernels, const TaskSizes& sizes,
                          std::int32_t num_sms) {
  WidthPrice best;
  double least_us = std::numeric_limits<double>::infinity();
  for (int i = 0; i < kNumKernelWidths; ++i) {
    const auto width = static_cast<KernelWidth>(i);
    if (kernels.at(width).blocks_per_sm == 0) {
      continue;
    }
    GpuPrice price = even_price(shape, kernels, width, sizes, num_sms);
    if (price.total_us() < least_us) {
      price.read_us *= uneven_factor(kernels, width, sizes, num_sms);
      if (price.total_us() < least_us) {
        least_us = price.total_us();
        best = {.width = width, .price = price};
      }
    }
  }
  return best;
}

GpuPrice least_gpu_price(const AttentionShape& shape, const GpuKernelClass& kernels, std::int64_t num_tasks,
                         std::int64_t tokens, std::int64_t longest, std::int32_t num_sms) {
  GpuPrice least;
  least.start_us = kernels.start_us;
  least.read_us = static_cast<double>(tokens) * shape.head_dim * 4 / (kReadBytesPerUs * num_sms);
  least.busy_us = std::numeric_limits<double>::infinity();
  for (const GpuKernelCost& kernel : kernels.widths) {
    if (kernel.blocks_per_sm == 0) {
      continue;
    }
    const double blocks = static_cast<double>(std::int64_t{num_sms} * kernel.blocks_per_sm);
    const double token_us = kernel.token_ns * 1e-3;
    const double even =
        (static_cast<double>(num_tasks) * kernel.task_us + static_cast<double>(tokens) * token_us) / blocks;
    least.busy_us = std::min(least.busy_us, std::max(even, kernel.task_us + static_cast<double>(longest) * token_us));
  }
  return least;
}

namespace {

/// A row's tasks of one KV head, as the planner cuts them: `splits` parts of `tiles` tiles.
struct RowCut {
  std::int32_t tokens = 0;  // attended
  std::int32_t tiles = 0;
  std::int32_t splits = 0;
  std::int32_t head_gap = 0;  // tokens of the first tile that are not attended, and of the last
  std::int32_t tail_gap = 0;
};

bool keeps_empty_tasks(const Plan& plan) {
  const bool is_grid = plan.route() == Route::kRow || plan.route() == Route::kPadded || plan.route() == Route::kBucket;
  return is_grid || plan.merge_mode() == MergeMode::kFused;
}

RowCut cut_of(const Plan& plan, std::size_t row) {
  const TokenRange attended = plan.shape().attended(plan.seq_lens()[row]);
  const std::int32_t tile = plan.tile_tokens();
  const std::int32_t first_tile = attended.begin / tile;
  const std::int32_t tiles = ceil_div(attended.end, tile) - first_tile;
  const std::int32_t slots = plan.split_offsets()[row + 1] - plan.split_offsets()[row];
  const std::int32_t whole = attended.size() > 0 || keeps_empty_tasks(plan) ? 1 : 0;
  return {.tokens = attended.size(),
          .tiles = tiles,
          .splits = slots > 0 ? slots / plan.shape().num_kv_heads : whole,
          .head_gap = attended.begin - first_tile * tile,
          .tail_gap = static_cast<std::int32_t>((std::int64_t{first_tile} + tiles) * tile - attended.end)};
}

/// visit(tokens of a task, such tasks) for the tasks of a KV head. All splits have the tiles of an even division or
/// one more; the first with any begins at a gap, the last ends at one.
template <typename Visit>
void visit_tasks(const RowCut& cut, std::int32_t tile, Visit visit) {
  if (cut.splits <= 1 || cut.tiles <= 1) {
    visit(cut.tokens, std::min(cut.splits, 1));
    visit(0, cut.splits - std::min(cut.splits, 1));
    return;
  }
  const std::int64_t low = cut.tiles / cut.splits;
  const std::int32_t num_high = cut.tiles % cut.splits;
  const std::int64_t first = low > 0 ? low : 1;
  const std::int64_t last = num_high > 0 ? low + 1 : low;
  visit(first * tile - cut.head_gap, 1);
  visit(last * tile - cut.tail_gap, 1);
  const auto ends_of = [&](std::int64_t tiles) { return (first == tiles ? 1 : 0) + (last == tiles ? 1 : 0); };
  visit((low + 1) * tile, num_high - ends_of(low + 1));
  visit(low * tile, cut.splits - num_high - ends_of(low));
}

/// Task by task: plans whose tasks are not as visit_tasks() has them.
TaskSizes sizes_of_each(const Plan& plan) {
  const auto heads = [](const Task& task) { return std::int64_t{task.kv_head_end} - task.kv_head_begin; };
  const auto tokens = [](const Task& task) { return std::int64_t{task.token_end} - task.token_begin; };
  std::int64_t longest = 1;
  for (const Task& task : plan.tasks()) {
    longest = std::max(longest, tokens(task) * heads(task));
  }
  TaskSizes sizes(longest);
  for (const Task& task : plan.tasks()) {
    sizes.add(tokens(task), heads(task));  // one after the other, each with its own beginning and end
  }
  sizes.add_slots(plan.counters().num_partial_slots);
  return sizes;
}

}  // namespace

// By row, as a step has a hundred times fewer rows than tasks.
TaskSizes task_sizes(const Plan& plan) {
  const std::int32_t heads = plan.shape().num_kv_heads;
  const std::size_t num_rows = plan.split_offsets().empty() ? 0 : plan.seq_lens().size();
  std::int64_t longest = 1;
  std::int64_t num_tasks = 0;
  for (std::size_t row = 0; row < num_rows; ++row) {
    const RowCut cut = cut_of(plan, row);
    visit_tasks(cut, plan.tile_tokens(), [&](std::int64_t tokens, std::int32_t count) {
      longest = count > 0 ? std::max(longest, tokens * plan.kv_heads_per_task()) : longest;
    });
    num_tasks += std::int64_t{cut.splits} * ceil_div(heads, plan.kv_heads_per_task());
  }
  if (num_tasks != plan.counters().num_tasks) {
    return sizes_of_each(plan);
  }
  TaskSizes sizes(longest);
  for (std::size_t row = 0; row < num_rows; ++row) {
    visit_tasks(cut_of(plan, row), plan.tile_tokens(), [&](std::int64_t tokens, std::int32_t count) {
      if (count > 0) {
        sizes.add(tokens, std::int64_t{count} * heads);
      }
    });
  }
  sizes.add_slots(plan.counters().num_partial_slots);
  return sizes;
}

KernelWidth width_for(const Plan& plan, std::int32_t num_sms) {
  if (plan.tasks().empty()) {
    return KernelWidth::kWide;
  }
  return cheapest_width(plan.shape(), gpu_kernel_class(plan.shape()), task_sizes(plan), num_sms).width;
}

}  // namespace pkv
