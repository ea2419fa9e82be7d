// The simple decode kernel: every type, alignment, head dimension and group size, exact in FP32.
// Not here: speed. It serves FP32 caches, queries of another type than K,V, vectors off 16 bytes, head
// dimensions above 256 and groups above 32.
//
// A block is a task. Its warps take every fourth token; a warp spreads the head dimension over its lanes
// and walks the group four query heads at a time, reading K and V again for each four (from the L1).
#pragma once

#include "exec/cuda/merge.cuh"
#include "exec/cuda/output.cuh"
#include "exec/cuda/params.h"

namespace pkv::cuda {

inline constexpr int kSimpleWarps = 4;
inline constexpr int kSimpleThreads = 32 * kSimpleWarps;
inline constexpr int kSimpleHeads = 4;
inline constexpr int kMaxElementsPerLane = 16;  // head_dim up to 512

__device__ __forceinline__ float load_any(const void* data, ElementType type, std::int64_t i) {
  switch (type) {
    case ElementType::kF32: return static_cast<const float*>(data)[i];
    case ElementType::kF16: return __half2float(static_cast<const __half*>(data)[i]);
    case ElementType::kBF16: return __bfloat162float(static_cast<const __nv_bfloat16*>(data)[i]);
  }
  return 0.0F;
}

/// States of four heads over a warp's tokens; lane i holds the elements i, i + 32, ...
struct SimpleState {
  float m[kSimpleHeads];
  float l[kSimpleHeads];
  float acc[kSimpleHeads][kMaxElementsPerLane];
};

template <typename T>
__device__ void simple_walk(const LayerParams& p, const DeviceTask& task, int kv_head, int head_begin,
                            SimpleState& state) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  float q[kSimpleHeads][kMaxElementsPerLane];
#pragma unroll
  for (int h = 0; h < kSimpleHeads; ++h) {
    state.m[h] = -INFINITY;
    state.l[h] = 0.0F;
    const int head = kv_head * p.group_size + head_begin + h;
    const std::int64_t first = task.row * p.q_row_stride + head * p.q_head_stride;
#pragma unroll
    for (int e = 0; e < kMaxElementsPerLane; ++e) {
      const int dim = e * 32 + lane;
      const bool exists = head_begin + h < p.group_size && dim < p.head_dim;
      q[h][e] = exists ? load_any(p.q, p.q_type, first + dim) : 0.0F;
      state.acc[h][e] = 0.0F;
    }
  }
  for (int token = task.token_begin + warp; token < task.token_end; token += kSimpleWarps) {
    const int page = page_of(p, token);
    const std::int64_t page_id = p.page_ids[static_cast<std::int64_t>(task.page_id_offset) + page];
    const std::int64_t slot = token - page * p.page_size;
    const auto* k = reinterpret_cast<const T*>(static_cast<const unsigned char*>(p.k) + page_id * p.k_strides.page +
                                               kv_head * p.k_strides.kv_head + slot * p.k_strides.slot);
    const auto* v = reinterpret_cast<const T*>(static_cast<const unsigned char*>(p.v) + page_id * p.v_strides.page +
                                               kv_head * p.v_strides.kv_head + slot * p.v_strides.slot);
    float x[kSimpleHeads] = {};
#pragma unroll
    for (int e = 0; e < kMaxElementsPerLane; ++e) {
      const int dim = e * 32 + lane;
      if (dim < p.head_dim) {
        const float key = Element<T>::widen(k[dim]);
#pragma unroll
        for (int h = 0; h < kSimpleHeads; ++h) x[h] += q[h][e] * key;
      }
    }
    float w[kSimpleHeads];
#pragma unroll
    for (int h = 0; h < kSimpleHeads; ++h) {
#pragma unroll
      for (int offset = 16; offset > 0; offset /= 2) x[h] += __shfl_xor_sync(0xFFFFFFFFU, x[h], offset);
      x[h] *= p.scale;
      x[h] = p.soft_cap > 0.0F ? p.soft_cap * tanhf(x[h] / p.soft_cap) : x[h];
      const float top = fmaxf(state.m[h], x[h]);
      w[h] = x[h] == -INFINITY ? 0.0F : expf(x[h] - top);
      if (top > state.m[h]) {
        const float factor = state.m[h] == -INFINITY ? 0.0F : expf(state.m[h] - top);
        state.m[h] = top;
        state.l[h] *= factor;
#pragma unroll
        for (int e = 0; e < kMaxElementsPerLane; ++e) state.acc[h][e] *= factor;
      }
      state.l[h] += w[h];
    }
#pragma unroll
    for (int e = 0; e < kMaxElementsPerLane; ++e) {
      const int dim = e * 32 + lane;
      if (dim < p.head_dim) {
        const float value = Element<T>::widen(v[dim]);
#pragma unroll
        for (int h = 0; h < kSimpleHeads; ++h) state.acc[h][e] += w[h] * value;
      }
    }
  }
}

