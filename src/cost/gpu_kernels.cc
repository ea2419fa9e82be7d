// Prices fitted to 428 steps on an H100: 28 of ../shared/gpu and the random samples of bench/gpu with seeds 20260623
// and 1, each cut to 128 to 8192 tokens a task and run by every kernel of its class (bench/gpu/sweep.py,
// fit_prices.py; groups up to 8, and d 128, with the standard steps weighed six times). On them the cheapest by
// price is 1.1% slower than the fastest on average. Not here: the search (gpu_rule.cc).
#include "cost/gpu_kernels.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace pkv {
namespace {

constexpr double kReadBytesPerUs = 3.15e6 / 132;  // of an SM, when all read
constexpr std::int64_t kMaxWaves = 64;            // looked at one by one

// head_dim, group, start, merge, merge a MB, then {blocks, task us, token ns, uneven}: wide, half, quarter, single.
constexpr GpuKernelClass kClasses[] = {
    {64,
     8,
     0.99,
     1.17,
     1.14,
     {{{1, 2.92, 3.65, 0.118}, {2, 3.19, 4.52, 0.161}, {5, 4.04, 9.11, 0.149}, {12, 3.18, 34.00, 0.096}}}},
    {64, 16, 2.52, 0.51, 0.33, {{{1, 3.94, 3.17, 0.177}, {2, 4.08, 6.14, 0.175}, {}, {10, 5.74, 55.68, 0.002}}}},
    {64, 32, 3.06, 0.54, 0.80, {{{1, 4.11, 6.23, 0.002}, {2, 4.18, 13.17, 0.010}, {}, {}}}},
    {128,
     8,
     1.57,
     0.88,
     0.92,
     {{{1, 3.47, 5.01, 0.124}, {2, 3.74, 11.83, 0.071}, {4, 3.08, 24.42, 0.120}, {8, 2.58, 59.44, 0.064}}}},
    {128, 16, 1.80, 0.46, 0.86, {{{1, 4.42, 8.57, 0.073}, {2, 5.30, 15.95, 0.087}, {}, {}}}},
    {128, 32, 1.07, 0.22, 0.38, {{{1, 6.68, 13.11, 0.127}, {2, 8.10, 37.09, 0.211}, {}, {}}}},
    {256, 8, 0.90, 0.51, 0.50, {{{1, 5.59, 11.74, 0.042}, {2, 8.13, 26.80, 0.068}, {}, {6, 11.59, 81.47, 0.008}}}},
    {256, 16, 1.00, 0.67, 0.25, {{{1, 6.76, 17.31, 0.219}, {2, 9.09, 46.69, 0.106}, {}, {}}}},
    {256, 32, 1.54, 0.50, 0.02, {{{1, 8.30, 32.52, 0.009}, {}, {}, {}}}},
};

/// Tasks drawn longest first: the k-th wave ends no earlier than k + 1 times the task that begins it.
double blocks_us(const GpuKernelCost& kernel, const TaskSizes& sizes, std::int64_t blocks) {
  const auto cost = [&](double tokens) { return kernel.task_us + kernel.token_ns * 1e-3 * tokens; };
  const auto num_tasks = static_cast<double>(sizes.num_tasks());
  const double even = (num_tasks * kernel.task_us + static_cast<double>(sizes.tokens()) * kernel.token_ns * 1e-3) /
                      static_cast<double>(blocks);
  double most = std::max(even, cost(static_cast<double>(sizes.longest())));
  std::int64_t wave = 1;
  const std::int64_t last = std::min(kMaxWaves, (sizes.num_tasks() - 1) / blocks);
  sizes.descend([&](std::int64_t tasks_so_far, double tokens) {
    for (; wave <= last && wave * blocks < tasks_so_far; ++wave) {
      most = std::max(most, static_cast<double>(wave + 1) * cost(tokens));
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
  const auto bin = static_cast<std::size_t>(std::min(tokens, longest_) * kBins / (longest_ + 1));
  counts_[bin] += count;
  sums_[bin] += tokens * count;
  num_tasks_ += count;
  tokens_ += tokens * count;
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

double gpu_price_us(const AttentionShape& shape, const GpuKernelClass& kernels, KernelWidth width,
                    const TaskSizes& sizes, std::int32_t num_sms) {
  const GpuKernelCost& kernel = kernels.at(width);
  const std::int64_t blocks = std::int64_t{num_sms} * kernel.blocks_per_sm;
  const auto tokens = static_cast<double>(sizes.tokens());
  const auto num_tasks = static_cast<double>(sizes.num_tasks());
  const double full = std::min(1.0, static_cast<double>(blocks) / num_tasks);
  const double longest_of_mean = static_cast<double>(sizes.longest()) * num_tasks / std::max(tokens, 1.0);
  const double read =
      tokens * shape.head_dim * 4 / (kReadBytesPerUs * num_sms) * (1.0 + kernel.uneven * full * longest_of_mean);
  const double busy = blocks_us(kernel, sizes, blocks);
  double price = kernels.start_us + std::sqrt(read * read + busy * busy);
  if (sizes.num_slots() > 0) {
    const double state_bytes = static_cast<double>(sizes.num_slots()) * shape.group_size() * shape.head_dim * 4;
    price += kernels.merge_us + kernels.merge_us_per_mb * state_bytes * 1e-6;
  }
  return price;
}

WidthPrice cheapest_width(const AttentionShape& shape, const GpuKernelClass& kernels, const TaskSizes& sizes,
                          std::int32_t num_sms) {
  WidthPrice best = {.price_us = std::numeric_limits<double>::infinity()};
  for (int i = 0; i < kNumKernelWidths; ++i) {
    const auto width = static_cast<KernelWidth>(i);
    if (kernels.at(width).blocks_per_sm == 0) {
      continue;
    }
    const double price = gpu_price_us(shape, kernels, width, sizes, num_sms);
    if (price < best.price_us) {
      best = {.width = width, .price_us = price};
    }
  }
  return best;
}

KernelWidth width_for(const Plan& plan, std::int32_t num_sms) {
  if (plan.tasks().empty()) {
    return KernelWidth::kWide;
  }
  const auto tokens = [](const Task& task) {
    return std::int64_t{task.token_end - task.token_begin} * (task.kv_head_end - task.kv_head_begin);
  };
  std::int64_t longest = 1;
  for (const Task& task : plan.tasks()) {
    longest = std::max(longest, tokens(task));
  }
  TaskSizes sizes(longest);
  for (const Task& task : plan.tasks()) {
    sizes.add(tokens(task), 1);
  }
  sizes.add_slots(plan.counters().num_partial_slots);
  return cheapest_width(plan.shape(), gpu_kernel_class(plan.shape()), sizes, num_sms).width;
}

}  // namespace pkv
