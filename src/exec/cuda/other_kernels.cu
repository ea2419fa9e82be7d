// The kernels of which there is one a type or one at all: simple decode, merge, page reads.
// Not here: tensor-core decode (inst/).
#include "exec/cuda/kernels.h"
#include "exec/cuda/merge.cuh"
#include "exec/cuda/simple.cuh"

namespace pkv::cuda {
namespace {

/// A unit is a (merge range, query head, 4 kLanes dimensions); it has kUnitWarps warps of a block of kUnits units, each
/// thread kBatch splits at once. With many units and few splits a warp a unit is enough, and the fewer blocks all start
/// beside the decode kernel's. The bound of one block an SM: without it ptxas spills to save registers.
template <int kUnits, int kUnitWarps, int kLanes, int kBatch>
__global__ void __launch_bounds__(32 * kUnits * kUnitWarps, 1)
    merge_splits_kernel(const __grid_constant__ LayerParams p) {
  static_assert(kUnits == 1 || kUnitWarps == 1);
  static_assert(kLanes * 4 % kMergeDims == 0);
  constexpr int kWarpWays = 32 / kLanes;
  constexpr int kWays = kUnitWarps * kWarpWays;
  __shared__ float4 warp_accs[kUnitWarps][kLanes];
  __shared__ float2 warp_mls[kUnitWarps];
  start_dependents();
  const int place = static_cast<int>(threadIdx.x) / (32 * kUnitWarps);  // of the unit in the block
  const int unit = static_cast<int>(blockIdx.x) * kUnits + place;
  const int parts = (p.head_dim + 4 * kLanes - 1) / (4 * kLanes);
  const int q_head = unit / parts % p.num_q_heads;
  const int range_idx = unit / (parts * p.num_q_heads);
  const DeviceMerge range = range_idx < p.num_merges ? p.merges[range_idx] : DeviceMerge{};
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int way = static_cast<int>(threadIdx.x) % (32 * kUnitWarps) / kLanes;
  const int kv_head = q_head / p.group_size;
  const int slot_begin = range.slot_begin + kv_head * range.num_splits;
  const int d = (unit % parts * kLanes + lane) * 4;
  if (range.num_splits == 0) {  // the output depends on no state, but may be in use yet
    wait_for_predecessor();
  }
  if (range.row < 0) {
    return;  // all threads of the unit
  }
  const int group_idx = q_head - kv_head * p.group_size;
  MergeState state = join_splits<kBatch, true>(p, slot_begin, group_idx, range.num_splits, way, kWays, d, lane == 0);
  __syncwarp();  // all lanes of a split have read its (m, l)
  clear_splits(p, slot_begin, group_idx, range.num_splits, way, kWays, d);
  state = join_ways<kLanes>(state);
  if constexpr (kUnitWarps > 1) {
    const int warp = way / kWarpWays;
    if (way % kWarpWays == 0) {
      warp_accs[warp][lane] = state.acc;
      warp_mls[warp] = make_float2(state.m, state.l);
    }
    __syncthreads();
    if (way == 0) {
      float2 ml[kUnitWarps];
      float4 acc[kUnitWarps];
#pragma unroll
      for (int w = 0; w < kUnitWarps; ++w) {
        ml[w] = warp_mls[w];
        acc[w] = warp_accs[w][lane];
      }
      state = join(ml, acc);
    }
  }
  if (way == 0 && d < p.head_dim) {
    finish_head(p, range.row, q_head, d, state.m, state.l, state.acc);
  }
  // Whoever comes next waits for this kernel only: what the decode kernel does beyond partial states must be done, too.
  if (range.all_split == 0) {
    wait_for_predecessor();
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

template <int kUnits, int kUnitWarps, int kLanes, int kBatch>
MergeEntry merge_entry(const char* name, std::int32_t blocks_per_sm) {
  return {
      .kernel = {.name = name,
                 .function = reinterpret_cast<const void*>(&merge_splits_kernel<kUnits, kUnitWarps, kLanes, kBatch>),
                 .threads = 32 * kUnits * kUnitWarps,
                 .shared_bytes = 0,
                 .blocks_per_sm = blocks_per_sm},
      .units_per_block = kUnits,
      .unit_dims = 4 * kLanes,
      .splits_at_once = kUnitWarps * 32 / kLanes * kBatch};
}

std::span<const MergeEntry> merge_kernels() {
  static const MergeEntry entries[] = {
      merge_entry<4, 1, 16, 4>("merge u4 w1 d64 b4", 7), merge_entry<4, 1, 8, 4>("merge u4 w1 d32 b4", 7),
      merge_entry<1, 4, 16, 8>("merge u1 w4 d64 b8", 5), merge_entry<1, 8, 16, 8>("merge u1 w8 d64 b8", 2)};
  return entries;
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