/// The four warps' states of one head, merged in the order of the warps.
__device__ __forceinline__ void simple_finish(const LayerParams& p, const DeviceTask& task, int kv_head, int head,
                                              float (*acc)[kMaxElementsPerLane * 32], const float (*ml)[2]) {
  float m = -INFINITY;
  for (int w = 0; w < kSimpleWarps; ++w) m = fmaxf(m, ml[w][0]);
  const int slot = task.partial_slot < 0 ? -1 : task.partial_slot + (kv_head - task.kv_head_begin) * task.slot_stride;
  for (int d = static_cast<int>(threadIdx.x) * 4; d < p.head_dim; d += kSimpleThreads * 4) {
    float l = 0.0F;
    float4 sum = make_float4(0.0F, 0.0F, 0.0F, 0.0F);
    for (int w = 0; w < kSimpleWarps; ++w) {
      const float factor = ml[w][0] == -INFINITY ? 0.0F : expf(ml[w][0] - m);
      l += factor * ml[w][1];
      sum = make_float4(sum.x + factor * acc[w][d], sum.y + factor * acc[w][d + 1], sum.z + factor * acc[w][d + 2],
                        sum.w + factor * acc[w][d + 3]);
    }
    if (slot < 0) {
      finish_head(p, task.row, kv_head * p.group_size + head, d, m, l, sum);
    } else {
      store_partial(p, slot, head, d, m, l, sum);
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(kSimpleThreads) simple_decode_kernel(const __grid_constant__ LayerParams p) {
  __shared__ float acc[kSimpleWarps][kMaxElementsPerLane * 32];
  __shared__ float ml[kSimpleWarps][2];
  const DeviceTask task = p.tasks[blockIdx.x];
  wait_for_predecessor();
  start_dependents();  // as decode_kernel
  if (task.row < 0) {
    return;
  }
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  for (int kv_head = task.kv_head_begin; kv_head < task.kv_head_end; ++kv_head) {
    for (int head_begin = 0; head_begin < p.group_size; head_begin += kSimpleHeads) {
      SimpleState state;
      simple_walk<T>(p, task, kv_head, head_begin, state);
#pragma unroll
      for (int h = 0; h < kSimpleHeads; ++h) {
        __syncthreads();  // the last head's values are read
#pragma unroll
        for (int e = 0; e < kMaxElementsPerLane; ++e) acc[warp][e * 32 + lane] = state.acc[h][e];
        if (lane == 0) {
          ml[warp][0] = state.m[h];
          ml[warp][1] = state.l[h];
        }
        __syncthreads();
        if (head_begin + h < p.group_size) {
          simple_finish(p, task, kv_head, head_begin + h, acc, ml);
        }
      }
    }
  }
  if (p.finished != nullptr && task.slot_stride > 1) {
    merge_if_last<false>(p, task);
  }
}

}  // namespace pkv::cuda
