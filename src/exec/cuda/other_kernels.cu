// The kernels of which there is one a type or one at all: simple decode, merge, page reads.
// Not here: tensor-core decode (inst/).
#include "exec/cuda/kernels.h"
#include "exec/cuda/merge.cuh"
#include "exec/cuda/simple.cuh"

namespace pkv::cuda {
namespace {

/// A unit is a (merge range, query head, 64 dimensions); it has kUnitWarps warps of a block of kUnits units. With many
/// units and few splits a warp a unit is enough, and the fewer blocks all start beside the decode kernel's.
template <int kUnits, int kUnitWarps>
__global__ void __launch_bounds__(32 * kUnits * kUnitWarps) merge_splits_kernel(const __grid_constant__ LayerParams p) {
  static_assert(kUnits == 1 || kUnitWarps == 1);
  constexpr int kWays = kUnitWarps * kMergeWays;
  __shared__ float4 all_accs[kUnits][kWays][kMergeLanes];
  __shared__ float2 all_mls[kUnits][kWays];
  start_dependents();
  const int place = static_cast<int>(threadIdx.x) / (32 * kUnitWarps);  // of the unit in the block
  const int unit = static_cast<int>(blockIdx.x) * kUnits + place;
  const int q_head = unit / p.merge_parts % p.num_q_heads;
  const int range_idx = unit / (p.merge_parts * p.num_q_heads);
  const DeviceMerge range = range_idx < p.num_merges ? p.merges[range_idx] : DeviceMerge{};
  const int lane = static_cast<int>(threadIdx.x) % kMergeLanes;
  const int way = static_cast<int>(threadIdx.x) % (32 * kUnitWarps) / kMergeLanes;
  const int kv_head = q_head / p.group_size;
  const int slot_begin = range.slot_begin + kv_head * range.num_splits;
  const int d = unit % p.merge_parts * kMergeDims + lane * 4;
  if (range.num_splits == 0) {  // the output depends on no state, but may be in use yet
    wait_for_predecessor();
  }
  if (range.row < 0) {
    return;  // all threads of the unit
  }
  const int group_idx = q_head - kv_head * p.group_size;
  if (lane == 0 && way < range.num_splits) {
    await_state(StateAddress(p, slot_begin + (range.num_splits - 1 - way) / kWays * kWays + way, group_idx, d));
  }
  __syncwarp();
  const MergeState state = join_splits<kMergeBatch, true>(p, slot_begin, group_idx, range.num_splits, way, kWays, d);
  auto& accs = all_accs[place];
  auto& mls = all_mls[place];
  accs[way][lane] = state.acc;
  if (lane == 0) {
    mls[way] = make_float2(state.m, state.l);
  }
  if constexpr (kUnitWarps == 1) {
    __syncwarp();
  } else {
    __syncthreads();
  }
  if (way == 0 && d < p.head_dim) {
    float2 ml[kWays];
    float4 acc[kWays];
#pragma unroll
    for (int w = 0; w < kWays; ++w) {
      ml[w] = mls[w];
      acc[w] = accs[w][lane];
    }
    const MergeState all = join(ml, acc);
    finish_head(p, range.row, q_head, d, all.m, all.l, all.acc);
  }
  clear_splits(p, slot_begin, group_idx, range.num_splits, way, kWays, d);
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

template <int kUnits, int kUnitWarps>
MergeEntry merge_entry(const char* name) {
  return {.kernel = {.name = name,
                     .function = reinterpret_cast<const void*>(&merge_splits_kernel<kUnits, kUnitWarps>),
                     .threads = 32 * kUnits * kUnitWarps,
                     .shared_bytes = 0,
                     .blocks_per_sm = 3},
          .units_per_block = kUnits};
}

// The one with the fewest warps that asks for all splits in one round of loads, if that can be.
const MergeEntry& merge_kernel(std::int32_t max_splits) {
  static const MergeEntry few = merge_entry<4, 1>("merge u4 w1");
  static const MergeEntry more = merge_entry<1, 4>("merge u1 w4");
  static const MergeEntry many = merge_entry<1, 8>("merge u1 w8");
  const auto fits = [&](std::int32_t warps) { return max_splits <= warps * kMergeWays * kMergeBatch; };
  return fits(1) ? few : fits(4) ? more : many;
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
