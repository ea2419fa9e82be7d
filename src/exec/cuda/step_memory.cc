// Sizes, growth, and the copy.
#include "exec/cuda/step_memory.h"

#include "base/math.h"

namespace pkv::cuda {
namespace {

constexpr int kAbsentByte = kAbsent & 0xFFU;

std::int64_t ml_bytes(std::int64_t slots, const AttentionShape& shape) {
  const std::int64_t words = slots * shape.group_size() * merge_parts(shape.head_dim) * 2;
  return round_up<std::int64_t>(words * static_cast<std::int64_t>(sizeof(float)), 256);
}

std::int64_t partial_bytes(std::int64_t slots, const AttentionShape& shape) {
  return ml_bytes(slots, shape) +
         slots * shape.group_size() * shape.head_dim * static_cast<std::int64_t>(sizeof(float));
}

std::int64_t counter_bytes(const StepSizes& sizes) {
  return sizes.finish_counters * static_cast<std::int64_t>(sizeof(std::int32_t));
}

/// At least so many bytes, all of them of one value when it grows.
Status reserve_filled(DeviceBuffer& buffer, std::int64_t bytes, int value, const char* what) {
  if (buffer.size() >= bytes) {
    return {};
  }
  PKV_RETURN_IF_ERROR(buffer.reserve(bytes, what));
  PKV_RETURN_IF_ERROR(check(cudaMemset(buffer.data(), value, static_cast<std::size_t>(buffer.size())), "cudaMemset"));
  return check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
}

}  // namespace

StepSizes StepSizes::of(const Plan& plan) {
  const bool fused = plan.merge_mode() == MergeMode::kFused;
  return {.capacity = StepCapacity::of(plan),
          .partial_slots = plan.counters().num_partial_slots,
          .finish_counters = fused ? static_cast<std::int64_t>(plan.seq_lens().size()) * plan.shape().num_kv_heads : 0};
}

Status StepMemory::make_stagings(std::int64_t bytes) {
  for (Staging& staging : stagings_) {
    if (!has_events_) {
      PKV_RETURN_IF_ERROR(staging.copied.make(cudaEventDisableTiming));
    } else if (staging.used && staging.bytes.size() < bytes) {
      PKV_RETURN_IF_ERROR(check(cudaEventSynchronize(staging.copied.get()), "cudaEventSynchronize"));
    }
    PKV_RETURN_IF_ERROR(staging.bytes.reserve(bytes, "staging for tasks and page ids"));
  }
  has_events_ = true;
  return {};
}

Status StepMemory::reserve(const StepSizes& sizes, const AttentionShape& shape) {
  PKV_RETURN_IF_ERROR(make_stagings(sizes.capacity.bytes()));
  PKV_RETURN_IF_ERROR(step_.reserve(sizes.capacity.bytes(), "tasks and page ids"));
  PKV_RETURN_IF_ERROR(
      reserve_filled(partials_, partial_bytes(sizes.partial_slots, shape), kAbsentByte, "partial states"));
  return reserve_filled(counters_, counter_bytes(sizes), 0, "counters");
}

bool StepMemory::fits(const StepSizes& sizes, const AttentionShape& shape) const {
  return has_events_ && step_.size() >= sizes.capacity.bytes() && stagings_[0].bytes.size() >= sizes.capacity.bytes() &&
         partials_.size() >= partial_bytes(sizes.partial_slots, shape) && counters_.size() >= counter_bytes(sizes);
}

Status StepMemory::load(const Plan& plan, const BatchState& batch, const StepCapacity& capacity, cudaStream_t stream) {
  Staging& staging = stagings_[static_cast<std::size_t>(next_staging_)];
  next_staging_ = (next_staging_ + 1) % kStagings;
  if (staging.used) {
    PKV_RETURN_IF_ERROR(check(cudaEventSynchronize(staging.copied.get()), "cudaEventSynchronize"));
  }
  const std::int64_t bytes = packer_.pack(plan, batch, capacity, staging.bytes.data());
  if (bytes > 0) {
    PKV_RETURN_IF_ERROR(check(cudaMemcpyAsync(step_.data(), staging.bytes.data(), static_cast<std::size_t>(bytes),
                                              cudaMemcpyHostToDevice, stream),
                              "copy of tasks and page ids"));
  }
  PKV_RETURN_IF_ERROR(check(cudaEventRecord(staging.copied.get(), stream), "cudaEventRecord"));
  staging.used = true;
  return {};
}

Status StepMemory::clear_partials(cudaStream_t stream) {
  return check(cudaMemsetAsync(partials_.data(), kAbsentByte, static_cast<std::size_t>(partials_.size()), stream),
               "cudaMemsetAsync");
}

void StepMemory::fill(LayerParams& params, const StepCapacity& capacity, MergeMode merge, std::int64_t partial_slots,
                      const AttentionShape& shape) const {
  params.tasks = reinterpret_cast<const DeviceTask*>(step_.data());
  params.merges = reinterpret_cast<const DeviceMerge*>(step_.data() + capacity.merges_offset());
  params.page_ids = reinterpret_cast<const std::int32_t*>(step_.data() + capacity.page_ids_offset());
  params.partial_ml = reinterpret_cast<float*>(partials_.data());
  params.partial_acc = reinterpret_cast<float*>(partials_.data() + ml_bytes(partial_slots, shape));
  params.finished = merge == MergeMode::kFused ? reinterpret_cast<std::int32_t*>(counters_.data()) : nullptr;
}

}  // namespace pkv::cuda
