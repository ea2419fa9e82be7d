// FlashInfer's batch decode on CUDA cores, for one type and head_dim; called as csrc/batch_decode.cu of its wheel does.
// Not here: what it supports (flashinfer.cc), which types and head dimensions there are (CMakeLists.txt).
//
// One block walks one (row, KV head, chunk of pages). The chunk is the shortest, by binary search, for which all
// blocks are resident at once by the kernel's occupancy, and 128 tokens or more; a grid that fills the GPU anyway is
// not split. A sliding window masks tokens only: the kernel reads all pages that it is given.
#pragma once

#include <flashinfer/attention/decode.cuh>
#include <flashinfer/attention/default_decode_params.cuh>
#include <flashinfer/attention/scheduler.cuh>

#include "exec/flashinfer/common.cuh"

namespace pkv::fi {

inline constexpr auto kNoPositions = flashinfer::PosEncodingMode::kNone;

template <typename T>
using CoreParams = flashinfer::BatchDecodeParams<T, T, T, std::int32_t>;

template <typename T, int kHeadDim>
Result<StepPlan> plan_core(const Step& step, const Tables& host, const Workspace& workspace, cudaStream_t stream) {
  flashinfer::DecodePlanInfo info;
  const auto plan_variant = [&]<typename AttentionVariant>() -> cudaError_t {
    using Params = CoreParams<T>;
    DISPATCH_GQA_GROUP_SIZE(step.num_q_heads / step.num_kv_heads, GROUP_SIZE, {
      const auto estimate =
          flashinfer::BatchDecodeWithPagedKVCacheWorkEstimationDispatched<GROUP_SIZE, kHeadDim, kNoPositions,
                                                                          AttentionVariant, Params>;
      return flashinfer::DecodePlan<kHeadDim, kNoPositions, AttentionVariant, Params>(
          workspace.floats, workspace.float_bytes, workspace.ints, workspace.pinned_ints, workspace.int_bytes, info,
          host.kv_indptr, static_cast<std::uint32_t>(step.num_rows), static_cast<std::uint32_t>(step.num_q_heads),
          static_cast<std::uint32_t>(step.page_size), /*enable_cuda_graph=*/false, stream, estimate);
    });
    return cudaErrorInvalidValue;  // not reached: other group sizes throw
  };
  PKV_RETURN_IF_ERROR(guarded("flashinfer-core plan", ErrorCode::kResourceExhausted,
                              [&] { return with_variant(step.variant, plan_variant); }));
  return StepPlan{.padded_batch_size = info.padded_batch_size,
                  .request_indices = info.request_indices_offset,
                  .kv_tile_indices = info.kv_tile_indices_offset,
                  .o_indptr = info.o_indptr_offset,
                  .kv_chunk_size = info.kv_chunk_size_ptr_offset,
                  .tmp_v = info.v_offset,
                  .tmp_s = info.s_offset,
                  .split_kv = info.split_kv};
}

template <typename T, int kHeadDim>
Status run_core(const Step& step, const StepPlan& plan, const Tables& device, const Workspace& workspace,
                const Layer& layer, cudaStream_t stream) {
  const auto params = layer_params<CoreParams<T>>(step, plan, device, workspace, layer, kHeadDim);
  const auto run_variant = [&]<typename AttentionVariant>() -> cudaError_t {
    return flashinfer::BatchDecodeWithPagedKVCacheDispatched<kHeadDim, kNoPositions, AttentionVariant, CoreParams<T>>(
        params, partial_outputs<T>(plan, workspace), partial_lse(plan, workspace), layer.programmatic_launch, stream);
  };
  return guarded("flashinfer-core run", ErrorCode::kUnsupported,
                 [&] { return with_variant(step.variant, run_variant); });
}

template <DType kType, int kHeadDim>
Kernels core_kernels() {
  using T = typename Native<kType>::Type;
  return {.plan = plan_core<T, kHeadDim>, .run = run_core<T, kHeadDim>};
}

}  // namespace pkv::fi
