// The end of every kernel: states of one query head become a partial state, or an output with its LSE.
// Not here: where the states come from (decode.cuh, simple.cuh), merging many of them (merge.cuh).
#pragma once

#include <cmath>

#include "exec/cuda/params.h"
#include "exec/cuda/ptx.cuh"

namespace pkv::cuda {

inline constexpr float kLog2E = 1.4426950408889634F;

/// exp(x - m) where m is a maximum over x; 0 for x = -inf, also when m is -inf.
__device__ __forceinline__ float weight(float x, float m) {
  return x == -INFINITY ? 0.0F : exp2_fast((x - m) * kLog2E);
}

/// Logical page of a token, by a multiplication: with n < 2^31 and page sizes up to 256 the estimate is
/// never low and at most one too high.
__device__ __forceinline__ std::int32_t page_of(const LayerParams& p, std::int32_t token) {
  const auto n = static_cast<std::uint32_t>(token);
  const std::uint32_t estimate = p.page_size == 1 ? n : __umulhi(n, p.page_magic);
  const std::uint32_t low = estimate - (estimate * static_cast<std::uint32_t>(p.page_size) > n ? 1U : 0U);
  return static_cast<std::int32_t>(low);
}

/// What turns a head's (m, l, acc) into an output, out = acc * factor, and what its LSE is the sum of.
struct OutputScale {
  float factor = 0.0F;
  float top = -INFINITY;
  float total = 0.0F;  // lse = top + log(total)
};

/// The sink joins here, once. A head that attends to nothing gives 0 and -inf, or the sink's logit.
__device__ __forceinline__ OutputScale output_scale(const LayerParams& p, std::int32_t q_head, float m, float l) {
  if (p.sinks == nullptr) {
    return {.factor = l > 0.0F ? __fdividef(1.0F, l) : 0.0F, .top = m, .total = l};
  }
  const float sink = p.sinks[q_head];
  const float top = fmaxf(m, sink);
  if (top == -INFINITY) {
    return {};
  }
  const float rescale = m == -INFINITY ? 0.0F : expf(m - top);
  const float total = l * rescale + (sink == -INFINITY ? 0.0F : expf(sink - top));
  return {.factor = total > 0.0F ? __fdividef(rescale, total) : 0.0F, .top = top, .total = total};
}

/// Four neighbouring elements of an output vector; `d` and head_dim are multiples of 4.
__device__ __forceinline__ void store_output(const LayerParams& p, std::int32_t row, std::int32_t q_head,
                                             std::int32_t d, const float4& value) {
  const std::int64_t first = row * p.out_row_stride + q_head * p.out_head_stride + d;
  if (p.out_type == ElementType::kF32) {
    auto* to = static_cast<float*>(p.out) + first;
    if (p.out_in_vectors) {
      *reinterpret_cast<float4*>(to) = value;
    } else {
      to[0] = value.x, to[1] = value.y, to[2] = value.z, to[3] = value.w;
    }
    return;
  }
  const bool is_half = p.out_type == ElementType::kF16;
  const auto rounded = [&](float a, float b) {
    return is_half ? bits_of(__floats2half2_rn(a, b)) : bits_of(__floats2bfloat162_rn(a, b));
  };
  const std::uint32_t low = rounded(value.x, value.y);
  const std::uint32_t high = rounded(value.z, value.w);
  auto* to = static_cast<std::uint16_t*>(p.out) + first;
  if (p.out_in_vectors) {
    *reinterpret_cast<uint2*>(to) = make_uint2(low, high);
  } else {
    to[0] = static_cast<std::uint16_t>(low), to[1] = static_cast<std::uint16_t>(low >> 16);
    to[2] = static_cast<std::uint16_t>(high), to[3] = static_cast<std::uint16_t>(high >> 16);
  }
}

/// The LSE of a head whose exponentials sum to `total` at exp(top).
__device__ __forceinline__ void store_lse(const LayerParams& p, std::int32_t row, std::int32_t q_head, float top,
                                          float total) {
  p.lse[static_cast<std::int64_t>(row) * p.num_q_heads + q_head] = total > 0.0F ? top + logf(total) : -INFINITY;
}

/// Writes elements [d, d + 4) of a finished head; the thread with d = 0 also writes its LSE.
__device__ __forceinline__ void finish_head(const LayerParams& p, std::int32_t row, std::int32_t q_head, std::int32_t d,
                                            float m, float l, const float4& acc) {
  const OutputScale scale = output_scale(p, q_head, m, l);
  const float f = scale.factor;
  // An accumulator that weighs nothing may hold 0 only, so the product is never 0 * inf.
  store_output(p, row, q_head, d, make_float4(acc.x * f, acc.y * f, acc.z * f, acc.w * f));
  if (d == 0 && p.lse != nullptr) {
    store_lse(p, row, q_head, scale.top, scale.total);
  }
}

/// Writes elements [d, d + 4) of a partial state; the threads with the first of kMergeDims also write (m, l).
__device__ __forceinline__ void store_partial(const LayerParams& p, std::int32_t slot, std::int32_t group_idx,
                                              std::int32_t d, float m, float l, const float4& acc) {
  const std::int64_t state = static_cast<std::int64_t>(slot) * p.group_size + group_idx;
  store_relaxed(p.partial_acc + state * p.head_dim + d, acc);
  if (d % kMergeDims == 0) {
    store_relaxed(p.partial_ml + (state * p.merge_parts + d / kMergeDims) * 2, make_float2(m, l));
  }
}

}  // namespace pkv::cuda
