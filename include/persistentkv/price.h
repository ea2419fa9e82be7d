// PriceModel: predicted time of a plan on a device that is known by its profile.
// Not here: which plan is chosen (decision.h), the profile's figures (profile.h).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "persistentkv/batch.h"
#include "persistentkv/layout.h"
#include "persistentkv/plan.h"
#include "persistentkv/profile.h"
#include "persistentkv/result.h"

namespace pkv {

class TaskSizes;

/// Factors of the terms of a price, learnt from measured steps. Each in [1 / kMaxCorrection, kMaxCorrection].
inline constexpr double kMaxCorrection = 3.0;
struct Correction {
  double memory = 1.0;
  double arithmetic = 1.0;
  /// Starts of tasks, launches, merges.
  double fixed = 1.0;
};

/// The terms of a price of one layer, in ns. device_ns = decode_ns + merge_ns + launch_ns.
struct Price {
  double device_ns = 0.0;
  /// Tasks from the first start to the last end, the tail included.
  double decode_ns = 0.0;
  double merge_ns = 0.0;
  double launch_ns = 0.0;
  /// On the host, once a step: a layer's part, 1 / PriceInputs::num_layers of it.
  double plan_ns = 0.0;
  /// Of decode_ns: what an even division of the same tasks over all workers would save.
  double tail_ns = 0.0;
  /// What decode_ns would be if there were only memory, only arithmetic, only starts of tasks.
  double memory_ns = 0.0;
  double arithmetic_ns = 0.0;
  double task_ns = 0.0;

  [[nodiscard]] double total_ns() const { return device_ns + plan_ns; }
};

/// One task on one worker in the replayed schedule, in ns from the start of the step's device work.
struct ScheduledTask {
  std::int32_t task_idx = 0;
  /// In-flight slot: worker = slot / tasks_per_worker.
  std::int32_t slot = 0;
  double begin_ns = 0.0;
  double end_ns = 0.0;
};

/// What prices depend on beside the plan; the same for all steps of a run.
struct PriceInputs {
  AttentionShape shape = {};
  DType kv_dtype = DType::kF16;
  KvOrder order = KvOrder::kHND;
  std::int32_t page_size = 16;
  /// Attention layers that run each plan, one after the other: deciding and planning happen once for all of them, so a
  /// price has one part in so many of their time. 1 to kMaxLayers.
  std::int32_t num_layers = 1;
};
inline constexpr std::int32_t kMaxLayers = 1024;

/// The replay of a launch: its tasks are taken in order by whichever in-flight slot is free first; the slots'
/// loads l_1 >= l_2 >= ... (bytes, with the start of a task counted as bytes) then end at
///   max over k of (l_1 + ... + l_k) * t(k) / k,
/// t(k) the time of a byte on one of k busy slots: memory, the profile's bandwidth of k tasks times the share
/// of the chunk size, beside arithmetic. k all slots is the memory's bound, k = 1 the longest slot alone; it is
/// the makespan when shared bandwidth goes to those that have most left. So a plan that reads more is never
/// cheaper, nor is the same plan with more workers dearer. On the RTX 3060 and its like the bandwidth of k tasks
/// is the paper's occupancy factor max(1, Cmin / C).
class PriceModel {
 public:
  /// Errors: those of validate(profile) and of validate(shape); kInvalidArgument (num_layers); kUnsupported for a type
  /// that the profile has no arithmetic rate of.
  static Result<PriceModel> make(const DeviceProfile& profile, const PriceInputs& inputs);

  /// Requires a plan of this shape. Plans of external routes need an ExternalKernel: prices(route).
  [[nodiscard]] Price price(const Plan& plan) const;
  /// That of route row's plan, which is not made. Requires a profile with `kernels` and a batch of this shape.
  [[nodiscard]] Price price_whole_rows(const BatchState& batch) const;
  /// The schedule behind the price of one decode launch, scaled so that its last end is the launch's end.
  [[nodiscard]] std::vector<ScheduledTask> schedule(const Plan& plan) const;
  /// Whether plans of this route can be priced: all of our own, external ones that the profile knows.
  [[nodiscard]] bool prices(Route route) const;

