// How launches are made: which kernel a layer runs, and with which attributes.
// Not here: what a kernel is told (params.h), memory.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "exec/cuda/kernels.h"
#include "persistentkv/backend.h"
#include "persistentkv/cuda.h"
#include "persistentkv/plan.h"

namespace pkv::cuda {

/// Whether a kernel may start while the one ahead of it on the stream still runs.
enum class Entry : std::uint8_t {
  kAfter,      // an ordinary launch
  kDependent,  // programmatic dependent launch (compute capability 9.0 and newer)
};

/// When decode kernels enter dependently. Merge kernels always do where the GPU can.
enum class DecodeEntry : std::uint8_t { kChosen, kAfter, kDependent };

/// The kernel that decodes this layer: tensor cores where alignment, types and shape allow, else simple.
const KernelEntry& choose_kernel(const RunArgs& args, KernelWidth width, const CudaDevice& device);

/// The kernel that merges that many ranges of up to max_splits splits: the one with the fewest rounds of loads one
/// after the other, of a unit and of units that wait for a place on one of num_sms SMs. Of equals the one with fewer
/// threads.
const MergeEntry& choose_merge(std::int64_t num_ranges, std::int32_t max_splits, const AttentionShape& shape,
                               std::int32_t num_sms);

/// Blocks of a merge launch over that many ranges.
std::int64_t merge_blocks(const MergeEntry& merge, std::int64_t num_ranges, const AttentionShape& shape);

/// Everything about a layer that does not depend on where the step lies.
LayerParams layer_params(const RunArgs& args);

/// Enqueues one launch of `blocks` blocks. Errors: CUDA's.
Status launch(const KernelEntry& kernel, std::int64_t blocks, const void* params, Entry entry, cudaStream_t stream);

/// Lets a kernel have the shared memory it asks for. Once a kernel and device, before its first launch.
Status prepare(const KernelEntry& kernel);

}  // namespace pkv::cuda
