// The kernels of which there is one a type or one at all: simple decode, merge, page reads.
// Not here: tensor-core decode (inst/).
#include "exec/cuda/kernels.h"
#include "exec/cuda/merge.cuh"
#include "exec/cuda/simple.cuh"

namespace pkv::cuda {
namespace {

/// The other half warp's state of the same elements joins; both then hold the sum.
__device__ __forceinline__ void add_other_way(MergeState& state) {
#pragma unroll
  for (int offset = kMergeLanes; offset < 32; offset *= 2) {
    const auto from = [&](float value) { return __shfl_xor_sync(0xFFFFFFFFU, value, offset); };
    const float4 acc = make_float4(from(state.acc.x), from(state.acc.y), from(state.acc.z), from(state.acc.w));
    state.add(from(state.m), from(state.l), acc);
  }
}

/// One block a (merge range, query head, 64 dimensions).
__global__ void __launch_bounds__(kMergeThreads) merge_kernel_of_splits(const __grid_constant__ LayerParams p) {
  __shared__ float4 accs[kMergeWarps][kMergeLanes];
  __shared__ float2 mls[kMergeWarps];
  start_dependents();
  const int parts = (p.head_dim + kMergeDims - 1) / kMergeDims;
  const int unit = static_cast<int>(blockIdx.x) / parts;
  const int q_head = unit % p.num_q_heads;
  const DeviceMerge range = p.merges[unit / p.num_q_heads];
  wait_for_predecessor();
  if (range.row < 0) {
    return;
  }
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int kv_head = q_head / p.group_size;
  const int slot_begin = range.slot_begin + kv_head * range.num_splits;
  const int d = (static_cast<int>(blockIdx.x) % parts) * kMergeDims + lane % kMergeLanes * 4;
  MergeState state;
  add_splits(p, slot_begin, q_head - kv_head * p.group_size, range.num_splits,
             warp * kMergeWays + lane / kMergeLanes, kMergeWarps * kMergeWays, d, state);
  add_other_way(state);
  if (lane < kMergeLanes) {
    accs[warp][lane] = state.acc;
    if (lane == 0) {
      mls[warp] = make_float2(state.m, state.l);
    }
  }
  __syncthreads();
  if (warp == 0 && lane < kMergeLanes && d < p.head_dim) {
    MergeState all;
#pragma unroll
    for (int w = 0; w < kMergeWarps; ++w) all.add(mls[w].x, mls[w].y, accs[w][lane]);
    finish_head(p, range.row, q_head, d, all.m, all.l, all.acc);
  }
}

/// Pages are dealt to blocks in runs of four; a block reads K and V of all four at once.
__global__ void __launch_bounds__(256) read_pages_kernel(const __grid_constant__ PageReadParams p) {
  std::uint32_t folded = 0;
  const int words = p.read_bytes / 16;
  for (std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * 4; first < p.num_page_ids;
       first += static_cast<std::int64_t>(gridDim.x) * 4) {
    for (int w = static_cast<int>(threadIdx.x); w < words; w += 256) {
      uint4 values[8];
#pragma unroll
      for (int u = 0; u < 4; ++u) {
        const std::int64_t i = min(first + u, p.num_page_ids - 1);
        const std::int64_t id = p.page_ids[i];
        values[u] = __ldg(reinterpret_cast<const uint4*>(static_cast<const char*>(p.k) + id * p.k_page_bytes) + w);
        values[u + 4] = __ldg(reinterpret_cast<const uint4*>(static_cast<const char*>(p.v) + id * p.v_page_bytes) + w);
      }
#pragma unroll
      for (int u = 0; u < 8; ++u) folded ^= values[u].x ^ values[u].y ^ values[u].z ^ values[u].w;
    }
  }
  if (folded == 0x12345678U) {  // practically never: it only keeps the loads
    *p.sink = folded;
  }
}

template <typename T>
KernelEntry simple_entry(const char* name, ElementType type) {
  return {.name = name,
          .function = reinterpret_cast<const void*>(&simple_decode_kernel<T>),
          .threads = kSimpleThreads,
          .shared_bytes = 0,
          .blocks_per_sm = 1,
          .type = type,
          .max_head_dim = 32 * kMaxElementsPerLane,
          .max_group_size = 64};
}

}  // namespace

const KernelEntry& simple_kernel(ElementType type) {
  static const KernelEntry entries[] = {simple_entry<float>("simple f32", ElementType::kF32),
                                        simple_entry<__half>("simple f16", ElementType::kF16),
                                        simple_entry<__nv_bfloat16>("simple bf16", ElementType::kBF16)};
  return entries[static_cast<int>(type)];
}

const KernelEntry& merge_kernel() {
  static const KernelEntry entry = {.name = "merge",
                                    .function = reinterpret_cast<const void*>(&merge_kernel_of_splits),
                                    .threads = kMergeThreads,
                                    .shared_bytes = 0,
                                    .blocks_per_sm = 4};
  return entry;
}

const KernelEntry& page_read_kernel() {
  static const KernelEntry entry = {.name = "page read",
                                    .function = reinterpret_cast<const void*>(&read_pages_kernel),
                                    .threads = 256,
                                    .shared_bytes = 0,
                                    .blocks_per_sm = 4};
  return entry;
}

}  // namespace pkv::cuda
