// The kernel around Decoder, and how an instantiation becomes a table entry.
// Not here: which instantiations there are (instances.h).
#pragma once

#include "exec/cuda/decode.cuh"
#include "exec/cuda/kernels.h"
#include "exec/cuda/merge.cuh"

namespace pkv::cuda {

/// Whether a block of the architecture being compiled can have that much shared memory.
template <class C>
inline constexpr bool kCanRun = C::kSharedBytes + 1024 <= shared_bytes_per_sm(kArch);

template <class C>
__global__ void __launch_bounds__(C::kThreads, blocks_that_fit(kArch, C::kSharedBytes, C::kBlocksPerSm))
    decode_kernel(const __grid_constant__ LayerParams p) {
  if constexpr (kCanRun<C>) {  // else never launched: find_mma_kernel passes it over
    extern __shared__ __align__(128) unsigned char shared[];
    DeviceTask task = p.tasks[blockIdx.x];
    if (task.row < 0) {  // a graph with more blocks than tasks
      wait_for_predecessor();
      return;
    }
    bool is_early = C::kTilesAhead > 0 && static_cast<std::int32_t>(blockIdx.x) < p.early_blocks;
    for (;; is_early = false) {
      Decoder<C> decoder(p, task, shared);
      const auto begin = [&] {
        wait_for_predecessor();
        start_dependents();  // not before: the merge kernel would take the states of the layer ahead
        decoder.copy_queries();
      };
      decoder.copy_first_ids();
      if (is_early) {
        decoder.find_first_tiles();
        begin();
        decoder.copy_found_tiles();
      } else {
        begin();
        decoder.copy_first_tiles();
      }
      decoder.run();
      if (task.kv_head_begin + 1 >= task.kv_head_end) {
        return;
      }
      task = next_head(task);
      wait_copies<0>();  // of page ids that no tile had: they may not arrive behind the next head's
      __syncthreads();   // the states have been read
    }
  }
}

template <class C>
KernelEntry decode_entry(const char* name, ElementType type, KernelWidth width) {
  return {.name = name,
          .function = reinterpret_cast<const void*>(&decode_kernel<C>),
          .threads = C::kThreads,
          .shared_bytes = C::kSharedBytes,
          .blocks_per_sm = C::kBlocksPerSm,
          .type = type,
          .width = width,
          .max_head_dim = C::kHeadDim,
          .max_group_size = C::kHeads};
}

}  // namespace pkv::cuda
