// The one list of tensor-core instantiations:
// X(width, head_dim, matrices, head split, warps, stages, blocks an SM, products of 16 tokens a tile).
// Not here: what the columns mean (decode.cuh), the choice between them (launch.cc, cost/gpu_kernels.cc).
//
// Query heads per KV head: 8 * matrices * head split. Every class of head dimension and group has two to four kernels,
// the subset of up to eighteen that was fastest on 642 steps (docs/decisions/0005-cuda-backend.md): from one block that
// has an SM to itself (kWide) to eleven that share it, 64 to 200 KB in flight. On GPUs with 100 KB of shared memory
// (compute capability 8.6, 8.9, 12.0) those of up to 99 KB serve.
#pragma once

#define PKV_DECODE_D64(X)          \
  X(kWide, 64, 1, 1, 16, 2, 1, 1)  \
  X(kMedium, 64, 1, 1, 8, 2, 3, 1) \
  X(kNarrow, 64, 1, 1, 4, 2, 4, 1) \
  X(kSlim, 64, 1, 1, 4, 2, 6, 1)   \
  X(kWide, 64, 2, 1, 8, 2, 2, 1)   \
  X(kMedium, 64, 2, 1, 4, 2, 2, 2) \
  X(kNarrow, 64, 2, 1, 4, 2, 3, 2) \
  X(kWide, 64, 2, 2, 8, 2, 1, 2)   \
  X(kMedium, 64, 4, 1, 4, 2, 2, 2) \
  X(kNarrow, 64, 2, 2, 4, 2, 3, 2)
#define PKV_DECODE_D128(X)          \
  X(kWide, 128, 1, 1, 8, 2, 1, 1)   \
  X(kMedium, 128, 1, 1, 4, 2, 2, 1) \
  X(kNarrow, 128, 1, 1, 4, 2, 3, 1) \
  X(kSlim, 128, 1, 1, 1, 2, 11, 1)  \
  X(kWide, 128, 2, 1, 8, 2, 1, 1)   \
  X(kMedium, 128, 2, 1, 4, 2, 2, 1) \
  X(kNarrow, 128, 2, 1, 4, 2, 3, 1) \
  X(kSlim, 128, 2, 1, 2, 2, 6, 1)   \
  X(kWide, 128, 2, 2, 8, 2, 1, 2)   \
  X(kMedium, 128, 2, 2, 8, 2, 1, 1) \
  X(kNarrow, 128, 1, 4, 8, 2, 2, 1) \
  X(kSlim, 128, 2, 2, 4, 2, 3, 1)
#define PKV_DECODE_D256(X)          \
  X(kWide, 256, 1, 1, 4, 2, 1, 1)   \
  X(kMedium, 256, 1, 1, 4, 1, 2, 1) \
  X(kNarrow, 256, 1, 1, 4, 1, 3, 1) \
  X(kSlim, 256, 1, 1, 2, 1, 6, 1)   \
  X(kWide, 256, 1, 2, 8, 2, 1, 1)   \
  X(kMedium, 256, 2, 1, 4, 1, 2, 1) \
  X(kNarrow, 256, 1, 2, 4, 2, 3, 1) \
  X(kWide, 256, 2, 2, 8, 2, 1, 1)   \
  X(kMedium, 256, 1, 4, 8, 2, 1, 1)
