// Merging the partial states of a (row, query head): by a kernel of its own, or by the last task to finish.
// Not here: how states are written (output.cuh).
//
// Maths: m = max m_s, l = sum exp(m_s - m) l_s, acc = sum exp(m_s - m) acc_s over the splits s, in an
// order that depends on their number alone: the same bits every time.
// Traffic: (head_dim + 2) * 4 bytes a split, from the L2. A merge is one round trip of latency, so that
// every load is issued before the first is used: a block has 64 dimensions of a head, its half warps share
// the splits, eight loads each.
#pragma once

#include "exec/cuda/output.cuh"
#include "exec/cuda/params.h"

namespace pkv::cuda {

inline constexpr int kMergeBatch = 8;
inline constexpr int kMergeLanes = kMergeDims / 4;   // that hold a split's elements
inline constexpr int kMergeWays = 32 / kMergeLanes;  // splits that a warp reads at once

struct MergeState {
  float m = -INFINITY;
  float l = 0.0F;
  float4 acc = make_float4(0.0F, 0.0F, 0.0F, 0.0F);
};

/// Many states at once: the maximum first, then all weights side by side. One after the other each would
/// wait for the exponentials of the last: 0.35 us for eight.
template <int kCount>
__device__ __forceinline__ MergeState join(const float2 (&ml)[kCount], const float4 (&acc)[kCount]) {
  float most[kCount];
#pragma unroll
  for (int i = 0; i < kCount; ++i) most[i] = ml[i].x;
#pragma unroll
  for (int width = 1; width < kCount; width *= 2) {
#pragma unroll
    for (int i = 0; i + width < kCount; i += 2 * width) most[i] = fmaxf(most[i], most[i + width]);
  }
  MergeState state;
  state.m = most[0];
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const float w = weight(ml[i].x, state.m);
    state.l += w * ml[i].y;
    state.acc = make_float4(state.acc.x + w * acc[i].x, state.acc.y + w * acc[i].y, state.acc.z + w * acc[i].z,
                            state.acc.w + w * acc[i].w);
  }
  return state;
}

/// The splits first, first + stride, ... of a head's states, elements [d, d + 4).
__device__ __forceinline__ MergeState join_splits(const LayerParams& p, std::int32_t slot_begin, std::int32_t group_idx,
                                                  std::int32_t num_splits, int first, int stride, int d) {
  MergeState state;
  for (int s = first; s < num_splits; s += stride * kMergeBatch) {
    float2 ml[kMergeBatch];
    float4 acc[kMergeBatch];
#pragma unroll
    for (int b = 0; b < kMergeBatch; ++b) {
      const int split = s + b * stride;
      ml[b] = make_float2(-INFINITY, 0.0F);
      acc[b] = make_float4(0.0F, 0.0F, 0.0F, 0.0F);
      if (split < num_splits) {
        const std::int64_t at = static_cast<std::int64_t>(slot_begin + split) * p.group_size + group_idx;
        ml[b] = __ldcg(reinterpret_cast<const float2*>(p.partial_ml + at * 2));
        if (d < p.head_dim) {
          acc[b] = __ldcg(reinterpret_cast<const float4*>(p.partial_acc + at * p.head_dim + d));
        }
      }
    }
    const MergeState batch = join(ml, acc);
    if (s == first) {
      state = batch;
    } else {
      const float2 two[2] = {make_float2(state.m, state.l), make_float2(batch.m, batch.l)};
      const float4 accs[2] = {state.acc, batch.acc};
      state = join(two, accs);
    }
  }
  return state;
}

/// The states of two half warps, lane by lane.
__device__ __forceinline__ MergeState join_half_warps(const MergeState& state) {
  constexpr unsigned kAll = 0xFFFFFFFFU;
  const float2 ml[2] = {make_float2(state.m, state.l), make_float2(__shfl_xor_sync(kAll, state.m, kMergeLanes),
                                                                   __shfl_xor_sync(kAll, state.l, kMergeLanes))};
  const float4 acc[2] = {
      state.acc,
      make_float4(__shfl_xor_sync(kAll, state.acc.x, kMergeLanes), __shfl_xor_sync(kAll, state.acc.y, kMergeLanes),
                  __shfl_xor_sync(kAll, state.acc.z, kMergeLanes), __shfl_xor_sync(kAll, state.acc.w, kMergeLanes))};
  return join(ml, acc);
}

/// The whole of a (row, KV head) by one block, after its last split: a warp a head and 64 dimensions, its half warps
/// share the splits. Up to 16 are one round trip to the L2.
__device__ __forceinline__ void merge_group(const LayerParams& p, const DeviceTask& task) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int parts = (p.head_dim + kMergeDims - 1) / kMergeDims;
  for (int unit = static_cast<int>(threadIdx.x) / 32; unit < p.group_size * parts;
       unit += static_cast<int>(blockDim.x) / 32) {
    const int head = unit / parts;
    const int d = (unit - head * parts) * kMergeDims + lane % kMergeLanes * 4;
    const MergeState state =
        join_half_warps(join_splits(p, task.first_slot, head, task.slot_stride, lane / kMergeLanes, kMergeWays, d));
    if (lane < kMergeLanes && d < p.head_dim) {
      finish_head(p, task.row, task.kv_head_begin * p.group_size + head, d, state.m, state.l, state.acc);
    }
  }
}

/// Called by all threads of a block when it has stored a task's partial states: the block that finds all
/// other splits done merges them. Counters return to 0, so that every launch finds them so.
/// One thread's atomic releases what the block stored ahead of the barrier, and acquires what the others did.
__device__ __forceinline__ void merge_if_last(const LayerParams& p, const DeviceTask& task) {
  __shared__ bool is_last;
  __syncthreads();
  if (threadIdx.x == 0) {
    std::int32_t* finished = p.finished + static_cast<std::int64_t>(task.row) * p.num_kv_heads + task.kv_head_begin;
    is_last = add_acquire_release(finished, 1) == task.slot_stride - 1;
    if (is_last) {
      *finished = 0;
    }
  }
  __syncthreads();
  if (is_last) {
    merge_group(p, task);
  }
}

}  // namespace pkv::cuda