  /// Sums over the tasks of a plan that has not been made; enough for a bound.
  struct Outline {
    std::int64_t attended_tokens = 0;
    std::int64_t num_tasks = 0;
    std::int64_t merge_state_bytes = 0;
    std::int32_t num_decode_launches = 1;
    std::int32_t num_merge_launches = 0;
    std::int32_t kv_heads_per_task = 1;
    /// Tokens times KV heads of one of its tasks; the longest gives the best bound.
    std::int64_t long_task_tokens = 0;
  };
  /// Never above price() of a plan with these sums: an even division, or the one task alone.
  [[nodiscard]] double least_ns(const Outline& outline, std::int64_t num_pages) const;
  /// That task on a slot beside all others busy: about twice what a plan ends later than its even division.
  [[nodiscard]] double long_task_ns(const Outline& outline) const;

  [[nodiscard]] const Correction& correction() const { return correction_; }
  /// Requires factors in [1 / kMaxCorrection, kMaxCorrection].
  void set_correction(const Correction& correction);
  [[nodiscard]] std::int32_t num_slots() const { return num_slots_; }
  [[nodiscard]] const DeviceProfile& profile() const { return profile_; }
  [[nodiscard]] const PriceInputs& inputs() const { return inputs_; }
  /// Of one worker, for the group size, the type and the head dimension of the inputs.
  [[nodiscard]] double arithmetic_bytes_per_ns() const { return arithmetic_bytes_per_ns_; }
  /// A layer's part of planning on the host.
  [[nodiscard]] double plan_ns(std::int64_t num_tasks, std::int64_t num_pages) const;
  /// Of the bandwidth, in the chunks that tasks of so many KV heads read.
  [[nodiscard]] double chunk_share(std::int32_t kv_heads_per_task) const;

 private:
  PriceModel(DeviceProfile profile, const PriceInputs& inputs, double arithmetic_bytes_per_ns);

  /// Of one KV-head width: the time of a byte on one of k busy slots, for the k that are looked at.
  struct SharedRate {
    std::int32_t busy = 1;
    double ns_per_byte = 0.0;
  };
  struct WalkRates {
    std::int32_t kv_heads_per_task = 0;
    std::vector<SharedRate> by_busy;  // ascending; the last is all slots
    double start_bytes = 0.0;         // bytes that a slot would read while a task starts
  };
  [[nodiscard]] WalkRates make_rates(std::int32_t kv_heads_per_task) const;
  [[nodiscard]] const WalkRates& rates(std::int32_t kv_heads_per_task, WalkRates& scratch) const;
  [[nodiscard]] double launch_span_ns(std::span<const Task> tasks, const WalkRates& rates,
                                      std::vector<double>& loads) const;
  [[nodiscard]] Price price_external(const Plan& plan) const;
  [[nodiscard]] Price price_on_kernels(const Plan& plan) const;
  /// Without plan_ns.
  [[nodiscard]] Price price_on_kernels(const TaskSizes& sizes, std::int64_t num_launches) const;
  void rebuild_rates();

  DeviceProfile profile_;
  PriceInputs inputs_;
  double arithmetic_bytes_per_ns_ = 1.0;
  double token_bytes_ = 0.0;  // K and V of one token and KV head
  std::int32_t num_slots_ = 1;
  std::vector<std::int32_t> busy_counts_;
  Correction correction_;
  std::vector<WalkRates> rates_;
};

/// The paper's closed formula (paper, "The policy"), with C = tasks / num_workers:
///   KVBytes / beta * max(1, Cmin / C) + launches * lambda + MergeBytes / beta
/// in nanoseconds. Merge bytes are counted once, as in the paper.
double paper_price_ns(const Plan& plan, DType kv_dtype, const DeviceProfile& profile);

}  // namespace pkv
