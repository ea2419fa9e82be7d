// Merging the partial states of a (row, query head): by a kernel of its own, or by the last task to finish.
// Not here: how states are written (output.cuh).
//
// Maths: m = max m_s, l = sum exp(m_s - m) l_s, acc = sum exp(m_s - m) acc_s over the splits s, in an
// order that depends on their number and the kernel: the same bits every time.
// Traffic: (head_dim + 2 * merge_parts) * 4 bytes a split, from the L2. A round is one trip of latency, and mostly
// all of a merge, so that every load is issued before the first is used: a unit has 32 or 64 dimensions of a head, and
// quarters or halves of its warps share the splits, four or eight loads each.
//
// Arrival. The merge kernel starts while decode kernels run and does not wait for their end, which costs a microsecond
// more than their last store. Words of partial states are kAbsent until they are written, and become so again when they
// have been read: elements by the one thread that reads them, (m, l) by the first of the lanes that do; a reader asks
// again until all its words are there. Its blocks start when all of the decode kernel have passed their wait: no states
// of the layer ahead are left, and after kMaxPolls it can wait for the end. Words need no order, so there is no fence.
#pragma once

#include "exec/cuda/output.cuh"
#include "exec/cuda/params.h"

namespace pkv::cuda {

inline constexpr int kMaxPolls = 256;    // that come to nothing
inline constexpr unsigned kPollNs = 64;  // between two of await_state

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

/// The states that every kLanes lanes of a warp hold become one, in the order of the first lanes there. By all threads
/// of a warp.
template <int kLanes>
__device__ __forceinline__ MergeState join_ways(MergeState state) {
#pragma unroll
  for (int distance = kLanes; distance < 32; distance *= 2) {
    const auto other = [&](float value) { return __shfl_xor_sync(0xFFFFFFFFU, value, distance); };
    const float2 ml[2] = {make_float2(state.m, state.l), make_float2(other(state.m), other(state.l))};
    const float4 acc[2] = {state.acc,
                           make_float4(other(state.acc.x), other(state.acc.y), other(state.acc.z), other(state.acc.w))};
    state = join(ml, acc);
  }
  return state;
}

/// Where elements [d, d + 4) of a split's state and their copy of (m, l) lie.
struct StateAddress {
  float* acc;
  float* ml;

  __device__ StateAddress(const LayerParams& p, std::int32_t slot, std::int32_t group_idx, int d) {
    const std::int64_t state = static_cast<std::int64_t>(slot) * p.group_size + group_idx;
    acc = p.partial_acc + state * p.head_dim + d;
    ml = p.partial_ml + (state * p.merge_parts + d / kMergeDims) * 2;
  }
};

static_assert(kAbsent == 0xFFFFFFFFU, "the largest word");
/// The largest word of many tells whether one is absent: no branch or predicate a word, between which the compiler
/// would spread the loads, and wait for each few.
__device__ __forceinline__ std::uint32_t largest_word(const float2& words) {
  return max(__float_as_uint(words.x), __float_as_uint(words.y));
}
__device__ __forceinline__ std::uint32_t largest_word(const float4& words) {
  return max(max(__float_as_uint(words.x), __float_as_uint(words.y)),
             max(__float_as_uint(words.z), __float_as_uint(words.w)));
}

/// What is worked out from `value` is worked out anew where this stands.
__device__ __forceinline__ void keep_from_hoisting(std::int32_t& value) { asm volatile("" : "+r"(value)); }

/// By one thread of those that need a state: asks for it now and then, which leaves the decode kernel alone.
__device__ __forceinline__ void await_state(const float* ml) {
#pragma unroll 1
  for (int i = 0; i < kMaxPolls && largest_word(load_relaxed_2(ml)) == kAbsent; ++i) {
    __nanosleep(kPollNs);
  }
}

/// The splits first, first + stride, ... of a head's states, elements [d, d + 4), kBatch at once; kArriving: as soon as
/// they are there. Then by all threads of a warp, of which one of those with the same `first` (`leads`) first asks for
/// their last split now and then.
template <int kBatch, bool kArriving>
__device__ __forceinline__ MergeState join_splits(const LayerParams& p, std::int32_t slot_begin, std::int32_t group_idx,
                                                  std::int32_t num_splits, int first, int stride, int d,
                                                  bool leads = false) {
  MergeState state;
  const StateAddress begin(p, slot_begin + first, group_idx, d);
  const float* acc_at = begin.acc;
  const float* ml_at = begin.ml;
  std::int32_t acc_step = stride * p.group_size * p.head_dim;
  std::int32_t ml_step = stride * p.group_size * p.merge_parts * 2;
  const bool has_any = first < num_splits && d < p.head_dim;
  const int count = has_any ? (num_splits - first - 1) / stride + 1 : 0;
  if constexpr (kArriving) {
    if (leads && has_any) {
      await_state(ml_at + (count - 1) * ml_step);
    }
    __syncwarp();
  }
  for (int left = count; left > 0; left -= kBatch) {
    float2 ml[kBatch];
    float4 acc[kBatch];
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      ml[b] = make_float2(-INFINITY, 0.0F);
      acc[b] = make_float4(0.0F, 0.0F, 0.0F, 0.0F);
      if (b < left) {
        ml[b] = load_relaxed_2(ml_at + b * ml_step);
        acc[b] = load_relaxed_4(acc_at + b * acc_step);
      }
    }
    if constexpr (kArriving) {
#pragma unroll 1
      for (int tries = 0; tries <= kMaxPolls; ++tries) {
        std::uint32_t largest[kBatch];
        std::uint32_t largest_of_all = 0;
#pragma unroll
        for (int b = 0; b < kBatch; ++b) {
          largest[b] = max(largest_word(ml[b]), largest_word(acc[b]));
          largest_of_all = max(largest_of_all, largest[b]);
        }
        if (largest_of_all != kAbsent) {
          break;
        }
        if (tries == kMaxPolls) {
          wait_for_predecessor();
        }
        keep_from_hoisting(acc_step);  // else every address has registers of its own through the loop
        keep_from_hoisting(ml_step);
#pragma unroll
        for (int b = 0; b < kBatch; ++b) {
          if (largest[b] == kAbsent) {
            ml[b] = load_relaxed_2(ml_at + b * ml_step);
            acc[b] = load_relaxed_4(acc_at + b * acc_step);
          }
        }
      }
    }
    const MergeState batch = join(ml, acc);
    const float2 two[2] = {make_float2(state.m, state.l), make_float2(batch.m, batch.l)};
    const float4 accs[2] = {state.acc, batch.acc};
    state = join(two, accs);
    acc_at += kBatch * acc_step;
    ml_at += kBatch * ml_step;
  }
  return state;
}

