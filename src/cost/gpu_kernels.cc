// Prices fitted to 642 steps on an H200 and 336 of them on an H100, layers back to back: random samples of bench/gpu
// with seeds 20260623 and 1, a grid of small steps of equal rows, and the standard steps of step_cases.py (10 times the
// weight), each in equal chunks of 64 to 8192 tokens or uncut, ragged ones in equal counts, too, and run by every
// kernel of its class (bench/gpu/sweep.py, fit_prices.py). Groups of 9 to 16 at d 64 and above 16 at d 128 and 256 once
// more with 231 further steps of groups above 8 (seeds 2 to 7). On the first steps the cheapest by price is 1.4% slower
// than the fastest measured on average, most on steps of under 10 us; prices err by 3 to 8% at the median of a class.
// Not here: the search (gpu_rule.cc).
#include "cost/gpu_kernels.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "base/math.h"

namespace pkv {
namespace {

constexpr double kLeastStartUs = 0.3;
// What a launch that stands alone takes longer than one of layers that follow each other and leave no room. From
// replays on an H100 without it (paper:bucketed B1, bimodal B4 and B8): prices were too low by 2.0 to 2.9 us. It is the
// same for all of our plans of a step; only the choice of FlashInfer can depend on it.
constexpr double kAloneUs = 2.8;
constexpr std::int64_t kMaxWaves = 64;  // looked at one by one

// head_dim, group, start, overlap, room of the wide and of the narrow, merge, merge a MB, evening, sparing, then
// {blocks, task us, token ns, uneven}: wide, medium, narrow, slim. The first room is of kernels with one block an SM,
// which d 64 in groups of 9 to 16 has none of.
// clang-format off
constexpr GpuKernelClass kClasses[] = {
    {64, 8, 1.61, 1.32, {0.59, 1.20}, {0.22, 0.35}, 1.30, 0.92, 0.96, 0.06,
     {{{1, 2.40, 3.95, 0.145}, {3, 2.17, 6.31, 0.282}, {4, 1.67, 11.98, 0.210}, {6, 2.11, 11.21, 0.240}}}},
    {64, 16, 1.98, 1.12, {0.04, 0.03}, {0.20, 0.24}, 0.07, 2.13, 0.76, 0.03,
     {{{2, 2.16, 8.46, 0.192}, {2, 2.15, 7.19, 0.118}, {3, 2.28, 8.69, 0.100}, {}}}},
    {64, 32, 3.26, 2.51, {0.35, 0.84}, {0.20, 0.49}, 0.94, 1.24, 0.68, 3.57,
     {{{1, 1.42, 11.14, 0.003}, {2, 1.75, 12.46, 0.071}, {3, 1.15, 21.51, 0.020}, {}}}},
    {128, 8, 2.41, 1.75, {0.30, 1.04}, {0.26, 0.32}, 0.89, 0.50, 0.79, 0.02,
     {{{1, 2.13, 6.89, 0.059}, {2, 2.17, 11.61, 0.087}, {3, 2.22, 12.38, 0.151}, {11, 3.10, 49.63, 0.074}}}},
    {128, 16, 3.31, 0.83, {0.18, 0.96}, {0.23, 0.39}, 0.10, 0.83, 0.57, 0.05,
     {{{1, 2.37, 4.93, 0.145}, {2, 1.94, 13.85, 0.160}, {3, 2.45, 14.49, 0.160}, {6, 2.89, 29.08, 0.177}}}},
    {128, 32, 2.28, 1.44, {0.21, 0.70}, {0.27, 0.20}, 0.50, 0.93, 0.83, 0.02,
     {{{1, 3.56, 9.99, 0.010}, {1, 1.91, 18.83, 0.003}, {2, 2.15, 32.08, 0.088}, {3, 2.85, 32.11, 0.070}}}},
    {256, 8, 3.13, 1.54, {0.44, 0.93}, {0.20, 0.48}, 0.86, 0.70, 1.00, 0.02,
     {{{1, 2.57, 13.61, 0.018}, {2, 1.35, 25.35, 0.045}, {3, 2.29, 24.97, 0.051}, {6, 2.42, 47.44, 0.085}}}},
    {256, 16, 3.25, 3.23, {0.46, 0.75}, {0.21, 0.54}, 0.20, 0.87, 0.05, 0.06,
     {{{1, 4.01, 20.13, 0.004}, {2, 3.99, 29.39, 0.084}, {3, 3.92, 36.32, 0.144}, {}}}},
    {256, 32, 2.13, 0.92, {0.60, 0.19}, {0.59, 0.65}, 0.11, 0.57, 0.99, 2.21,
     {{{1, 4.76, 26.37, 0.015}, {1, 3.49, 39.96, 0.002}, {}, {}}}},
};
// clang-format on

/// Tasks begun longest first: the k-th wave ends no earlier than k + 1 times the task that begins it.
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

namespace {

/// us ^ 2.5
double power(double us) { return us * us * std::sqrt(us); }

}  // namespace

// The norm whose exponent fitted best: with 2 many small tasks are priced too high in long steps, with 3 too low.
double GpuPrice::decode_us() const { return std::pow(power(read_us) + power(busy_us), 1.0 / 2.5); }

// (1 + y)^0.4 is an alternating series: what ends with a negative term is no more than all of it.
double GpuPrice::least_us() const {
  const double most = std::max(read_us, busy_us);
  const double y = most > 0.0 ? power(std::min(read_us, busy_us) / most) : 0.0;
  return start_us + most * (1.0 + y * (0.4 - 0.12 * y)) + merge_us;
}

namespace {

/// Whether a launch leaves room, from 1 to 0: GpuRoom::share.
double room_share(const GpuKernelClass& kernels, KernelWidth width, const TaskSizes& sizes, const GpuMachine& machine) {
  const std::int32_t blocks_per_sm = kernels.at(width).blocks_per_sm;
  const std::int64_t blocks = std::int64_t{machine.num_sms} * blocks_per_sm;
  const GpuRoom& room = blocks_per_sm == 1 ? kernels.wide_room : kernels.narrow_room;
  return room.share(static_cast<double>(sizes.num_tasks()) / static_cast<double>(blocks));
}

/// `room`: as room_share.
double launch_start_us(const GpuKernelClass& kernels, const GpuMachine& machine, double room) {
  return machine.back_to_back ? std::max(kLeastStartUs, kernels.start_us - kernels.overlap_us * room)
                              : kernels.start_us + kAloneUs;
}

/// As if SMs read evenly: no more than the price.
GpuPrice even_price(const AttentionShape& shape, const GpuKernelClass& kernels, KernelWidth width,
                    const TaskSizes& sizes, const GpuMachine& machine) {
  const GpuKernelCost& kernel = kernels.at(width);
  const std::int64_t blocks = std::int64_t{machine.num_sms} * kernel.blocks_per_sm;
  GpuPrice price;
  // Back to back as if every launch were like this one: they are layers of a step.
  price.start_us = launch_start_us(kernels, machine, room_share(kernels, width, sizes, machine));
  price.read_us = static_cast<double>(sizes.tokens()) * shape.head_dim * 4 / machine.read_bytes_per_us;
  price.busy_us = blocks_us(kernel, sizes, blocks);
  if (sizes.num_slots() > 0) {
    const double state_bytes = static_cast<double>(sizes.num_slots()) * shape.group_size() * shape.head_dim * 4;
    price.merge_us = kernels.merge_us + kernels.merge_us_per_mb * state_bytes * 1e-6;
  }
  return price;
}

/// Tokens of one of the last tasks, by those of the mean one.
double last_of_mean(const TaskSizes& sizes) {
  return sizes.last() * static_cast<double>(sizes.num_tasks()) / std::max(static_cast<double>(sizes.tokens()), 1.0);
}

/// What unevenness multiplies reading by.
double uneven_factor(const GpuKernelClass& kernels, KernelWidth width, const TaskSizes& sizes,
                     const GpuMachine& machine, double last) {
  const double filled = 1.0 - room_share(kernels, width, sizes, machine);
  if (filled <= 0.0) {
    return 1.0;
  }
  const GpuKernelCost& kernel = kernels.at(width);
  const auto num_tasks = static_cast<double>(sizes.num_tasks());
  const double blocks_a_task = static_cast<double>(std::int64_t{machine.num_sms} * kernel.blocks_per_sm) / num_tasks;
  const double full =
      blocks_a_task < 1.0 ? std::pow(blocks_a_task, kernels.evening) : std::pow(blocks_a_task, -kernels.sparing);
  return 1.0 + kernel.uneven * full * filled * last;
}

}  // namespace

GpuPrice gpu_price(const AttentionShape& shape, const GpuKernelClass& kernels, KernelWidth width,
                   const TaskSizes& sizes, const GpuMachine& machine) {
  GpuPrice price = even_price(shape, kernels, width, sizes, machine);
  price.read_us *= uneven_factor(kernels, width, sizes, machine, last_of_mean(sizes));
  return price;
}

WidthPrice cheapest_width(const AttentionShape& shape, const GpuKernelClass& kernels, const TaskSizes& sizes,
                          const GpuMachine& machine, double limit_us) {
  WidthPrice best;
  best.price.read_us = std::numeric_limits<double>::infinity();
  std::optional<double> last;  // most lists of tasks are too dear already without it
  for (int i = 0; i < kNumKernelWidths; ++i) {
    const auto width = static_cast<KernelWidth>(i);
    if (kernels.at(width).blocks_per_sm == 0) {
      continue;
    }
    GpuPrice price = even_price(shape, kernels, width, sizes, machine);
    if (price.least_us() >= limit_us) {
      continue;
    }
    if (!last) {
      last = last_of_mean(sizes);
    }
    price.read_us *= uneven_factor(kernels, width, sizes, machine, *last);
    const double total_us = price.least_us() < limit_us ? price.total_us() : limit_us;
    if (total_us < limit_us) {
      limit_us = total_us;
      best = {.width = width, .price = price};
    }
  }
  return best;
}

bool leaves_sms_idle(const AttentionShape& shape, std::int32_t blocks_per_sm, std::int64_t num_tasks,
                     std::int64_t tokens, std::int64_t longest, const GpuMachine& machine) {
  constexpr std::int64_t kLeastBytes = std::int64_t{64} << 20;
  constexpr double kNearlyAll = 0.85;
  constexpr double kNearlyEqual = 1.25;  // the longest task by the mean one
  return blocks_per_sm == 1 && tokens * shape.head_dim * 4 > kLeastBytes && 2 * num_tasks > machine.num_sms &&
         static_cast<double>(num_tasks) <= kNearlyAll * machine.num_sms &&
         static_cast<double>(longest * num_tasks) < kNearlyEqual * static_cast<double>(tokens);
}

GpuPrice least_gpu_price(const AttentionShape& shape, const GpuKernelClass& kernels, std::int64_t num_tasks,
                         std::int64_t tokens, std::int64_t longest, const GpuMachine& machine) {
  GpuPrice least;
  least.start_us = launch_start_us(kernels, machine, 1.0);
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
