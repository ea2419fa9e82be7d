// FlashInfer's batch decode on tensor cores, for one type and head_dim: its FA2 paged prefill with one query token a
// row, as its decode wrapper calls it with use_tensor_cores=True (csrc/batch_prefill.cu, batch_prefill_paged.cuh).
// Not here: what it supports (flashinfer.cc), which types and head dimensions there are (CMakeLists.txt).
//
// The wrapper's choices for one query token: mask kNone (not causal), FA2 even on Hopper (FA3 only for FP8), FP32
// accumulators, K and V of equal strides. A tile holds the query heads of one KV head: 16 rows for group sizes up to
// 16, else 64. Its plan aims at two blocks an SM, whatever the occupancy is, and at chunks of 128 tokens or more.
#pragma once

#include <flashinfer/attention/default_prefill_params.cuh>
#include <flashinfer/attention/prefill.cuh>
#include <flashinfer/attention/scheduler.cuh>

#include "exec/flashinfer/common.cuh"

namespace pkv::fi {

template <typename T>
using TensorParams = flashinfer::BatchPrefillPagedParams<T, T, T, std::int32_t>;

template <typename T, int kHeadDim>
Result<StepPlan> plan_tensor(const Step& step, const Tables& host, const Workspace& workspace, cudaStream_t stream) {
  flashinfer::PrefillPlanInfo info;
  const auto rows = static_cast<std::uint32_t>(step.num_rows);
  PKV_RETURN_IF_ERROR(guarded("flashinfer-tensor plan", ErrorCode::kResourceExhausted, [&] {
    return flashinfer::PrefillPlan<std::int32_t>(
        workspace.floats, workspace.float_bytes, workspace.ints, workspace.pinned_ints, workspace.int_bytes, info,
        host.qo_indptr, host.kv_indptr, /*total_num_rows=*/rows, /*batch_size=*/rows,
        static_cast<std::uint32_t>(step.num_q_heads), static_cast<std::uint32_t>(step.num_kv_heads), kHeadDim, kHeadDim,
        static_cast<std::uint32_t>(step.page_size), /*enable_cuda_graph=*/false, /*sizeof_dtype_o=*/2, step.window_left,
        /*fixed_split_size=*/-1, /*disable_split_kv=*/false, /*num_colocated_ctas=*/0, /*uniform_q_len=*/0, stream,
        /*kv_dtype_bytes=*/sizeof(T));
  }));
  return StepPlan{.padded_batch_size = info.padded_batch_size,
                  .cta_tile_q = info.cta_tile_q,
                  .request_indices = info.request_indices_offset,
                  .qo_tile_indices = info.qo_tile_indices_offset,
                  .kv_tile_indices = info.kv_tile_indices_offset,
                  .merge_indptr = info.merge_indptr_offset,
                  .o_indptr = info.o_indptr_offset,
                  .kv_chunk_size = info.kv_chunk_size_ptr_offset,
                  .tmp_v = info.v_offset,
                  .tmp_s = info.s_offset,
                  .split_kv = info.split_kv};
}

template <typename T, int kHeadDim, int kTile, typename AttentionVariant>
cudaError_t run_tile(const TensorParams<T>& params, const StepPlan& plan, const Workspace& workspace, bool pdl,
                     cudaStream_t stream) {
  return flashinfer::BatchPrefillWithPagedKVCacheDispatched<
      /*SAME_KV_STRIDES=*/true, kTile, kHeadDim, kHeadDim, flashinfer::PosEncodingMode::kNone,
      /*USE_FP16_QK_REDUCTION=*/false, flashinfer::MaskMode::kNone, AttentionVariant>(
      params, partial_outputs<T>(plan, workspace), partial_lse(plan, workspace), pdl, stream);
}

template <typename T, int kHeadDim>
Status run_tensor(const Step& step, const StepPlan& plan, const Tables& device, const Workspace& workspace,
                  const Layer& layer, cudaStream_t stream) {
  auto params = layer_params<TensorParams<T>>(step, plan, device, workspace, layer, kHeadDim);
  params.q_indptr = device.qo_indptr;
  params.group_size = flashinfer::uint_fastdiv(static_cast<std::uint32_t>(step.num_q_heads / step.num_kv_heads));
  params.qo_tile_indices = flashinfer::GetPtrFromBaseOffset<std::int32_t>(workspace.ints, plan.qo_tile_indices);
  params.max_total_num_rows = static_cast<std::uint32_t>(step.num_rows);
  if (plan.split_kv) {
    params.merge_indptr = flashinfer::GetPtrFromBaseOffset<std::int32_t>(workspace.ints, plan.merge_indptr);
  }
  const auto run_variant = [&]<typename AttentionVariant>() -> cudaError_t {
    // 128 is a tile for more query rows than a group of 64 has; 32 is one for head_dim 512.
    return plan.cta_tile_q == 16
               ? run_tile<T, kHeadDim, 16, AttentionVariant>(params, plan, workspace, layer.programmatic_launch, stream)
           : plan.cta_tile_q == 64
               ? run_tile<T, kHeadDim, 64, AttentionVariant>(params, plan, workspace, layer.programmatic_launch, stream)
               : cudaErrorInvalidValue;
  };
  return guarded("flashinfer-tensor run", ErrorCode::kUnsupported,
                 [&] { return with_variant(step.variant, run_variant); });
}

template <DType kType, int kHeadDim>
Kernels tensor_kernels() {
  using T = typename Native<kType>::Type;
  return {.plan = plan_tensor<T, kHeadDim>, .run = run_tensor<T, kHeadDim>};
}

}  // namespace pkv::fi
