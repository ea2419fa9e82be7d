// What the host code knows of FlashInfer's kernels: plain structs and two calls for each (route, type, head_dim).
// Not here: FlashInfer's headers, which take seconds to compile and warn.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "persistentkv/dtype.h"
#include "persistentkv/result.h"

namespace pkv::fi {

/// Features that are template parameters of FlashInfer's kernels, as its Python package sets them.
struct Variant {
  bool sliding_window = false;
  bool soft_cap = false;
};

/// One step, as FlashInfer counts it.
struct Step {
  std::int32_t num_rows = 0;
  std::int32_t num_q_heads = 0;
  std::int32_t num_kv_heads = 0;
  std::int32_t page_size = 0;
  std::int32_t window_left = -1;  // -1: no window
  Variant variant;
};

/// Memory that FlashInfer divides itself. pinned_ints is as long as ints, and is copied there by plan().
struct Workspace {
  void* floats = nullptr;
  std::size_t float_bytes = 0;
  void* ints = nullptr;
  void* pinned_ints = nullptr;
  std::size_t int_bytes = 0;
};

/// The page table of a step, in host or in device memory.
struct Tables {
  std::int32_t* kv_indptr = nullptr;      // [num_rows + 1]
  std::int32_t* last_page_len = nullptr;  // [num_rows]
  std::int32_t* qo_indptr = nullptr;      // [num_rows + 1]: 0, 1, 2, ...
  std::int32_t* kv_indices = nullptr;
};

/// What a plan leaves for run(): offsets into the workspace (DecodePlanInfo or PrefillPlanInfo).
struct StepPlan {
  std::int64_t padded_batch_size = 0;
  std::int64_t cta_tile_q = 0;  // tensor only
  std::int64_t request_indices = 0;
  std::int64_t qo_tile_indices = 0;  // tensor only
  std::int64_t kv_tile_indices = 0;
  std::int64_t merge_indptr = 0;  // tensor only
  std::int64_t o_indptr = 0;
  std::int64_t kv_chunk_size = 0;
  std::int64_t tmp_v = 0;
  std::int64_t tmp_s = 0;
  bool split_kv = false;
};

struct Layer {
  const void* q = nullptr;
  const void* k = nullptr;
  const void* v = nullptr;
  void* out = nullptr;
  float* lse = nullptr;  // base 2; null: not wanted
  std::int32_t q_row_stride = 0;
  std::int32_t q_head_stride = 0;
  std::int64_t page_stride = 0;  // K and V alike
  std::int64_t kv_head_stride = 0;
  std::int64_t slot_stride = 0;
  float scale = 1.0F;
  float soft_cap = 0.0F;
  bool programmatic_launch = false;
};

struct Kernels {
  /// Divides the step and enqueues the copy of what it made. Errors: kResourceExhausted (workspace), kUnsupported.
  Result<StepPlan> (*plan)(const Step& step, const Tables& host, const Workspace& workspace, cudaStream_t stream);
  /// Enqueues the kernels of one layer. Errors: kUnsupported with CUDA's message.
  Status (*run)(const Step& step, const StepPlan& plan, const Tables& device, const Workspace& workspace,
                const Layer& layer, cudaStream_t stream);
};

/// Instances: those of CMakeLists.txt.
template <DType kType, int kHeadDim>
Kernels core_kernels();
template <DType kType, int kHeadDim>
Kernels tensor_kernels();

/// FlashInfer's LSE (base 2) to the natural logarithm, in place; -inf stays.
cudaError_t to_natural_log(float* lse, std::int64_t count, cudaStream_t stream);

}  // namespace pkv::fi
