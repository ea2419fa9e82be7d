// What both instances share: native types, the attention variant, exceptions turned into errors.
// Not here: kernels of either route (core.cuh, tensor.cuh).
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <flashinfer/allocator.h>

#include <exception>
#include <flashinfer/attention/variants.cuh>
#include <flashinfer/page.cuh>
#include <string>

#include "exec/flashinfer/kernels.h"

namespace pkv::fi {

template <DType kType>
struct Native;
template <>
struct Native<DType::kF16> {
  using Type = half;
};
template <>
struct Native<DType::kBF16> {
  using Type = __nv_bfloat16;
};

/// Calls with FlashInfer's variant as template argument: a custom mask or ALiBi never.
template <typename Call>
cudaError_t with_variant(Variant variant, Call&& call) {
  using flashinfer::DefaultAttention;
  if (variant.sliding_window) {
    return variant.soft_cap ? call.template operator()<DefaultAttention<false, true, true, false>>()
                            : call.template operator()<DefaultAttention<false, true, false, false>>();
  }
  return variant.soft_cap ? call.template operator()<DefaultAttention<false, false, true, false>>()
                          : call.template operator()<DefaultAttention<false, false, false, false>>();
}

/// FlashInfer returns CUDA's errors but throws its own, among them a workspace that is too small.
template <typename Call>
Status guarded(const char* where, ErrorCode thrown, Call&& call) {
  try {
    const cudaError_t error = call();
    if (error != cudaSuccess) {
      cudaGetLastError();  // it has been reported: the next call must not find it
      return Error{ErrorCode::kUnsupported, std::string("FlashInfer: ") + cudaGetErrorString(error), where};
    }
  } catch (const std::exception& exception) {
    return Error{thrown, std::string("FlashInfer: ") + exception.what(), where};
  }
  return {};
}

/// The page table and the strides. FlashInfer's layouts are nothing but strides once they are given.
template <typename T>
flashinfer::paged_kv_t<T, std::int32_t> paged_kv(const Step& step, const Tables& device, const Layer& layer,
                                                 std::int32_t head_dim) {
  const std::int64_t strides[3] = {layer.page_stride, layer.kv_head_stride, layer.slot_stride};
  return {static_cast<std::uint32_t>(step.num_kv_heads),
          static_cast<std::uint32_t>(step.page_size),
          static_cast<std::uint32_t>(head_dim),
          static_cast<std::uint32_t>(step.num_rows),
          flashinfer::QKVLayout::kHND,
          static_cast<T*>(const_cast<void*>(layer.k)),
          static_cast<T*>(const_cast<void*>(layer.v)),
          strides,
          device.kv_indices,
          device.kv_indptr,
          device.last_page_len};
}

/// The fields that the parameters of both kernels have.
template <typename Params>
Params layer_params(const Step& step, const StepPlan& plan, const Tables& device, const Workspace& workspace,
                    const Layer& layer, std::int32_t head_dim) {
  using T = typename Params::DTypeKV;
  const auto ints = [&](std::int64_t offset) {
    return flashinfer::GetPtrFromBaseOffset<std::int32_t>(workspace.ints, offset);
  };
  Params params;
  params.q = static_cast<T*>(const_cast<void*>(layer.q));
  params.paged_kv = paged_kv<T>(step, device, layer, head_dim);
  params.o = static_cast<T*>(layer.out);
  params.lse = layer.lse;
  params.num_qo_heads = static_cast<std::uint32_t>(step.num_q_heads);
  params.q_stride_n = layer.q_row_stride;
  params.q_stride_h = layer.q_head_stride;
  params.window_left = step.window_left;
  params.logits_soft_cap = layer.soft_cap;
  params.sm_scale = layer.scale;
  params.padded_batch_size = static_cast<std::uint32_t>(plan.padded_batch_size);
  params.request_indices = ints(plan.request_indices);
  params.kv_tile_indices = ints(plan.kv_tile_indices);
  params.o_indptr = ints(plan.o_indptr);
  params.kv_chunk_size_ptr = ints(plan.kv_chunk_size);
  return params;
}

/// Partial outputs and their LSE; null, which means one task a row, when nothing is split.
template <typename T>
T* partial_outputs(const StepPlan& plan, const Workspace& workspace) {
  return plan.split_kv ? flashinfer::GetPtrFromBaseOffset<T>(workspace.floats, plan.tmp_v) : nullptr;
}
inline float* partial_lse(const StepPlan& plan, const Workspace& workspace) {
  return plan.split_kv ? flashinfer::GetPtrFromBaseOffset<float>(workspace.floats, plan.tmp_s) : nullptr;
}

}  // namespace pkv::fi
