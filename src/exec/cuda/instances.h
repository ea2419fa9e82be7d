// The one list of tensor-core instantiations:
// X(width, head_dim, matrices, head split, warps, stages, blocks an SM, products of 16 tokens a tile).
// Not here: what the columns mean (decode.cuh), the choice between them (launch.cc, cost/gpu_kernels.cc).
//
// Query heads per KV head: 8 * matrices * head split. Every class of head dimension and group has a wide kernel,
// whose rings of 64 to 128 KB fill an SM; the others divide an SM among tasks (KernelWidth says what for). On GPUs
// with 100 KB of shared memory (compute capability 8.6, 8.9, 12.0) the narrower ones serve; head dimensions above
// 128 in groups above 16 have none there, and the simple kernel serves them.
#pragma once

#define PKV_DECODE_D64(X)           \
  X(kWide, 64, 1, 1, 16, 2, 1, 1)   \
  X(kHalf, 64, 1, 1, 8, 2, 2, 1)    \
  X(kQuarter, 64, 1, 1, 2, 2, 5, 2) \
  X(kSingle, 64, 1, 1, 1, 1, 16, 2) \
  X(kWide, 64, 2, 1, 8, 2, 1, 2)    \
  X(kHalf, 64, 2, 1, 4, 2, 2, 2)    \
  X(kSingle, 64, 2, 1, 1, 1, 12, 2) \
  X(kWide, 64, 4, 1, 8, 2, 1, 2)    \
  X(kHalf, 64, 4, 1, 4, 2, 2, 2)    \
  X(kSingle, 64, 2, 2, 2, 1, 6, 2)
#define PKV_DECODE_D128(X)           \
  X(kWide, 128, 1, 1, 8, 2, 1, 1)    \
  X(kHalf, 128, 1, 1, 4, 2, 2, 1)    \
  X(kQuarter, 128, 1, 1, 2, 2, 4, 1) \
  X(kSingle, 128, 1, 1, 1, 1, 16, 1)  \
  X(kWide, 128, 2, 1, 8, 2, 1, 1)    \
  X(kHalf, 128, 2, 1, 4, 2, 2, 1)    \
  X(kSingle, 128, 2, 1, 1, 1, 12, 1)  \
  X(kWide, 128, 2, 2, 8, 2, 1, 2)    \
  X(kHalf, 128, 2, 2, 4, 2, 2, 1)   \
  X(kSingle, 128, 2, 2, 2, 2, 4, 1)
#define PKV_DECODE_D256(X)          \
  X(kWide, 256, 1, 1, 8, 1, 1, 1)   \
  X(kHalf, 256, 1, 1, 2, 2, 2, 1)   \
  X(kSingle, 256, 1, 1, 1, 1, 12, 1) \
  X(kWide, 256, 1, 2, 8, 1, 1, 2)   \
  X(kHalf, 256, 1, 2, 4, 2, 2, 1)   \
  X(kSingle, 256, 1, 2, 2, 1, 6, 1) \
  X(kWide, 256, 1, 4, 8, 2, 1, 2)   \
  X(kHalf, 256, 1, 4, 4, 2, 2, 1)   \
  X(kSingle, 256, 1, 4, 4, 1, 3, 1)
