// The kernel around Decoder, and how an instantiation becomes a table entry.
// Not here: which instantiations there are (instances.h).
#pragma once

#include "exec/cuda/decode.cuh"
#include "exec/cuda/kernels.h"
#include "exec/cuda/merge.cuh"

namespace pkv::cuda {

template <class C>
__global__ void __launch_bounds__(C::kThreads, C::kBlocksPerSm) decode_kernel(const __grid_constant__ LayerParams p) {
  extern __shared__ __align__(128) unsigned char shared[];
  start_dependents();
  const DeviceTask task = p.tasks[blockIdx.x];
  if (task.row < 0) {
    return;
  }
  for (int kv_head = task.kv_head_begin; kv_head < task.kv_head_end; ++kv_head) {
    Decoder<C> decoder(p, task, kv_head, shared);
    decoder.begin();
    wait_for_predecessor();
    decoder.run();
    if (kv_head + 1 < task.kv_head_end) {
      __syncthreads();  // the next head's tiles go where this one's states are still being read
    }
  }
  if (p.finished != nullptr && task.slot_stride > 1) {
    merge_if_last(p, task);
  }
}

template <class C>
KernelEntry decode_entry(const char* name, ElementType type) {
  return {.name = name,
          .function = reinterpret_cast<const void*>(&decode_kernel<C>),
          .threads = C::kThreads,
          .shared_bytes = C::kSharedBytes,
          .blocks_per_sm = C::kBlocksPerSm,
          .type = type,
          .max_head_dim = C::kHeadDim,
          .max_group_size = C::kHeads};
}

}  // namespace pkv::cuda
