// What the decode kernels of the CUDA backend cost by size, and which of them a list of tasks wants.
// Not here: the kernels (exec/cuda), how a step is cut into tasks (gpu_rule.cc).
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <optional>

#include "cost/kernel_width.h"
#include "persistentkv/batch.h"
#include "persistentkv/gpu_machine.h"
#include "persistentkv/plan.h"
#include "persistentkv/profile.h"

namespace pkv {

/// A kernel by head dimension, group and width, as measured on an H100.
struct GpuKernelCost {
  std::int32_t blocks_per_sm = 0;  // tasks that an SM works on at once; 0: there is no such kernel
  double task_us = 0.0;            // that a task takes beyond its tokens
  double token_ns = 0.0;           // that a token of a KV head takes one block, other blocks or none beside it
  /// Reading lasts longer by this share of one of the last tasks where all run at once: SMs are uneven, and what
  /// was not read evenly is not made up for.
  double uneven = 0.0;
};

/// The room that a launch leaves, by its fill: tasks over the blocks that run at once. Where all of it is left, SMs
/// read evenly and the next kernel's beginning hides behind this launch.
struct GpuRoom {
  double whole = 0.0;   // all of it up to this fill
  double fading = 0.0;  // less and less over this much more, then none

  [[nodiscard]] double share(double fill) const { return std::clamp((whole + fading - fill) / fading, 0.0, 1.0); }
};

/// The kernels for head dimensions up to head_dim and groups up to group_size.
struct GpuKernelClass {
  std::int32_t head_dim = 0;
  std::int32_t group_size = 0;
  double start_us = 0.0;
  /// What of it is saved by launches that leave room: the next kernel's blocks wait beside theirs.
  double overlap_us = 0.0;
  GpuRoom wide_room;             // of kernels that have an SM to themselves
  GpuRoom narrow_room;           // of the others
  double merge_us = 0.0;         // where any row is split
  double merge_us_per_mb = 0.0;  // of partial states
  /// How fast unevenness falls with more tasks than blocks: (blocks / tasks) ^ evening of it is left.
  double evening = 1.0;
  /// ... and with fewer: (tasks / blocks) ^ sparing. Half of the SMs read evenly, and as fast as all.
  double sparing = 1.0;
  std::array<GpuKernelCost, kNumKernelWidths> widths;

  [[nodiscard]] const GpuKernelCost& at(KernelWidth width) const { return widths[static_cast<std::size_t>(width)]; }
};

/// The tightest class that covers the shape; the largest for shapes above all.
const GpuKernelClass& gpu_kernel_class(const AttentionShape& shape);

/// The sizes of a launch's tasks in bins. Fixed memory; adding is a few instructions.
class TaskSizes {
 public:
  /// `longest`: tokens of the longest task, at least 1.
  explicit TaskSizes(std::int64_t longest) : longest_(longest) {}

  void add(std::int64_t tokens, std::int64_t count);
  void add_slots(std::int64_t slots) { num_slots_ += slots; }

  [[nodiscard]] std::int64_t longest() const { return longest_; }
  [[nodiscard]] std::int64_t num_tasks() const { return num_tasks_; }
  [[nodiscard]] std::int64_t num_slots() const { return num_slots_; }
  [[nodiscard]] std::int64_t tokens() const { return tokens_; }
  /// Of a task among the smallest, those that together hold kLastShare of all tokens, on average by tokens: what
  /// a launch in descending order ends with.
  [[nodiscard]] double last() const;
  static constexpr double kLastShare = 0.3;
  /// visit(tasks so far, tokens of one), bin by bin from the longest; defined where it is used.
  template <typename Visit>
  void descend(Visit visit) const;

 private:
  static constexpr int kBins = 32;
  std::int64_t longest_;
  std::int64_t num_tasks_ = 0;
  std::int64_t num_slots_ = 0;
  std::int64_t tokens_ = 0;
  std::array<std::int64_t, kBins> counts_{};
  std::array<std::int64_t, kBins> sums_{};
};

/// Microseconds of one layer, by terms.
struct GpuPrice {
  double start_us = 0.0;
  double read_us = 0.0;  // at the machine's rate
  double busy_us = 0.0;  // the blocks' own time
  double merge_us = 0.0;

  /// Reading or the blocks, whichever takes longer; more than either where they are close.
  [[nodiscard]] double decode_us() const;
  /// No more than total_us(), nearly it, and much faster.
  [[nodiscard]] double least_us() const;
  [[nodiscard]] double total_us() const { return start_us + decode_us() + merge_us; }
};
GpuPrice gpu_price(const AttentionShape& shape, const GpuKernelClass& kernels, KernelWidth width,
                   const TaskSizes& sizes, const GpuMachine& machine);

struct WidthPrice {
  KernelWidth width = KernelWidth::kWide;
  GpuPrice price;
};
/// The cheapest of the class, if that is below `limit_us`; else a price of infinite reading.
WidthPrice cheapest_width(const AttentionShape& shape, const GpuKernelClass& kernels, const TaskSizes& sizes,
                          const GpuMachine& machine, double limit_us = std::numeric_limits<double>::infinity());

/// Whether a launch of more than 64 MiB is one task each for more than half of the SMs but not nearly all of them. Two
/// SMs share a way to the L2, so that some tasks share theirs and others do not, which prices do not know: for groups
/// up to 8 and 67 to 100 tasks on 132 SMs they are 6 to 11% too low on an H100, by -2 to 8% on an H200; for 128 tasks 2
/// to 4% (0005). `tokens`: of all (row, KV head); `longest`: tokens of the longest task.
bool leaves_sms_idle(const AttentionShape& shape, std::int32_t blocks_per_sm, std::int64_t num_tasks,
                     std::int64_t tokens, std::int64_t longest, const GpuMachine& machine);

GpuMachine gpu_machine(const DeviceProfile& profile);

/// A step's division by gpu_rule, and those beside it that are priced nearly as low.
struct GpuCuts {
  static constexpr std::size_t kMaxNear = 5;
  struct Cut {
    PlanOptions options;
    double us = 0.0;  // its price
  };

  Cut chosen;
  /// By price; each of a tenth more or fewer tasks than any other and than the chosen one, none that leaves SMs idle.
  std::array<Cut, kMaxNear> near;
  std::size_t num_near = 0;
};
/// Near are those whose price is at most `share` (1 or more) of the chosen one's.
GpuCuts gpu_cuts(const BatchState& batch, const GpuMachine& machine, std::optional<Route> route, double share);

/// A plan's tasks, in time linear in its rows.
TaskSizes task_sizes(const Plan& plan);
/// The same, task by task.
TaskSizes sizes_of_each(const Plan& plan);
/// Never above the cheapest width's price of so many tasks with so many tokens of a KV head in all: reading evenly,
/// the longest task alone, an even division. Nothing merged.
GpuPrice least_gpu_price(const AttentionShape& shape, const GpuKernelClass& kernels, std::int64_t num_tasks,
                         std::int64_t tokens, std::int64_t longest, const GpuMachine& machine);
/// Of a plan's tasks; kWide for a plan without any.
KernelWidth width_for(const Plan& plan, const GpuMachine& machine);

}  // namespace pkv