/// Behind join_splits of all threads that read the same (m, l): makes the states absent again.
__device__ __forceinline__ void clear_splits(const LayerParams& p, std::int32_t slot_begin, std::int32_t group_idx,
                                             std::int32_t num_splits, int first, int stride, int d) {
  const float absent = __uint_as_float(kAbsent);
  for (int s = first; s < num_splits && d < p.head_dim; s += stride) {
    const StateAddress at(p, slot_begin + s, group_idx, d);
    store_relaxed(at.acc, make_float4(absent, absent, absent, absent));
    if (d % kMergeDims == 0) {
      store_relaxed(at.ml, make_float2(absent, absent));
    }
  }
}

/// The whole of a (row, KV head) by one block, after its last split: each thread a head and 4 elements. One
/// split at a time: decode kernels have no registers for more.
__device__ __forceinline__ void merge_group(const LayerParams& p, std::int32_t row, std::int32_t kv_head,
                                            std::int32_t slot_begin, std::int32_t num_splits) {
  const int quads = p.head_dim / 4;
  const auto for_each_quad = [&](auto visit) {
    for (int i = static_cast<int>(threadIdx.x); i < p.group_size * quads; i += static_cast<int>(blockDim.x)) {
      const int head = i / quads;
      visit(head, (i - head * quads) * 4);
    }
  };
  for_each_quad([&](int head, int d) {
    const MergeState state = join_splits<1, false>(p, slot_begin, head, num_splits, 0, 1, d);
    finish_head(p, row, kv_head * p.group_size + head, d, state.m, state.l, state.acc);
  });
  __syncthreads();
  for_each_quad([&](int head, int d) { clear_splits(p, slot_begin, head, num_splits, 0, 1, d); });
}

/// Not inlined: kernels for large head dimensions would spill on 10.0, and one whose heads are divided over four warps
/// on 8.0; those with few registers a thread spill around a call instead.
static __device__ __noinline__ void call_merge_group(const LayerParams& p, std::int32_t row, std::int32_t kv_head,
                                                     std::int32_t slot_begin, std::int32_t num_splits) {
  merge_group(p, row, kv_head, slot_begin, num_splits);
}

/// Called by all threads of a block when it has stored a task's partial states: the block that finds all
/// other splits done merges them. Counters return to 0, so that every launch finds them so.
template <bool kCall>
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
    if constexpr (kCall) {
      call_merge_group(p, task.row, task.kv_head_begin, task.first_slot, task.slot_stride);
    } else {
      merge_group(p, task.row, task.kv_head_begin, task.first_slot, task.slot_stride);
    }
  }
}

}  // namespace pkv::cuda
