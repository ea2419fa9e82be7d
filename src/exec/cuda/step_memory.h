// What a step needs on the device: its packed tasks and page ids, partial states, finish counters.
// Not here: packing (step_pack.h), kernels.
#pragma once

#include <array>
#include <cstdint>

#include "exec/cuda/runtime.h"
#include "exec/cuda/step_pack.h"

namespace pkv::cuda {

/// Sizes of everything that a plan writes or reads on the device beside the caller's tensors.
struct StepSizes {
  StepCapacity capacity;
  std::int64_t partial_slots = 0;
  std::int64_t finish_counters = 0;  // rows * KV heads where merges are fused, else 0

  static StepSizes of(const Plan& plan);
};

class StepMemory {
 public:
  /// Errors: kResourceExhausted. Finish counters are zero afterwards. Waits for the device when it grows.
  Status reserve(const StepSizes& sizes, const AttentionShape& shape);
  [[nodiscard]] bool fits(const StepSizes& sizes, const AttentionShape& shape) const;

  /// Packs the step for `capacity` and enqueues the one copy.
  Status load(const Plan& plan, const BatchState& batch, const StepCapacity& capacity, cudaStream_t stream);

  /// Makes all partial states absent again, on the stream: after a decode launch whose merge was not launched.
  Status clear_partials(cudaStream_t stream);

  /// The addresses of the loaded (or to be loaded) step in a layer's parameters.
  void fill(LayerParams& params, const StepCapacity& capacity, MergeMode merge, std::int64_t partial_slots,
            const AttentionShape& shape) const;

 private:
  // Copies in flight at once: load() waits for the oldest only when all are.
  static constexpr int kStagings = 4;
  struct Staging {
    PinnedBuffer bytes;
    Event copied;
    bool used = false;
  };
  Status make_stagings(std::int64_t bytes);

  StepPacker packer_;
  std::array<Staging, kStagings> stagings_;
  int next_staging_ = 0;
  bool has_events_ = false;
  DeviceBuffer step_;
  DeviceBuffer partials_;  // (m, l) of all slots, then acc of all slots
  DeviceBuffer counters_;
};

}  // namespace pkv::cuda
