// Prices fitted to 842 steps on an H200 and 232 on an H100, and to 307 of 64 MiB and more that an H100 ran before merge
// kernels started early: the random samples of bench/gpu with seeds 20260623 and 1 to 3, a grid of small steps of equal
// rows, and the steps of ../shared/gpu (twenty times the weight), each in equal chunks of 64 to 8192 tokens or uncut,
// ragged ones in equal counts, too, and run by every kernel of its class (bench/gpu/sweep.py, fit_prices.py). On them
// the cheapest by price is 2.4% slower than the fastest on average, most on steps of under 10 us; prices err by 5 to 9%
// at the median of a class. Not here: the search (gpu_rule.cc).
#include "cost/gpu_kernels.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/math.h"

namespace pkv {
namespace {

constexpr double kLeastStartUs = 0.3;
constexpr std::int64_t kMaxWaves = 64;  // looked at one by one

// head_dim, group, start, overlap, merge, merge a MB, evening, sparing, then {blocks, task us, token ns, uneven}: wide,
// half, quarter, single.
constexpr GpuKernelClass kClasses[] = {
    {64,
     8,
     3.01,
     1.89,
     0.28,
     0.90,
     1.00,
     1.32,
     {{{1, 2.96, 3.61, 0.097}, {2, 2.50, 7.80, 0.124}, {5, 2.04, 14.47, 0.185}, {12, 1.98, 40.34, 0.122}}}},
    {64,
     16,
     2.55,
     1.81,
     0.07,
     0.96,
     0.70,
     2.96,
     {{{1, 3.05, 3.36, 0.115}, {2, 3.17, 7.50, 0.061}, {}, {10, 2.26, 64.06, 0.002}}}},
    {64, 32, 2.87, 1.58, 0.05, 1.60, 0.64, 0.03, {{{1, 3.00, 7.74, 0.002}, {2, 2.90, 13.53, 0.047}, {}, {}}}},
    {128,
     8,
     3.47,
     2.00,
     0.05,
     0.74,
     0.87,
     2.72,
     {{{1, 3.52, 5.91, 0.059}, {2, 2.22, 13.21, 0.052}, {4, 2.08, 29.44, 0.070}, {8, 2.54, 55.34, 0.049}}}},
    {128, 16, 2.11, 1.97, 0.07, 0.65, 1.00, 3.90, {{{1, 4.29, 8.64, 0.147}, {2, 5.05, 14.76, 0.121}, {}, {}}}},
    {128, 32, 0.92, 2.00, 0.08, 0.91, 0.91, 3.95, {{{1, 5.05, 15.75, 0.002}, {2, 6.43, 40.81, 0.002}, {}, {}}}},
    {256,
     8,
     3.02,
     1.72,
     0.06,
     1.08,
     0.87,
     3.98,
     {{{1, 3.86, 11.52, 0.069}, {2, 3.48, 31.06, 0.004}, {}, {6, 3.72, 90.14, 0.002}}}},
    {256, 16, 1.75, 1.74, 0.07, 0.45, 0.93, 3.80, {{{1, 5.69, 19.02, 0.148}, {2, 5.56, 49.36, 0.002}, {}, {}}}},
    {256, 32, 1.94, 0.94, 0.05, 0.67, 0.96, 4.00, {{{1, 5.43, 32.76, 0.002}, {}, {}, {}}}},
};

double task_us(const GpuKernelCost& kernel, double tokens) { return kernel.task_us + kernel.token_ns * 1e-3 * tokens; }

/// An even division, or the longest task alone.
double least_blocks_us(const GpuKernelCost& kernel, const TaskSizes& sizes, std::int64_t blocks) {
  const auto num_tasks = static_cast<double>(sizes.num_tasks());
  const double even = (num_tasks * kernel.task_us + static_cast<double>(sizes.tokens()) * kernel.token_ns * 1e-3) /
                      static_cast<double>(blocks);
  return std::max(even, task_us(kernel, static_cast<double>(sizes.longest())));
}

/// Tasks drawn longest first: the k-th wave ends no earlier than k + 1 times the task that begins it.
double blocks_us(const GpuKernelCost& kernel, const TaskSizes& sizes, std::int64_t blocks) {
  double most = least_blocks_us(kernel, sizes, blocks);
  const std::int64_t last = std::min(kMaxWaves, (sizes.num_tasks() - 1) / blocks);
  std::int64_t seen = 0;  // waves that have begun; of those that begin in one bin the last counts
  if (last == 0) {
    return most;
  }
  sizes.descend([&](std::int64_t tasks_so_far, double tokens) {
    if (seen < last && (seen + 1) * blocks < tasks_so_far) {
      seen = std::min(last, (tasks_so_far - 1) / blocks);
      most = std::max(most, static_cast<double>(seen + 1) * task_us(kernel, tokens));
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

/// Tasks of a launch that leave room for as many blocks of the next kernel, and for the merge kernel's beside them: a
/// block an SM where an SM holds several; else half of the SMs, or fewer where the merge kernel needs registers of SMs
/// of its own.
double overlap_tasks(const GpuKernelClass& kernels, const GpuKernelCost& kernel, const GpuMachine& machine) {
  const bool has_registers_left = kernels.head_dim <= 128 && kernels.group_size <= 8;
  const double share = kernel.blocks_per_sm > 1 ? 1.0 : has_registers_left ? 0.5 : 0.28;
  return share * machine.num_sms;
}

std::int64_t num_blocks(const GpuKernelCost& kernel, const GpuMachine& machine) {
  return std::int64_t{machine.num_sms} * kernel.blocks_per_sm;
}

/// As if SMs read evenly and waves ended level: no more than the price.
GpuPrice level_price(const AttentionShape& shape, const GpuKernelClass& kernels, const GpuKernelCost& kernel,
                     const TaskSizes& sizes, const GpuMachine& machine) {
  GpuPrice price;
  price.start_us = kernels.start_us;
  if (static_cast<double>(sizes.num_tasks()) <= overlap_tasks(kernels, kernel, machine)) {
    price.start_us = std::max(kLeastStartUs, price.start_us - kernels.overlap_us);
  }
  price.read_us = static_cast<double>(sizes.tokens()) * shape.head_dim * 4 / machine.read_bytes_per_us;
  price.busy_us = least_blocks_us(kernel, sizes, num_blocks(kernel, machine));
  if (sizes.num_slots() > 0) {
    const double state_bytes = static_cast<double>(sizes.num_slots()) * shape.group_size() * shape.head_dim * 4;
    price.merge_us = kernels.merge_us + kernels.merge_us_per_mb * state_bytes * 1e-6;
  }
  return price;
}

/// What unevenness multiplies reading by.
double uneven_factor(const GpuKernelClass& kernels, const GpuKernelCost& kernel, const TaskSizes& sizes,
                     const GpuMachine& machine) {
  const auto num_tasks = static_cast<double>(sizes.num_tasks());
  const double blocks_a_task = static_cast<double>(num_blocks(kernel, machine)) / num_tasks;
  const double full =
      blocks_a_task < 1.0 ? std::pow(blocks_a_task, kernels.evening) : std::pow(blocks_a_task, -kernels.sparing);
  const double last_of_mean = sizes.last() * num_tasks / std::max(static_cast<double>(sizes.tokens()), 1.0);
  return 1.0 + kernel.uneven * full * last_of_mean;
}

}  // namespace

GpuPrice gpu_price(const AttentionShape& shape, const GpuKernelClass& kernels, KernelWidth width,
                   const TaskSizes& sizes, const GpuMachine& machine) {
  const GpuKernelCost& kernel = kernels.at(width);
  GpuPrice price = level_price(shape, kernels, kernel, sizes, machine);
  price.busy_us = blocks_us(kernel, sizes, num_blocks(kernel, machine));
  price.read_us *= uneven_factor(kernels, kernel, sizes, machine);
  return price;
}

WidthPrice cheapest_width(const AttentionShape& shape, const GpuKernelClass& kernels, const TaskSizes& sizes,
                          const GpuMachine& machine) {
  return width_below(std::numeric_limits<double>::infinity(), shape, kernels, sizes, machine).value_or(WidthPrice{});
}

// Dearer by a bound is dearer: what takes longest, waves and powers, is worked out for few widths. That is also less
// code and fewer tables to read where caches are cold.
std::optional<WidthPrice> width_below(double limit_us, const AttentionShape& shape, const GpuKernelClass& kernels,
                                      const TaskSizes& sizes, const GpuMachine& machine) {
  std::optional<WidthPrice> best;
  for (int i = 0; i < kNumKernelWidths; ++i) {
    const auto width = static_cast<KernelWidth>(i);
    const GpuKernelCost& kernel = kernels.at(width);
    if (kernel.blocks_per_sm == 0) {
      continue;
    }
    GpuPrice price = level_price(shape, kernels, kernel, sizes, machine);
    if (price.total_us() >= limit_us) {
      continue;
    }
    price.busy_us = blocks_us(kernel, sizes, num_blocks(kernel, machine));
    if (price.total_us() >= limit_us) {
      continue;
    }
    price.read_us *= uneven_factor(kernels, kernel, sizes, machine);
    if (price.total_us() < limit_us) {
      limit_us = price.total_us();
      best = {.width = width, .price = price};
    }
  }
  return best;
}

GpuPrice least_gpu_price(const AttentionShape& shape, const GpuKernelClass& kernels, std::int64_t num_tasks,
                         std::int64_t tokens, std::int64_t longest, const GpuMachine& machine) {
  GpuPrice least;
  least.start_us = std::max(kLeastStartUs, kernels.start_us - kernels.overlap_us);
  least.read_us = static_cast<double>(tokens) * shape.head_dim * 4 / machine.read_bytes_per_us;
  least.busy_us = std::numeric_limits<double>::infinity();
  for (const GpuKernelCost& kernel : kernels.widths) {
    if (kernel.blocks_per_sm == 0) {
      continue;
    }
    const double blocks = static_cast<double>(std::int64_t{machine.num_sms} * kernel.blocks_per_sm);
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

}  // namespace

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

GpuMachine gpu_machine(const DeviceProfile& profile) {
  constexpr double kNsPerUs = 1e3;
  const BandwidthPoint& all = profile.bandwidth.back();  // of as many tasks as there were SMs
  return {profile.num_workers, all.bytes_per_ns * kNsPerUs * profile.num_workers / static_cast<double>(all.tasks)};
}

KernelWidth width_for(const Plan& plan, const GpuMachine& machine) {
  if (plan.tasks().empty()) {
    return KernelWidth::kWide;
  }
  return cheapest_width(plan.shape(), gpu_kernel_class(plan.shape()), task_sizes(plan), machine).width;
}

}  // namespace pkv
