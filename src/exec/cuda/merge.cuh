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

/// The whole of a (row, KV head) by one block, after its last split: each thread a head and 4 elements.
__device__ __forceinline__ void merge_group(const LayerParams& p, std::int32_t row, std::int32_t kv_head,
                                            std::int32_t slot_begin, std::int32_t num_splits) {
  const int quads = p.head_dim / 4;
  for (int i = static_cast<int>(threadIdx.x); i < p.group_size * quads; i += static_cast<int>(blockDim.x)) {
    const int head = i / quads;
    const int d = (i - head * quads) * 4;
    const MergeState state = join_splits(p, slot_begin, head, num_splits, 0, 1, d);
    finish_head(p, row, kv_head * p.group_size + head, d, state.m, state.l, state.acc);
  }
}

/// Called by all threads of a block when it has stored a task's partial states: the block that finds all
/// other splits done merges them. Counters return to 0, so that every launch finds them so.
__device__ __forceinline__ void merge_if_last(const LayerParams& p, const DeviceTask& task) {
  __shared__ bool is_last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    std::int32_t* finished = p.finished + static_cast<std::int64_t>(task.row) * p.num_kv_heads + task.kv_head_begin;
    is_last = atomicAdd(finished, 1) == task.slot_stride - 1;
    if (is_last) {
      *finished = 0;
    }
  }
  __syncthreads();
  if (is_last) {
    __threadfence();
    merge_group(p, task.row, task.kv_head_begin, task.first_slot, task.slot_stride);
  }
}

}  // namespace pkv::cuda
