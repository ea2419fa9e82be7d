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

inline constexpr int kMergeWarps = 4;
inline constexpr int kMergeThreads = 32 * kMergeWarps;
inline constexpr int kMergeBatch = 8;
inline constexpr int kMergeLanes = kMergeDims / 4;      // that hold a split's elements
inline constexpr int kMergeWays = 32 / kMergeLanes;     // splits that a warp reads at once

struct MergeState {
  float m = -INFINITY;
  float l = 0.0F;
  float4 acc = make_float4(0.0F, 0.0F, 0.0F, 0.0F);

  __device__ void add(float other_m, float other_l, const float4& other_acc) {
    const float top = fmaxf(m, other_m);
    const float mine = weight(m, top);
    const float theirs = weight(other_m, top);
    m = top;
    l = mine * l + theirs * other_l;
    acc = make_float4(mine * acc.x + theirs * other_acc.x, mine * acc.y + theirs * other_acc.y,
                      mine * acc.z + theirs * other_acc.z, mine * acc.w + theirs * other_acc.w);
  }
};

/// Adds the splits first, first + stride, ... of a head's states, elements [d, d + 4).
__device__ __forceinline__ void add_splits(const LayerParams& p, std::int32_t slot_begin, std::int32_t group_idx,
                                           std::int32_t num_splits, int first, int stride, int d, MergeState& state) {
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
#pragma unroll
    for (int b = 0; b < kMergeBatch; ++b) state.add(ml[b].x, ml[b].y, acc[b]);
  }
}

/// The whole of a (row, KV head) by one block, after its last split: each thread a head and 4 elements.
__device__ __forceinline__ void merge_group(const LayerParams& p, std::int32_t row, std::int32_t kv_head,
                                            std::int32_t slot_begin, std::int32_t num_splits) {
  const int quads = p.head_dim / 4;
  for (int i = static_cast<int>(threadIdx.x); i < p.group_size * quads; i += static_cast<int>(blockDim.x)) {
    const int head = i / quads;
    const int d = (i - head * quads) * 4;
    MergeState state;
    add_splits(p, slot_begin, head, num_splits, 0, 1, d, state);
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
