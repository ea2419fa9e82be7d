// Prices fitted to 228 steps on an H100: 28 of ../shared/gpu and the random sample of bench/gpu with seed 20260623,
// each cut to 128 to 8192 tokens a task and run by every kernel of its class. Not here: the search (gpu_rule.cc).
#include "cost/gpu_kernels.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace pkv {
namespace {

constexpr double kReadBytesPerUs = 3.12e6 / 132;  // of an SM, when all read
constexpr std::int64_t kMaxWaves = 64;            // looked at one by one

// head_dim, group, start, merge, merge a MB, then {blocks, task us, token ns, uneven}: wide, half, quarter, single.
constexpr GpuKernelClass kClasses[] = {
    {64, 8, 1.0, 0.7, 0.76, {{{1, 3.7, 3.0, 0.158}, {2, 4.8, 5.0, 0.092}, {6, 3.8, 25.0, 0.200}, {12, 3.9, 51.3, 0.029}}}},
    {64, 16, 3.1, 0.6, 0.03, {{{1, 3.9, 5.2, 0.015}, {2, 4.0, 10.6, 0.036}, {}, {10, 6.1, 53.8, 0.032}}}},
    {64, 32, 1.3, 0.6, 0.09, {{{1, 4.3, 9.1, 0.003}, {2, 5.1, 17.6, 0.002}, {}, {}}}},
    {128, 8, 2.8, 0.7, 0.57, {{{1, 3.1, 3.9, 0.087}, {2, 2.8, 8.9, 0.079}, {4, 3.2, 25.3, 0.056}, {8, 2.7, 60.5, 0.009}}}},
    {128, 16, 3.5, 0.9, 1.18, {{{1, 3.2, 8.2, 0.063}, {2, 2.8, 15.4, 0.033}, {}, {}}}},
    {128, 32, 1.4, 0.7, 0.05, {{{1, 6.4, 13.3, 0.005}, {2, 7.5, 33.8, 0.024}, {3, 8.7, 48.8, 0.002}, {}}}},
    {256, 8, 3.6, 0.7, 0.69, {{{1, 3.9, 9.2, 0.036}, {2, 4.1, 34.2, 0.022}, {}, {6, 5.4, 89.8, 0.004}}}},
    {256, 16, 1.4, 1.3, 0.09, {{{1, 5.3, 21.0, 0.004}, {2, 8.6, 48.5, 0.005}, {}, {}}}},
    {256, 32, 2.0, 0.6, 0.01, {{{1, 7.7, 43.0, 0.002}, {}, {}, {}}}},
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

double gpu_price_us(const AttentionShape& shape, const GpuKernelClass& kernels, KernelWidth width, const TaskSizes& sizes,
                    std::int32_t num_sms) {
  const GpuKernelCost& kernel = kernels.at(width);
  const std::int64_t blocks = std::int64_t{num_sms} * kernel.blocks_per_sm;
  const auto tokens = static_cast<double>(sizes.tokens());
  const auto num_tasks = static_cast<double>(sizes.num_tasks());
  const double full = std::min(1.0, static_cast<double>(blocks) / num_tasks);
  const double longest_of_mean = static_cast<double>(sizes.longest()) * num_tasks / std::max(tokens, 1.0);
  const double read = tokens * shape.head_dim * 4 / (kReadBytesPerUs * num_sms) *
                      (1.0 + kernel.uneven * full * longest_of_mean);
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
